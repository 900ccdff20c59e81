"""Decoding by wrong rules, and seeing which of them makes what the candidate made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..comparison.tolerance import Tolerance
from ..decode import CtcDecoder, GreedyDecoder, Head
from ..decode.memory import Memory
from ..dump.manifest import Decoder
from ..dump.trace import Line
from ..errors import StepFailed
from ..localize.finding import Finding
from ..runners import Transducer
from .alignment import compared
from .hypotheses import Follower, Hypothesis, NotReset, hypotheses, other_starts
from .lenient import Lenient, LenientCtc
from .sides import Frames
from .trace import DecisionTrace, Step

RIGHT = Hypothesis("", "", Follower)
SURE = 0.97
LIKELY = 0.5
# A rule that explains so many decisions more than the right one is worth naming even if it does not explain all.
WORTH = 10
FIX = {
    "predictor-fed-twice": "run the predictor once for every label: keep label and the state before it, or the output "
    "and the state after it, but do not mix them",
    "state-advanced-on-blank": "keep label, state and predictor output as they are after a blank",
    "last-label-lost": "carry the last label (or the predictor's last output) from chunk to chunk, also over chunks "
    "without labels",
    "state-not-carried": "carry the predictor's label and state from chunk to chunk",
    "durations-ignored": "move on by the duration of the best duration logit after blanks and labels alike",
    "time-jump-lost": "begin the next chunk as many frames in as the last duration led past the end",
    "blank-duration-zero-stuck": "count a blank of duration 0 as duration 1",
    "max-symbols-too-low": "decode with the model's own max_symbols",
    "max-symbols-unenforced": "go to the next frame after max_symbols labels on one",
    "labels-shifted-by-one": "count labels as the model does: the vocabulary from 0, the blank last",
    "state-not-reset": "begin every utterance with the blank, a zero state and nothing skipped",
    "wrong-start-token": "begin with the blank in an all-zero state",
}


@dataclass(frozen=True)
class Explained:
    """How much of a trace a rule reproduces.

    Attributes:
        hypothesis: the rule.
        steps: decisions that are the same, from the beginning.
        all: whether every decision is.
    """

    hypothesis: Hypothesis
    steps: int
    all: bool


def by_the_book(
    head: Head, rules: Decoder, frames: Frames, candidate: DecisionTrace, tolerance: Tolerance
) -> Explained:
    """Decode by the right rules, and hold every decision of a trace against that.

    Args:
        head: predictor and joint, or the CTC head.
        rules: kind, blank, durations.
        frames: encoder frames of every chunk.
        candidate: the trace, of one or several decodings of the recording.
        tolerance: of one score of the head: where two are no further apart than twice that, the trace decides.
    """
    if rules.kind != "ctc":
        return explain(RIGHT, head, rules, frames, candidate, tolerance)  # type: ignore[arg-type]  # see the kind
    steps = 0
    for utterance in candidate.utterances():
        guided = LenientCtc(head, rules, Lenient(rules, utterance, tolerance))  # type: ignore[arg-type]
        same, all_same = _follow(CtcDecoder(guided, rules), RIGHT, frames, utterance, rules)
        steps += same
        if not all_same:
            return Explained(RIGHT, steps, False)
    return Explained(RIGHT, steps, True)


def simulate(
    transducer: Transducer,
    rules: Decoder,
    frames: Frames,
    candidate: DecisionTrace,
    tolerance: Tolerance,
    right: Explained,
    own: bool,
) -> tuple[list[Finding], set[str]]:
    """Decode by every wrong rule known, where the right one does not make the candidate's trace.

    Args:
        transducer: predictor and joint, the candidate's own where it can be run.
        rules: the right rules.
        frames: encoder frames of every chunk, the candidate's own where they are known.
        candidate: its trace, of one or several decodings of the recording.
        tolerance: of one score, as in :func:`by_the_book`.
        right: what that found.
        own: whether the frames are the candidate's own; from others only a rule that makes every decision counts.

    Returns:
        The rules that reproduce the trace; else, less sure, the one that explains most of it. And the codes of which no
        rule reproduces it.
    """
    if right.all:
        return [], set()

    def tried(rule: Hypothesis) -> Explained:
        return explain(rule, transducer, rules, frames, candidate, tolerance)

    left = _left_over(transducer, rules, frames)
    results = [tried(rule) for rule in hypotheses(transducer, rules, candidate, left)]
    # What an unknown utterance left is a guess: another start may look the same.
    if all(result.hypothesis.code == "state-not-reset" for result in results if result.all):
        results += [tried(rule) for rule in other_starts(rules)]
    exact = [result for result in results if result.all]
    refuted = {result.hypothesis.code for result in results} - {result.hypothesis.code for result in exact}
    if exact:
        codes = list(dict.fromkeys(result.hypothesis.code for result in exact))
        first = {code: next(r for r in exact if r.hypothesis.code == code) for code in codes}
        return [_finding(first[code], right, SURE if len(codes) == 1 else SURE / len(codes)) for code in codes], refuted
    best = max(results, key=lambda result: result.steps, default=right)
    return [_finding(best, right, LIKELY)] if own and best.steps >= 2 * right.steps + WORTH else [], refuted


def explain(
    hypothesis: Hypothesis,
    transducer: Transducer,
    rules: Decoder,
    frames: Frames,
    candidate: DecisionTrace,
    tolerance: Tolerance,
) -> Explained:
    """Decode by a rule until a decision is not the candidate's."""
    steps, memory = 0, None
    for number, utterance in enumerate(candidate.utterances()):
        start = hypothesis
        if hypothesis.decoder is NotReset and len(candidate.utterances()) > 1:
            start = RIGHT if number == 0 else replace(hypothesis, how={**hypothesis.how, "memory": memory})
        guide = Lenient(rules, utterance, tolerance, start.shown)
        decoder = start.decoder(transducer, rules, guide, **start.how)
        same, all_same = _follow(decoder, start, frames, utterance, rules)
        steps += same
        if not all_same:
            return Explained(hypothesis, steps, False)
        memory = decoder.memory
    return Explained(hypothesis, steps, True)


