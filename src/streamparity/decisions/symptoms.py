"""What a trace betrays by itself, and beside the reference's: no model is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..dump.manifest import Decoder
from ..dump.trace import advance
from ..localize.finding import Finding
from .alignment import first_difference
from .hypotheses import blanks_on_a_frame, decisions_on_a_frame, shifts
from .simulation import FIX
from .trace import DecisionTrace, Step

FEWEST_LABELS = 3
LONG_RUN = 8
# What is only concluded from a trace, and does not stand where the candidate's own model, so decoded, makes another.
CONCLUDED = {"time-jump-lost", "durations-ignored", "state-advanced-on-blank", "last-label-lost"}
UNIT = 1e-3  # how far from 1 the probabilities of both heads together may be


def symptoms(reference: DecisionTrace, candidate: DecisionTrace, rules: Decoder) -> Iterator[Finding]:
    """Faults that the decisions show."""
    utterances = candidate.utterances() or [candidate]
    shifted = list(_shifted(reference, utterances[0], rules))
    yield from shifted
    if rules.kind == "ctc":
        yield from _collapsing(reference, utterances, rules)
    elif not shifted:  # else one cannot tell which label is the blank
        yield from _frames(utterances, rules, candidate)
        yield from _states(utterances, rules)
    yield from _normalisation(reference, candidate)
    yield from _reset(reference, utterances)
    yield from _degenerate(reference, candidate)


def _frames(utterances: Sequence[DecisionTrace], rules: Decoder, candidate: DecisionTrace) -> Iterator[Finding]:
    """Where decoding went, against where the rules lead."""
    longest, limit = decisions_on_a_frame(candidate), rules.max_symbols
    stuck = blanks_on_a_frame(candidate, rules)
    # Right after the last label allowed the frame is left; a guard against stuck blanks is another matter.
    if limit is not None and longest > limit and stuck < 2:
        message = f"{longest} decisions are made on one frame, where max_symbols {limit} ends it"
        yield _of("max-symbols-unenforced", 0.95, message, longest=longest, max_symbols=limit)
    if not candidate.whole:
        return
    if stuck > 1:
        message = f"a blank is decided up to {stuck} times on the same frame: it must move on by one at least"
        code = "blank-duration-zero-stuck" if rules.durations else "blank-does-not-advance"
        yield _of(code, 0.95, message, longest=stuck)
    if not rules.durations or any(step.duration is None for step in candidate.steps) or stuck > 1:
        return
    moves = [(a, b) for trace in utterances for a, b in pairwise(trace.steps)]
    wrong = [(a, b) for a, b in moves if b.at - a.at != advance(rules, a.label, a.duration, a.step + 1)]
    if not wrong:
        return
    evidence = {"moves": len(moves), "wrong": len(wrong), "first_chunk": wrong[0][0].chunk}

    def follow(blanks: bool, labels: bool) -> bool:
        """Whether durations are followed after blanks and labels just where it says so."""
        durations = [a.duration if (blanks if a.label == rules.blank_id else labels) else None for a, _ in moves]
        return all(
            b.at - a.at == advance(rules, a.label, duration, a.step + 1)
            for (a, b), duration in zip(moves, durations, strict=True)
        )

    ignored = "decoding does not move on by the durations"
    explanations = [
        ("durations-ignored", f"{ignored}, but as RNN-T does", follow(False, False)),
        ("durations-ignored", f"{ignored}, but by one frame", all(b.at - a.at == 1 for a, b in moves)),
        ("durations-ignored", f"{ignored} of blanks", follow(False, True)),
        ("durations-ignored", f"{ignored} of labels", follow(True, False)),
        (
            "time-jump-lost",
            "durations that lead past the end of a chunk are cut off there",
            all(_cut_off(a, b, rules) for a, b in wrong),
        ),
    ]
    first = {code: message for code, message, holds in reversed(explanations) if holds}
    for code, message in first.items():
        yield _of(code, 0.95 / len(first), message, **evidence)


def _cut_off(a: Step, b: Step, rules: Decoder) -> bool:
    """Whether a jump led past the chunk's end and the next decision is at the very beginning of a later one."""
    due = a.at + advance(rules, a.label, a.duration, a.step + 1)
    first = b.at - b.frame  # of the chunk gone to
    return b.chunk > a.chunk and b.frame == 0 and first < due


