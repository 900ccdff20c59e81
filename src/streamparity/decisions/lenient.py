"""Following a trace by the rules: its own choice counts wherever two scores are so close that arithmetic decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import numpy as np

from ..comparison.tolerance import Tolerance
from ..dump.manifest import Decoder
from ..dump.trace import decide
from ..runners import CtcHead
from ..tensors import Array
from .alignment import compared
from .trace import DecisionTrace, Step


class Lenient:
    """Decides as a trace does where the scores leave that open, and as the scores say everywhere else.

    Args:
        rules: blank and durations.
        candidate: the trace of one utterance.
        tolerance: of one score of the head; two scores may move against each other by twice that.
        shown: how the trace writes down a label that was decided; as it is if ``None``.
    """

    def __init__(
        self,
        rules: Decoder,
        candidate: DecisionTrace,
        tolerance: Tolerance,
        shown: Callable[[int], int] | None = None,
    ) -> None:
        self._rules, self._tolerance, self._shown = rules, tolerance, shown
        self._whole = candidate.whole
        self._steps: dict[tuple[int, int], deque[Step]] = {}
        for step in compared(candidate, candidate.whole):
            self._steps.setdefault((step.chunk, step.frame), deque()).append(step)

    def read(self, chunk: int, frame: int, scores: Array) -> tuple[int, int | None]:
        """Label and duration of a row of scores ``[V + 1 (+ durations)]``, for the next decision on this frame."""
        best, duration = decide(self._rules, scores)
        waiting = self._steps.get((chunk, frame))
        step = waiting[0] if waiting else None
        if step is None and self._whole:
            return best, duration
        wanted = self._rules.blank_id if step is None else step.label
        label = best
        if self._as(best) != wanted:
            others = [each for each in range(self._rules.labels) if self._as(each) == wanted]
            label = self._chosen(scores, best, others)
        if step is not None and waiting is not None and self._as(label) == wanted:
            waiting.popleft()
            if step.duration in self._rules.durations:
                places = [self._rules.durations.index(value) for value in (duration, step.duration)]
                chosen = self._chosen(scores[self._rules.labels :], places[0], places[1:])
                duration = self._rules.durations[chosen]
        return label, duration

    def frame(self, chunk: int, frame: int, scores: Array, previous: int) -> int:
        """CTC: label of a frame's scores ``[V + 1]`` behind the label ``previous``."""
        steps = self._steps.get((chunk, frame))
        silent = () if self._whole else (self._rules.blank_id, previous)
        return self._chosen(scores, int(scores.argmax()), [step.label for step in steps] if steps else silent)

    def _as(self, label: int) -> int:
        return label if self._shown is None else self._shown(label)

    def _chosen(self, scores: Array, best: int, wanted: Collection[int]) -> int:
        """The best of those ``wanted`` where arithmetic may put it first."""
        if not wanted or best in wanted:
            return best
        other = max(wanted, key=lambda place: float(scores[place]))
        high, low = float(scores[best]), float(scores[other])
        allowed = 2 * (self._tolerance.atol + self._tolerance.rtol * max(abs(high), abs(low)))
        return other if high - low <= allowed else best


class LenientCtc:
    """A CTC head whose best labels follow a trace; its chunks come in order."""

    def __init__(self, head: CtcHead, rules: Decoder, guide: Lenient) -> None:
        self._head, self._guide = head, guide
        self._previous, self._index = rules.blank_id, 0

    def scores(self, frames: Array) -> Array:
        """The head's, with the label that the trace has on top where they leave that open."""
        scores = np.array(self._head.scores(frames))
        for frame, row in enumerate(scores):
            self._previous = self._guide.frame(self._index, frame, row, self._previous)
            if self._previous != int(row.argmax()):
                row[self._previous] = row.max() + 1
        self._index += 1
        return scores