def _follow(
    decoder: GreedyDecoder | CtcDecoder,
    hypothesis: Hypothesis,
    frames: Frames,
    candidate: DecisionTrace,
    rules: Decoder,
) -> tuple[int, bool]:
    expected: dict[int, list[Step]] = {}
    for step in compared(candidate, candidate.whole):
        expected.setdefault(step.chunk, []).append(step)
    same = 0
    for index, chunk in enumerate(frames):
        wanted = expected.get(index, [])
        try:
            made = list(_shown(decoder.chunk(chunk).lines, hypothesis, candidate.whole, rules))
        except StepFailed:
            return same, False
        for line, step in zip(made, wanted, strict=False):
            if not _same(line, step):
                return same, False
            same += 1
        if len(made) != len(wanted):
            return same, False
    return same, True


def _shown(lines: Sequence[Line], hypothesis: Hypothesis, whole: bool, rules: Decoder) -> Iterator[Line]:
    for line in lines:
        shown = line if hypothesis.shown is None else {**line, "label": hypothesis.shown(line["label"])}
        if whole or line.get("emit", shown["label"] != rules.blank_id):
            yield shown


def _same(line: Line, step: Step) -> bool:
    durations = (line["duration"], step.duration)
    return (line["frame"], line["label"], line.get("emit", step.emit)) == (step.frame, step.label, step.emit) and (
        None in durations or durations[0] == durations[1]
    )


def _left_over(transducer: Transducer, rules: Decoder, frames: Frames) -> Memory | None:
    decoder = GreedyDecoder(transducer, rules)
    try:
        for chunk in frames:
            decoder.chunk(chunk)
    except StepFailed:
        return None
    return decoder.memory


def _finding(result: Explained, right: Explained, confidence: float) -> Finding:
    how = {key: value for key, value in result.hypothesis.how.items() if isinstance(value, int | str | None)}
    return Finding(
        result.hypothesis.code,
        confidence,
        result.hypothesis.what,
        FIX[result.hypothesis.code],
        {"reproduces": result.steps, "all": result.all, "right_rule_reproduces": right.steps, **how},
    )
