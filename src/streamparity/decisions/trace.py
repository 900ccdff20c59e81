"""A trace of decisions as it is compared: every step in its place on the time axis of the utterance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from ..dump.manifest import Decoder
from ..dump.trace import Line, emitting


@dataclass(frozen=True)
class Choice:
    """What a head scored: a label or a duration, with its logit where the trace says."""

    value: int
    logit: float | None


@dataclass(frozen=True)
class Step:
    """One decision.

    Attributes:
        chunk: the chunk.
        frame: encoder frame in the chunk.
        at: encoder frame in the utterance.
        step: place among the decisions on this frame.
        label: what was decided, the blank included.
        duration: TDT, as the head said.
        emit: whether the label goes into the text.
        top: best two labels.
        durations: best two durations.
        lse: log-sum-exp of the label head.
        duration_lse: of the duration head.
        state: name of the predictor's state behind this decision.
        utterance: which decoding of the recording this is.
    """

    chunk: int
    frame: int
    at: int
    step: int
    label: int
    duration: int | None
    emit: bool
    top: tuple[Choice, ...] = ()
    durations: tuple[Choice, ...] = ()
    lse: float | None = None
    duration_lse: float | None = None
    state: str | None = None
    utterance: int = 0


@dataclass(frozen=True)
class DecisionTrace:
    """The decisions of one side.

    Attributes:
        steps: in the order in which they were made.
        whole: whether the steps that emit nothing are there too.
    """

    steps: tuple[Step, ...]
    whole: bool = True

    @property
    def emissions(self) -> tuple[Step, ...]:
        """Steps whose label goes into the text."""
        return tuple(step for step in self.steps if step.emit)

    @property
    def labels(self) -> list[int]:
        """The labels of the text."""
        return [step.label for step in self.emissions]

    def until(self, chunk: int) -> DecisionTrace:
        """The decisions before a chunk."""
        return DecisionTrace(tuple(step for step in self.steps if step.chunk < chunk), self.whole)

    def utterances(self) -> list[DecisionTrace]:
        """One trace per decoding of the recording, in order."""
        return [
            DecisionTrace(tuple(steps), self.whole) for _, steps in groupby(self.steps, lambda step: step.utterance)
        ]


def starts_of(lengths: Iterable[int]) -> list[int]:
    """First encoder frame of every chunk, and of the one after the last."""
    return list(accumulate(lengths, initial=0))


def trace_of(lines: Sequence[Line], rules: Decoder, starts: Sequence[int], utterance: int = 0) -> DecisionTrace:
    """From lines that :mod:`streamparity.dump.trace` made: they are whole and in order.

    Args:
        lines: of one utterance.
        rules: kind and blank.
        starts: :func:`starts_of` the chunks.
        utterance: which decoding of the recording.
    """
    emits = {id(line) for line in emitting(lines, rules)}
    return DecisionTrace(tuple(step_of(line, starts, id(line) in emits, utterance) for line in lines))


def step_of(line: Line, starts: Sequence[int], emit: bool, utterance: int = 0) -> Step:
    """From one line with its ``chunk`` and ``frame``."""
    return Step(
        chunk=line["chunk"],
        frame=line["frame"],
        at=starts[line["chunk"]] + line["frame"],
        step=line.get("step") or 0,
        label=line["label"],
        duration=line.get("duration"),
        emit=emit,
        top=_choices(line, "top", "label"),
        durations=_choices(line, "durations", "duration"),
        lse=line.get("lse"),
        duration_lse=line.get("duration_lse"),
        state=line.get("state"),
        utterance=utterance,
    )


def _choices(line: Line, key: str, value: str) -> tuple[Choice, ...]:
    given: list[dict[str, Any]] = line.get(key) or []
    return tuple(Choice(choice[value], choice["logit"]) for choice in given)
