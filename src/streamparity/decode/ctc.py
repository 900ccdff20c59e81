"""Greedy CTC decoding, written to be read as the specification of a port.

1. The head scores every encoder frame by itself; its best label is the argmax of the ``V + 1`` scores, blank last.
2. A label is emitted where it is not the blank and not the best label of the frame before: a label counts once for as
   long as it lasts, and a blank between two equal labels makes them two.
3. Across chunks the best label of the last frame carries over, so that a label that lasts over the boundary counts
   once. A new utterance begins as if after a blank.
"""

from __future__ import annotations

from ..dump.manifest import Decoder
from ..dump.trace import ctc_lines, emitted
from ..runners import CtcHead
from ..tensors import Array
from .greedy import ChunkDecisions


class CtcDecoder:
    """Decodes one utterance chunk by chunk.

    Args:
        head: the model.
        rules: blank and vocabulary.
    """

    def __init__(self, head: CtcHead, rules: Decoder) -> None:
        self._head = head
        self.rules = rules
        self.previous = rules.blank_id
        self._index = 0

    def chunk(self, frames: Array) -> ChunkDecisions:
        """Decode encoder frames ``[T, D]``, the next chunk of the utterance.

        Raises:
            StepFailed: the model could not run.
        """
        scores = self._head.scores(frames)
        lines = ctc_lines(self.rules, self._index, scores, self.previous)
        self._index += 1
        self.previous = self.next_chunk(lines[-1]["label"] if lines else self.previous)
        return ChunkDecisions(scores, lines, emitted(lines, self.rules))

    def next_chunk(self, last: int) -> int:
        """Rule 3: the label before the next chunk."""
        return last
