"""Faults of the decoding loop, planted in a port that shares no code with streamparity, must be found and named."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from streamparity.decisions import Recorded, Side
from streamparity.decisions.sides import decoded
from streamparity.decisions.trace import starts_of

from .tiny import Tiny, port

SEEDS = range(8)
FAULTS = {
    "twice": "predictor-fed-twice",
    "again": "predictor-fed-twice",
    "again-after-labels": "predictor-fed-twice",
    "advance-on-blank": "state-advanced-on-blank",
    "feed-blank": "state-advanced-on-blank",
    "lost": "last-label-lost",
    "lost-consumed": "last-label-lost",
    "lost-silent": "last-label-lost",
    "lost-silent-consumed": "last-label-lost",
    "state-reset": "state-not-carried",
    "state-reset-silent": "state-not-carried",
    "limit-2": "max-symbols-too-low",
    "unlimited": "max-symbols-unenforced",
    "start-0": "wrong-start-token",
    "start-5": "wrong-start-token",
    "start-zeros": "wrong-start-token",
    "fed-plus-1": "labels-shifted-by-one",
    "fed-minus-1": "labels-shifted-by-one",
    "plus-1": "labels-shifted-by-one",
    "minus-1": "labels-shifted-by-one",
    "blank-first": "labels-shifted-by-one",
}
OF_TDT = {
    "rnnt-rules": "durations-ignored",
    "one-by-one": "durations-ignored",
    "blank-durations": "durations-ignored",
    "label-durations": "durations-ignored",
    "jump-lost": "time-jump-lost",
    "stuck": "blank-duration-zero-stuck",
}
# What a trace betrays without any model.
ALONE = ("unlimited", "plus-1", "minus-1", "blank-first", *OF_TDT)
EVERY = [("rnnt", fault) for fault in FAULTS] + [("tdt", fault) for fault in (*FAULTS, *OF_TDT)]


def name_of(state) -> str:
    return hashlib.md5(b"".join(np.ascontiguousarray(part).tobytes() for part in state)).hexdigest()


@pytest.mark.parametrize(("kind", "fault"), EVERY)
def test_planted_fault_is_found_and_named(setting, kind, fault):
    code, effective = {**FAULTS, **OF_TDT}[fault], 0
    for seed in SEEDS:
        made = setting(seed, kind)
        lines, _ = port(made.model, made.rules, made.frames, fault)
        trace = made.read(lines)
        result = made.ask(trace)
        if result["first_difference"] is None and result["verdict"] == "pass":
            continue  # this recording does not meet the fault
        effective += 1
        assert result["verdict"] == "fail", seed
        codes = [finding["code"] for finding in result["diagnosis"]]
        assert code in codes[:2], (seed, codes)
        surest = result["diagnosis"][0]["confidence"]
        named = next(f["confidence"] for f in result["diagnosis"] if f["code"] == code)
        assert named == surest, (seed, [(f["code"], f["confidence"], f["message"]) for f in result["diagnosis"]])
        if fault in ALONE and (code != "labels-shifted-by-one" or len(set(made.recorded.trace.labels)) >= 3):
            alone = [finding["code"] for finding in made.ask(trace, model=False)["diagnosis"]]
            assert code in alone[:2], (seed, alone)
    assert effective >= 3


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_the_port_without_fault_is_right(setting, kind):
    for seed in SEEDS:
        made = setting(seed, kind)
        lines, _ = port(made.model, made.rules, made.frames, state_names=name_of)
        result = made.ask(made.read(lines))
        assert (result["verdict"], result["diagnosis"], result["first_difference"]) == ("pass", [], None), seed


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_state_names_alone_betray_a_state_that_moves_on_after_a_blank(setting, kind):
    made = setting(1, kind)
    lines, _ = port(made.model, made.rules, made.frames, "advance-on-blank", state_names=name_of)
    found = made.ask(made.read(lines), model=False)
    assert found["diagnosis"][0]["code"] == "state-advanced-on-blank"


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_state_not_reset_between_utterances(setting, kind):
    seen = 0
    for seed in SEEDS:
        made = setting(seed, kind)
        first, left = port(made.model, made.rules, made.frames, state_names=name_of)
        second, _ = port(made.model, made.rules, made.frames, begin=left, state_names=name_of)
        again, _ = port(made.model, made.rules, made.frames, state_names=name_of)
        sound = made.ask(made.read(first + [{**line, "utterance": 1} for line in again]))
        assert (sound["verdict"], sound["diagnosis"]) == ("pass", [])
        both = made.read(first + [{**line, "utterance": 1} for line in second])
        assert made.ask(both, model=False)["diagnosis"][0]["code"] == "state-not-reset"
        bare = made.read([{**line, "state": None} for line in second])
        result = made.ask(bare)
        if result["verdict"] == "fail":
            # One decoding alone: what an earlier decoding of the same recording leaves is tried.
            seen += 1
            assert result["diagnosis"][0]["code"] == "state-not-reset", seed
            unnamed = [{**line, "state": None} for line in first]
            unnamed += [{**line, "utterance": 1, "state": None} for line in second]
            assert made.ask(made.read(unnamed))["diagnosis"][0]["code"] == "state-not-reset", seed
    assert seen >= 3


def test_labels_alone_with_frames_counted_from_the_beginning_are_enough(setting):
    """The least that a port can write: frames without chunks, no blanks."""
    found = 0
    for seed in SEEDS:
        made = setting(seed, "rnnt")
        for fault, code in (("lost", "last-label-lost"), (None, None)):
            lines, _ = port(made.model, made.rules, made.frames, fault)
            least = [
                {"frame": made.recorded.starts[line["chunk"]] + line["frame"], "label": line["label"]}
                for line in lines
                if line["label"] != made.rules.blank_id
            ]
            if not least:
                continue
            result = made.ask(made.read(least))
            assert result["steps"]["compared"] == "labels"
            if fault is None:
                assert (result["verdict"], result["diagnosis"]) == ("pass", [])
            elif result["verdict"] == "fail":
                found += 1
                assert code in [f["code"] for f in result["diagnosis"]][:2]
    assert found >= 3


class Softmaxed(Tiny):
    """Its joint softmaxes over the ``heads`` given: ``together``, or each ``apart``."""

    heads = "together"

    def join(self, frame, prediction):
        scores = super().join(frame, prediction).astype(np.float64)
        labels = self.rules.labels
        parts = [scores] if self.heads == "together" else [scores[:labels], scores[labels:]]
        return np.concatenate([part - np.log(np.exp(part).sum()) for part in parts]).astype(np.float32)


def test_a_joint_softmaxed_across_heads_is_diagnosed_and_one_per_head_is_not(setting):
    made = setting(2, "tdt")
    for heads, codes in (("together", ["joint-softmaxed-across-heads"]), ("apart", [])):
        made.model.__class__, made.model.heads = Softmaxed, heads
        result = made.ask()
        # The argmax of each head is the same: decisions do not part.
        assert result["verdict"] == "pass"
        assert [f["code"] for f in result["diagnosis"]] == codes
        assert result["joint_softmaxed_together"] == {"reference": False, "candidate": heads == "together"}


def ctc_setting(setting, best):
    """A CTC stream whose best labels are known."""
    made = setting(0, "rnnt", vocabulary=5)
    made.rules = replace(made.rules, kind="ctc")
    rules = made.rules

    class Head:
        def scores(self, frames):
            return 4 * np.eye(rules.labels, dtype=np.float32)[frames[:, 0].astype(int)]

    made.model = Head()
    made.frames = [np.array(labels, np.float32).reshape(-1, 1) for labels in best]
    trace, rows = decoded(made.model, rules, made.frames)
    made.recorded = Recorded(made.frames, starts_of(map(len, made.frames)), trace, rows)
    return made


def ctc_port(made, fault=None):
    blank, lines, before = made.rules.blank_id, [], made.rules.blank_id
    for index, frames in enumerate(made.frames):
        before = blank if fault == "lost" else before
        for t, value in enumerate(frames[:, 0]):
            label = int(value)
            emit = label != blank and (label != before or fault == "repeats")
            lines.append({"chunk": index, "frame": t, "label": label, "emit": emit})
            before = label
    return lines


@pytest.mark.parametrize("columns", ["every frame", "labels emitted"])
@pytest.mark.parametrize(
    ("fault", "codes"), [(None, []), ("lost", ["last-label-lost"]), ("repeats", ["repeats-not-collapsed"])]
)
def test_ctc_collapsing(setting, fault, codes, columns):
    made = ctc_setting(setting, [[5, 0, 0], [0, 1, 5], [2], [2, 2, 5, 3], [3, 4, 0, 1]])
    lines = [line for line in ctc_port(made, fault) if line["emit"] or columns == "every frame"]
    result = made.ask(made.read(lines), model=False)
    assert [f["code"] for f in result["diagnosis"]] == codes
    assert result["verdict"] == ("fail" if codes else "pass")


def test_never_emits_and_repeated_token(setting):
    made = setting(1, "rnnt")
    blank = made.rules.blank_id
    frames = [(chunk, frame) for chunk, length in enumerate(map(len, made.frames)) for frame in range(length)]
    silent = [{"chunk": chunk, "frame": frame, "label": blank} for chunk, frame in frames]
    assert made.ask(made.read(silent))["diagnosis"][0]["code"] == "never-emits"
    stuck = [{"chunk": chunk, "frame": frame, "label": label} for chunk, frame in frames for label in (1, blank)]
    codes = [finding["code"] for finding in made.ask(made.read(stuck))["diagnosis"]]
    assert "repeated-token" in codes
    sound = made.ask()
    assert sound["diagnosis"] == []


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_a_right_loop_around_a_wrong_model_is_not_blamed(setting, kind):
    """Other encoder frames or another joint: decisions differ, and nothing is wrong with the loop."""
    differing = 0
    for seed in SEEDS:
        made = setting(seed, kind)
        frames = [frame + made.model.draw.normal(0, 1, frame.shape).astype(np.float32) for frame in made.frames]
        lines, _ = port(made.model, made.rules, frames)
        trace = made.read(lines)
        for more in ({"candidate": Side(frames, made.model)}, {"model": False, "reference_head": made.model}):
            result = made.ask(trace, **more)
            if result["verdict"] == "fail":
                differing += 1
                codes = {finding["code"] for finding in result["diagnosis"]}
                assert codes <= {"repeated-token"}, (seed, codes)  # which it may well do, whatever the cause
        result = made.ask(trace, candidate=Side(frames, made.model), reference_head=made.model)
        assert result["swap"]["cause"] in ([], ["encoder"])
    assert differing >= 8


def test_steps_without_log_sum_exps_are_left_out_of_the_softmax_symptom(setting):
    made = setting(2, "tdt")
    lines, _ = port(made.model, made.rules, made.frames)
    together = {"lse": -0.5, "duration_lse": float(np.log(1 - np.exp(-0.5)))}
    result = made.ask(made.read([lines[0], *({**line, **together} for line in lines[1:])]))
    found = next(f for f in result["diagnosis"] if f["code"] == "joint-softmaxed-across-heads")
    assert found["evidence"]["probability"] == pytest.approx(1)


def test_a_frame_too_many_at_the_boundary_is_no_lost_jump(setting):
    """A port that skips to a chunk's beginning where the rules go on in the one before."""
    tried = 0
    for seed in SEEDS:
        made = setting(seed, "tdt")
        lines, _ = port(made.model, made.rules, made.frames)
        # The last decision of a chunk is left out: the move to the next chunk is then too long, not too short.
        last = [
            place
            for place in range(1, len(lines) - 1)
            if lines[place]["chunk"] == lines[place - 1]["chunk"] < lines[place + 1]["chunk"]
            and lines[place + 1]["frame"] == 0
        ]
        for place in last[:2]:
            trace = made.read(lines[:place] + lines[place + 1 :])
            for model in (True, False):
                tried += 1
                codes = [finding["code"] for finding in made.ask(trace, model=model)["diagnosis"]]
                assert "time-jump-lost" not in codes, (seed, place)
    assert tried >= 8


def test_a_symptom_does_not_stand_against_its_own_rule_on_the_model(setting):
    seen = 0
    for seed in SEEDS:
        made = setting(seed, "tdt")
        lines, _ = port(made.model, made.rules, made.frames, "jump-lost")
        alone = [f["code"] for f in made.ask(made.read(lines), model=False)["diagnosis"]]
        if "time-jump-lost" not in alone:
            continue
        labels = [place for place, line in enumerate(lines) if line["label"] != made.rules.blank_id]
        for place in (labels[0], labels[-1]):  # a label that no rule of decoding makes of this model
            lines[place] = {**lines[place], "label": (lines[place]["label"] + 4) % made.rules.blank_id}
        trace = made.read(lines)
        assert "time-jump-lost" in [f["code"] for f in made.ask(trace, model=False)["diagnosis"]]
        result = made.ask(trace)
        assert result["verdict"] == "fail"
        sure = {f["code"] for f in result["diagnosis"] if f["confidence"] > 0.9}
        assert "time-jump-lost" not in sure
        seen += 1
    assert seen >= 3