def _states(utterances: Sequence[DecisionTrace], rules: Decoder) -> Iterator[Finding]:
    """What the names of the predictor's states say."""
    moves = [(a, b) for trace in utterances for a, b in pairwise(trace.steps) if None not in (a.state, b.state)]
    after_blank = [(a, b) for a, b in moves if a.label == rules.blank_id]
    changed = [(a, b) for a, b in after_blank if a.state != b.state]
    if not changed:
        return
    evidence = {"after_blanks": len(after_blank), "changed": len(changed), "first_chunk": changed[0][0].chunk}
    if all(b.chunk > a.chunk for a, b in changed):
        yield _of(
            "last-label-lost",
            LIKELY_AT_BOUNDARY,
            "the predictor's state changes from chunk to chunk with no label between: the last label is lost there, or "
            "consumed again",
            **evidence,
        )
    else:
        yield _of("state-advanced-on-blank", 0.95, "the predictor's state changes after a blank", **evidence)


LIKELY_AT_BOUNDARY = 0.4


def _reset(reference: DecisionTrace, utterances: Sequence[DecisionTrace]) -> Iterator[Finding]:
    """Several decodings of the recording that are not alike."""
    if len(utterances) < 2:
        return
    first, later = utterances[0], utterances[1:]
    starts = {trace.steps[0].state for trace in utterances} - {None}
    if len(starts) > 1:
        message = "the predictor's first state is not the same in every decoding of the recording"
        yield _of("state-not-reset", 0.95, message, first_states=sorted(map(str, starts)))
    elif first_difference(reference, first) is None and any(first_difference(first, other) for other in later):
        message = "the first decoding of the recording is right and a later one, of the same audio, is not"
        yield _of("state-not-reset", 0.9, message, decodings=len(utterances))


def _shifted(reference: DecisionTrace, candidate: DecisionTrace, rules: Decoder) -> Iterator[Finding]:
    """The reference's own decisions, one off."""
    if len(set(reference.labels)) < FEWEST_LABELS:
        return
    for shift in (1, -1):
        for what, shown in shifts(rules, shift):
            whole = candidate.whole
            if _as_shown(reference, shown, whole, rules) == _as_shown(candidate, _plain, whole, rules):
                yield _of("labels-shifted-by-one", 0.97, what, shift=shift, labels=len(candidate.labels))
                return


def _plain(label: int) -> int:
    return label


def _as_shown(trace: DecisionTrace, shown: Callable[[int], int], whole: bool, rules: Decoder) -> list[tuple[int, int]]:
    pairs = [(step.at, shown(step.label)) for step in trace.steps]
    return [(at, label) for at, label in pairs if whole or label != rules.blank_id]


def _collapsing(reference: DecisionTrace, utterances: Sequence[DecisionTrace], rules: Decoder) -> Iterator[Finding]:
    """CTC: which labels were emitted, against which should have been, from the best label of every frame."""
    whole = utterances[0].whole
    # Without the frames that emit nothing, those of the reference stand in for them.
    source = utterances if whole else [reference for _ in utterances]
    made = [[(s.at, s.label) for s in trace.emissions] for trace in utterances]

    def emits(restart: Callable[[Step, Step], bool], repeats: bool = False) -> list[list[tuple[int, int]]]:
        return [list(_collapse(trace.steps, rules.blank_id, restart, repeats)) for trace in source]

    if made == emits(lambda a, b: False):
        return
    if made == emits(lambda a, b: b.chunk > a.chunk):
        message = "a label that lasts over a chunk boundary is emitted again in the new chunk"
        yield _of("last-label-lost", 0.97, message, emitted=sum(map(len, made)))
    elif made == emits(lambda a, b: True, repeats=True):
        message = "a label is emitted for every frame that it lasts"
        yield _of("repeats-not-collapsed", 0.97, message, frames=len(made[0]))


