"""Wrong rules that ports follow, each as a decoder that does everything else right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..decode.greedy import GreedyDecoder
from ..decode.memory import Memory
from ..dump.manifest import Decoder
from ..dump.trace import advance
from ..runners import SplitTransducer, Transducer
from ..tensors import Array
from .lenient import Lenient
from .trace import DecisionTrace


class Follower(GreedyDecoder):
    """Right, but for decisions that arithmetic leaves open: these a trace makes, with the ``guide``."""

    def __init__(self, transducer: Transducer, rules: Decoder, guide: Lenient, **how: Any) -> None:
        self.how, self._guide = how, guide
        super().__init__(transducer, rules)

    def read(self, scores: Array, frame: int) -> tuple[int, int | None]:
        return self._guide.read(self.index, frame, scores)


class Wrong(Follower):
    """A decoder with one rule changed; ``how`` says to what."""


class FedTwice(Wrong):
    """Every label is consumed twice."""

    def on_label(self, label: int) -> Memory:
        return Memory(label, self.after(super().on_label(label)))


class FedAgain(Wrong):
    """Label and the state *after* it are carried over, and the label consumed again; ``always``, or after labels."""

    def next_chunk(self, emitted: bool) -> tuple[Memory, int]:
        if not (emitted or self.how["always"]):
            return super().next_chunk(emitted)
        return Memory(self.memory.label, self.after(self.memory)), self.skipped


class AdvancedOnBlank(Wrong):
    """The state moves on after a blank too; the ``blank`` takes the label's place, or the label is consumed again."""

    def on_blank(self) -> Memory:
        label = self.rules.blank_id if self.how["blank"] else self.memory.label
        return Memory(label, self.after(self.memory))


class LabelLost(Wrong):
    """A chunk begins with blank as last label, ``silent``: only after a chunk without labels."""

    def next_chunk(self, emitted: bool) -> tuple[Memory, int]:
        if emitted and self.how["silent"]:
            return super().next_chunk(emitted)
        state = self.after(self.memory) if self.how["consumed"] else self.memory.state
        return Memory(self.rules.blank_id, state), self.skipped


class StateLost(Wrong):
    """A chunk begins as an utterance does, ``silent``: only after a chunk without labels."""

    def next_chunk(self, emitted: bool) -> tuple[Memory, int]:
        if emitted and self.how["silent"]:
            return super().next_chunk(emitted)
        return self.start(), self.skipped


class JumpLost(Wrong):
    """Frames that a duration jumps over in the next chunk are decoded all the same."""

    def next_chunk(self, emitted: bool) -> tuple[Memory, int]:
        return self.memory, 0


class Durations(Wrong):
    """Durations are ignored after ``blanks``, after ``labels``, or both; then as RNN-T has it."""

    def advance(self, label: int, duration: int | None, step: int) -> int:
        ignored = self.how["blanks"] if label == self.rules.blank_id else self.how["labels"]
        return advance(self.rules, label, None if ignored else duration, step)


class OneByOne(Wrong):
    """Every decision moves on by one frame."""

    def advance(self, label: int, duration: int | None, step: int) -> int:
        return 1


class Stuck(Wrong):
    """A blank of duration 0 stays on the frame, until a guard of ``limit`` decisions."""

    def advance(self, label: int, duration: int | None, step: int) -> int:
        if label == self.rules.blank_id and duration == 0:
            return int(step >= self.how["limit"])
        return super().advance(label, duration, step)


class Unlimited(Wrong):
    """``max_symbols`` is ``limit``, or nothing."""

    def advance(self, label: int, duration: int | None, step: int) -> int:
        return advance(replace(self.rules, max_symbols=self.how["limit"]), label, duration, step)


class StartsWith(Wrong):
    """The first label consumed is ``label``; ``None``: the predictor does not run, its output is zeros."""

    def start(self) -> Memory:
        state = self.predictor.initial_state()
        if self.how["label"] is not None:
            return Memory(self.how["label"], state)
        return Memory(self.rules.blank_id, state, prediction=np.zeros(self.how["width"], np.float32), after=state)


class NotReset(Wrong):
    """Begins with the ``memory`` that an earlier utterance left: ``label`` and state, or the state alone."""

    def start(self) -> Memory:
        left: Memory = self.how["memory"]
        if self.how["label"]:
            return Memory(left.label, left.state)
        return Memory(self.rules.blank_id, left.after or left.state)


class FedShifted(Wrong):
    """The predictor consumes the label beside the one that was decided, by ``shift``."""

    def on_label(self, label: int) -> Memory:
        return Memory((label + self.how["shift"]) % self.rules.labels, self.after(self.memory))


@dataclass(frozen=True)
class Hypothesis:
    """A wrong rule.

    Attributes:
        code: what it is called (docs/trace.md).
        what: what the port does, for the user.
        decoder: what decodes so.
        how: its settings.
        shown: how it writes down a label that it decided.
    """

    code: str
    what: str
    decoder: Callable[..., Follower]
    how: dict[str, Any] = field(default_factory=dict)
    shown: Callable[[int], int] | None = None


