"""A near tie excuses itself and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamparity.decisions import Recorded, Side
from streamparity.decisions.sides import decoded
from streamparity.decisions.trace import starts_of

from .tiny import port

FAULTS = {
    "state-reset": "state-not-carried",
    "twice": "predictor-fed-twice",
    "lost": "last-label-lost",
    "unlimited": "max-symbols-unenforced",
}


def record(made):
    trace, rows = decoded(made.model, made.rules, made.frames)
    made.recorded = Recorded(made.frames, starts_of(map(len, made.frames)), trace, rows)


def tied(setting, seed, kind="rnnt"):
    """A model with two labels all but equal at an early decision, and the label that is second there."""
    made = setting(seed, kind)
    blank = made.rules.blank_id
    early = [place for place, step in enumerate(made.recorded.trace.steps[:6]) if step.label != blank]
    if not early:
        return None
    row = made.recorded.rows[early[0]][: made.rules.labels].astype(float)
    first = made.recorded.trace.steps[early[0]].label
    second = next(int(place) for place in np.argsort(-row) if place not in (first, blank))
    made.model.bias[second] += row[first] - row[second] - 3e-7
    record(made)
    return made, second


def leaning(made, second, fault=None):
    """What a port makes whose arithmetic puts the other label first."""
    made.model.bias[second] += np.float32(2e-6)
    lines, _ = port(made.model, made.rules, made.frames, fault)
    made.model.bias[second] -= np.float32(2e-6)
    return lines


def settings_with_a_tie(setting, kind="rnnt"):
    for seed in range(12):
        found = tied(setting, seed, kind)
        if found is not None:
            lines = leaning(*found)
            result = found[0].ask(found[0].read(lines))
            if result["first_difference"] and result["first_difference"]["kind"] == "near-tie":
                yield *found, lines, result


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
@pytest.mark.parametrize("columns", ["all", "labels"])
def test_a_port_that_only_takes_the_other_of_two_equals_passes(setting, kind, columns):
    seen = 0
    for made, _, lines, result in settings_with_a_tie(setting, kind):
        if columns == "labels":
            result = made.ask(made.read([line for line in lines if line["label"] != made.rules.blank_id]))
        assert (result["verdict"], result["first_difference"]["kind"]) == ("pass", "near-tie")
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_loop_behind_a_near_tie_fails_and_is_named(setting, fault):
    seen = 0
    for made, second, good, _ in settings_with_a_tie(setting):
        bad = leaning(made, second, fault)
        result = made.ask(made.read(bad))
        if bad == good or result["first_difference"]["kind"] != "near-tie":
            continue
        seen += 1
        assert result["verdict"] == "fail"
        assert any(objection.startswith("logic") for objection in result["objections"])
        assert result["diagnosis"][0]["code"] == FAULTS[fault]
    assert seen >= 3


def test_a_trace_that_ends_or_goes_wrong_behind_a_near_tie_fails(setting):
    for made, _, good, result in settings_with_a_tie(setting):
        kept = good[: result["first_difference"]["index"] + 1]
        frames = [(chunk, t) for chunk, length in enumerate(map(len, made.frames)) for t in range(length)]
        rest = [{"chunk": c, "frame": t, "label": 0} for c, t in frames if c > kept[-1]["chunk"]]
        for lines in (kept, kept + rest, good[:-1]):
            found = made.ask(made.read(lines))
            assert (found["verdict"], found["first_difference"]["kind"]) == ("fail", "near-tie")


@pytest.mark.parametrize("columns", ["every frame", "labels emitted"])
def test_ctc_behind_a_near_tie(setting, columns):
    made = setting(0, "rnnt", vocabulary=5)
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(6, 6)).astype(np.float32)

    class Head:
        def scores(self, frames):
            return (frames @ weights).astype(np.float32)

    made.rules, made.model = replace(made.rules, kind="ctc"), Head()
    made.frames = [draw.normal(size=(3, 6)).astype(np.float32) for _ in range(10)]
    first = made.frames[0][0] @ weights
    second, best = np.argsort(first)[-2:]
    apart = weights[:, best] - weights[:, second]
    made.frames[0][0] -= apart * (first[best] - first[second] - 1e-7) / (apart @ apart)
    record(made)
    labels = [step.label for step in made.recorded.trace.steps]
    other = int(second if labels[0] == best else best)

    def asked(labels):
        lines, before = [], made.rules.blank_id
        for step, label in zip(made.recorded.trace.steps, labels, strict=True):
            emit = label not in (made.rules.blank_id, before)
            if emit or columns == "every frame":
                lines.append({"chunk": step.chunk, "frame": step.frame, "label": label, "emit": emit})
            before = label
        return made.ask(made.read(lines), candidate=Side(made.frames, made.model))

    sound = asked([other, *labels[1:]])
    assert (sound["verdict"], sound["first_difference"]["kind"]) == ("pass", "near-tie")
    assert asked([other] + [0] * (len(labels) - 1))["verdict"] == "fail"


def test_a_coarse_encoder_explains_what_its_own_frames_move_and_no_more(setting):
    """Frames in half precision around a float32 joint."""
    seen = 0
    for made, second, _, _ in settings_with_a_tie(setting):
        draw = np.random.default_rng(1)
        frames = [(f * (1 + 5e-4 * draw.choice([-1, 1], f.shape))).astype(np.float32) for f in made.frames]
        sound = made.ask(candidate=Side(frames, made.model), arithmetic="float16")
        assert sound["forced"]["flips"] == 0
        if (found := sound["first_difference"]) is not None:
            seen += 1
            assert (sound["verdict"], found["kind"]) == ("pass", "near-tie")
            assert found["explained"] > found["allowed"]
        made.model.bias[second] += np.float32(2e-3)
        wrong = made.ask(candidate=Side(made.frames, made.model), arithmetic="float16")
        made.model.bias[second] -= np.float32(2e-3)
        assert (wrong["verdict"], wrong["first_difference"]["kind"]) == ("fail", "flip")
    assert seen >= 2


def test_what_the_trace_says_it_scored_counts_beside_the_model(setting):
    """The model given has a tie; the program that wrote the trace was sure, of another label."""
    seen = 0
    for made, second, _, _ in settings_with_a_tie(setting):

        def scored(by, made=made, second=second):
            made.model.bias[second] += np.float32(by)
            steps = decoded(made.model, made.rules, made.frames)[0].steps
            made.model.bias[second] -= np.float32(by)
            return made.read(
                [
                    {
                        "chunk": step.chunk,
                        "frame": step.frame,
                        "label": step.label,
                        "top": [{"label": choice.value, "logit": choice.logit} for choice in step.top],
                    }
                    for step in steps
                ]
            )

        sound = made.ask(scored(2e-6))
        assert (sound["verdict"], sound["first_difference"]["kind"]) == ("pass", "near-tie")
        result = made.ask(scored(5.0))
        found = result["first_difference"]
        assert (result["verdict"], found["kind"]) == ("fail", "flip")
        if found["candidate"]["label"] == second and found["reference"]["label"] != made.rules.blank_id:
            top = [choice["logit"] for choice in found["candidate"]["top"]]
            assert found["candidate_margin"] == pytest.approx(top[0] - top[1])
            seen += 1
    assert seen >= 3


def test_a_choice_that_its_own_model_scores_far_below_is_no_tie(setting):
    made, second, lines, result = next(settings_with_a_tie(setting))
    index = result["first_difference"]["index"]
    assert second in (step["label"] for step in (lines[index], result["first_difference"]["reference"]))
    made.model.bias[lines[index]["label"]] -= 5
    found = made.ask(made.read(lines))["first_difference"]
    assert (found["index"], found["kind"], found["candidate_margin"] < -4) == (index, "flip", True)


def test_scores_that_are_no_numbers_are_never_a_pass(setting):
    made = setting(1, "rnnt")
    steps = made.recorded.trace.steps
    lines = [{"chunk": s.chunk, "frame": s.frame, "label": s.label} for s in steps]
    unscored = [{**line, "top": [{"label": line["label"], "logit": float("nan")}], "lse": None} for line in lines]
    assert made.ask(made.read(lines))["verdict"] == "pass"
    assert made.ask(made.read(unscored))["verdict"] == "fail"
    made.model.bias[:] = np.nan
    record(made)
    result = made.ask()
    assert (result["verdict"], result["first_difference"]) == ("fail", None)
    assert sum("not numbers" in objection for objection in result["objections"]) == 3