def _collapse(
    steps: Sequence[Step], blank: int, restart: Callable[[Step, Step], bool], repeats: bool
) -> Iterator[tuple[int, int]]:
    before: Step | None = None
    for step in steps:
        carried = before is not None and not restart(before, step)
        previous = before.label if carried and before is not None else blank
        if step.label != blank and (repeats or step.label != previous):
            yield step.at, step.label
        before = step


def _normalisation(reference: DecisionTrace, candidate: DecisionTrace) -> Iterator[Finding]:
    """Whether labels and durations were softmaxed together."""
    if together(candidate) and not together(reference):
        yield _of(
            "joint-softmaxed-across-heads",
            0.97,
            "labels and durations are softmaxed together: their probabilities sum to 1 over both heads",
            probability=sum(_masses(candidate)[0]),
        )


def together(trace: DecisionTrace) -> bool:
    """Whether the probabilities of labels and durations sum to 1 over both heads in every step, and over neither."""
    masses = _masses(trace)
    return bool(masses) and all(abs(a + b - 1) < UNIT and min(a, b) > UNIT**2 for a, b in masses)


def _masses(trace: DecisionTrace) -> list[tuple[float, float]]:
    """Probabilities that both heads give in all, of the steps that say so."""
    known = [(a, b) for a, b in ((s.lse, s.duration_lse) for s in trace.steps) if a is not None and b is not None]
    return [(math.exp(min(a, 50.0)), math.exp(min(b, 50.0))) for a, b in known]


def _degenerate(reference: DecisionTrace, candidate: DecisionTrace) -> Iterator[Finding]:
    """Nothing at all, or one label for ever."""
    if not candidate.labels and reference.labels:
        message = f"the candidate emits nothing, the reference {len(reference.labels)} labels"
        yield _of("never-emits", 0.9, message, reference_labels=len(reference.labels))
    run, label = longest_run(candidate.labels)
    usual, _ = longest_run(reference.labels)
    if run >= LONG_RUN and run > 2 * usual:
        message = f"label {label} is emitted {run} times in a row"
        yield _of("repeated-token", 0.8, message, label=label, run=run, reference_run=usual)


def longest_run(labels: Sequence[int]) -> tuple[int, int | None]:
    """How often a label follows itself at most, and which."""
    best: tuple[int, int | None] = (0, None)
    run, previous = 0, None
    for label in labels:
        run = run + 1 if label == previous else 1
        previous = label
        best = max(best, (run, label), key=lambda found: found[0])
    return best


def histogram(trace: DecisionTrace) -> dict[str, int]:
    """How often each duration was decided, by duration."""
    counts = Counter(step.duration for step in trace.steps if step.duration is not None)
    return {str(duration): counts[duration] for duration in sorted(counts)}


_OTHER_FIXES = {
    "blank-does-not-advance": "go to the next frame after a blank",
    "repeats-not-collapsed": "emit a label only where the frame before had another best label",
    "joint-softmaxed-across-heads": "apply softmax to the labels and to the durations on their own, or to neither; the "
    "argmax of each head is the same, log-sum-exps, confidences and beams are not",
    "never-emits": "compare the encoder (streamparity run), then blank id, layout of the joint's input and its scores",
    "repeated-token": "check that the predictor's state moves on after every label, and that caches are fed back",
}


def _of(code: str, confidence: float, message: str, **evidence: Any) -> Finding:
    return Finding(code, confidence, message, {**FIX, **_OTHER_FIXES}[code], evidence)
