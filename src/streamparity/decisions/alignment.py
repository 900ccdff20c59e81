"""Two traces side by side: the first decision in which they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from .trace import DecisionTrace, Step

Head = Literal["label", "duration", "advance", "collapse", "end"]


@dataclass(frozen=True)
class Difference:
    """The first decision that differs; all before it are the same, so that both sides came from the same history.

    Attributes:
        index: its place among the steps compared.
        head: what decided differently: the ``label`` or the ``duration`` head; nothing of the model, but the loop that
            went to another frame (``advance``), emitted or not (``collapse``), or made a decision more (``end``).
        reference: the reference's decision, ``None`` where it made none.
        candidate: the candidate's.
    """

    index: int
    head: Head
    reference: Step | None
    candidate: Step | None

    @property
    def step(self) -> Step:
        """Where it is: the reference's decision where there is one."""
        step = self.reference or self.candidate
        assert step is not None
        return step

    @property
    def of_the_model(self) -> bool:
        """Whether a head of the model decided differently, on the same frame."""
        return self.head in ("label", "duration")


def first_difference(reference: DecisionTrace, candidate: DecisionTrace) -> Difference | None:
    """Align two traces of one utterance by frame; ``None`` where they are the same.

    Where a side is not whole, only what goes into the text is compared.
    """
    whole = reference.whole and candidate.whole
    ours, theirs = compared(reference, whole), compared(candidate, whole)
    for index, (expected, actual) in enumerate(zip_longest(ours, theirs)):
        head = _parted(expected, actual, whole)
        if head is not None:
            return Difference(index, head, expected, actual)
    return None


def compared(trace: DecisionTrace, whole: bool) -> Sequence[Step]:
    """The steps that are lined up."""
    return trace.steps if whole else trace.emissions


def _parted(expected: Step | None, actual: Step | None, whole: bool) -> Head | None:
    if expected is None or actual is None:
        return "end"
    if expected.at != actual.at:
        # Among labels alone an earlier or later one may be another decision of the label head.
        return "advance" if whole else "label"
    if expected.label != actual.label:
        return "label"
    if None not in (expected.duration, actual.duration) and expected.duration != actual.duration:
        return "duration"
    return "collapse" if expected.emit != actual.emit else None