def hypotheses(
    transducer: Transducer, rules: Decoder, candidate: DecisionTrace, left: Memory | None
) -> Iterator[Hypothesis]:
    """Wrong rules that are worth trying, all but the rare ones of :func:`other_starts`.

    Args:
        transducer: what will be decoded with.
        rules: the right ones.
        candidate: what is to be explained; it says how far a guard let it go.
        left: what the predictor remembered at the end of this recording, which an earlier decoding of it would leave.
    """
    yield Hypothesis("predictor-fed-twice", "the predictor consumes every label twice", FedTwice)
    for always, when in ((True, "at every chunk boundary"), (False, "at the boundary after a chunk with labels")):
        yield Hypothesis(
            "predictor-fed-twice", f"the predictor consumes the last label again {when}", FedAgain, {"always": always}
        )
    yield Hypothesis(
        "state-advanced-on-blank",
        "the predictor consumes the last label again after every blank",
        AdvancedOnBlank,
        {"blank": False},
    )
    yield Hypothesis(
        "state-advanced-on-blank",
        "the predictor consumes blanks as if they were labels",
        AdvancedOnBlank,
        {"blank": True},
    )
    for silent, when in ((False, "at every chunk boundary"), (True, "after a chunk without labels")):
        for consumed, state in ((False, "and is never consumed"), (True, "and the blank is consumed in its place")):
            yield Hypothesis(
                "last-label-lost",
                f"the last label is lost {when} {state}",
                LabelLost,
                {"silent": silent, "consumed": consumed},
            )
    for silent, which in ((False, "every chunk"), (True, "a chunk that follows one without labels")):
        yield Hypothesis("state-not-carried", f"the predictor begins anew with {which}", StateLost, {"silent": silent})
    yield from _of_tdt(rules, candidate)
    longest = decisions_on_a_frame(candidate)
    if rules.max_symbols is not None and longest > rules.max_symbols:
        yield Hypothesis(
            "max-symbols-unenforced",
            f"{longest} decisions are made on one frame, where max_symbols {rules.max_symbols} ends it",
            Unlimited,
            {"limit": longest},
        )
    # Of a port with a lower limit that is met anywhere, no frame has more decisions than that.
    if rules.max_symbols is None or longest < rules.max_symbols:
        yield Hypothesis(
            "max-symbols-too-low",
            f"decoding leaves a frame after {longest} labels, where max_symbols is {rules.max_symbols}",
            Unlimited,
            {"limit": longest},
        )
    yield from _of_shifts(rules)
    if left is not None:
        for label, which in ((True, "label and state"), (False, "state")):
            what = f"the predictor's {which} of an earlier utterance is still there at the start"
            yield Hypothesis("state-not-reset", what, NotReset, {"memory": left, "label": label})
    yield from _of_the_start(transducer, rules)


def _of_tdt(rules: Decoder, candidate: DecisionTrace) -> Iterator[Hypothesis]:
    if not rules.durations:
        return
    code = "durations-ignored"
    yield Hypothesis(code, "durations are ignored, as in RNN-T", Durations, {"blanks": True, "labels": True})
    yield Hypothesis(code, "durations of blanks are ignored", Durations, {"blanks": True, "labels": False})
    yield Hypothesis(code, "durations of labels are ignored", Durations, {"blanks": False, "labels": True})
    yield Hypothesis(code, "durations are ignored: every decision moves on by one frame", OneByOne)
    yield Hypothesis("time-jump-lost", "a duration that leads past the end of a chunk is cut off there", JumpLost)
    run = blanks_on_a_frame(candidate, rules)
    if run > 1:
        yield Hypothesis(
            "blank-duration-zero-stuck", f"a blank of duration 0 stays on its frame, {run} times", Stuck, {"limit": run}
        )


def _of_shifts(rules: Decoder) -> Iterator[Hypothesis]:
    for shift in (1, -1):
        yield Hypothesis(
            "labels-shifted-by-one", f"the predictor consumes label k{shift:+d} for k", FedShifted, {"shift": shift}
        )
        for what, shown in shifts(rules, shift):
            yield Hypothesis("labels-shifted-by-one", what, Follower, shown=shown)
            yield Hypothesis(
                "labels-shifted-by-one", f"{what}, and the predictor consumes it", FedShifted, {"shift": shift}, shown
            )


def shifts(rules: Decoder, shift: int) -> list[tuple[str, Callable[[int], int]]]:
    """Ways in which labels are written down one off: with the blank among them, or without it."""
    labels, blank = rules.labels, rules.blank_id
    return [
        (f"label k is written as k{shift:+d}, the blank too", lambda label: (label + shift) % labels),
        (f"label k is written as k{shift:+d}", lambda label: label if label == blank else (label + shift) % labels),
    ]


def _of_the_start(transducer: Transducer, rules: Decoder) -> Iterator[Hypothesis]:
    code = "wrong-start-token"
    if isinstance(transducer, SplitTransducer):
        width = transducer.predict(rules.blank_id, transducer.initial_state())[0].size
        yield Hypothesis(
            code,
            "the predictor does not consume a start token: its first output is zeros",
            StartsWith,
            {"label": None, "width": width},
        )
    yield from (_start(label, rules) for label in sorted({0, rules.blank_id - 1}))


def other_starts(rules: Decoder) -> Iterator[Hypothesis]:
    """Every start token but the usual ones: as many as there are labels."""
    yield from (_start(label, rules) for label in range(1, rules.blank_id - 1))


def _start(label: int, rules: Decoder) -> Hypothesis:
    what = f"the first label consumed is {label}, not the blank, {rules.blank_id}"
    return Hypothesis("wrong-start-token", what, StartsWith, {"label": label})


def decisions_on_a_frame(trace: DecisionTrace) -> int:
    """Most decisions that a trace has on one frame."""
    return _most(trace, lambda label: True)


def blanks_on_a_frame(trace: DecisionTrace, rules: Decoder) -> int:
    """Most blanks that a trace has on one frame."""
    return _most(trace, lambda label: label == rules.blank_id)


def _most(trace: DecisionTrace, counted: Callable[[int], bool]) -> int:
    counts: dict[tuple[int, int], int] = {}
    for step in trace.steps:
        if counted(step.label):
            counts[step.utterance, step.at] = counts.get((step.utterance, step.at), 0) + 1
    return max(counts.values(), default=0)
