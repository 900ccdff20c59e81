"""Greedy transducer decoding (RNN-T and TDT), written to be read as the specification of a port.

The rules, as NeMo's ``greedy_batch`` (label looping) follows them:

1. **Start of sequence** is the blank, consumed by the predictor in an all-zero state. (NeMo's embedding of the blank
   is zeros: "blank as pad".)
2. The joint scores one encoder frame against the predictor's output after the *last label*. The best label is the
   argmax of the first ``V + 1`` scores; for TDT the best duration is the argmax of those behind them, on their own.
3. **Blank**: nothing is emitted, and neither label nor state change: the predictor does not run.
   RNN-T moves on by one frame; TDT by the duration, a blank of duration 0 counting as 1.
4. **A label** is emitted and consumed by the predictor, whose state moves on, once.
   RNN-T stays on the frame; TDT moves on by the duration, which may be 0.
5. After ``max_symbols`` labels on one frame decoding moves on by one frame all the same; the label counts.
6. **Across chunks** label, state and predictor output carry over, also over chunks that emit nothing. A TDT duration
   that leads past the end of a chunk skips that many frames of the next, or of several.
7. **A new utterance** begins at 1 again, with nothing skipped.

:class:`GreedyDecoder` has one method for each rule that ports get wrong, so that a wrong one can be put in its place
(:mod:`streamparity.decisions.hypotheses`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..dump.manifest import Decoder
from ..dump.trace import Line, advance, decide, decision
from ..errors import StepFailed
from ..runners import Transducer
from ..tensors import Array
from .memory import Memory, Predictor

# A port that never emits blank must not hang the loop where the model itself sets no limit.
MOST_SYMBOLS = 1000


@dataclass(frozen=True)
class ChunkDecisions:
    """What decoding one chunk computed, in the order of computation.

    Attributes:
        logits: ``[S, V + 1 (+ durations)]``, one row per evaluation of the joint (CTC: per frame).
        lines: the trace, a line for each row.
        labels: labels emitted.
        predictions: ``[P, H]``, one row per label consumed by the predictor; ``None`` if the model hides it.
        states: per state tensor ``[P, L, B, H]``, after each label consumed.
    """

    logits: Array
    lines: list[Line]
    labels: list[int]
    predictions: Array | None = None
    states: tuple[Array, ...] = field(default=())


class GreedyDecoder:
    """Decodes one utterance chunk by chunk.

    Args:
        transducer: the model.
        rules: blank, durations and ``max_symbols``.

    Attributes:
        memory: what the predictor remembers.
        skipped: frames of the next chunk that a duration has jumped over.
        index: the next chunk.
    """

    def __init__(self, transducer: Transducer, rules: Decoder) -> None:
        self.rules = rules
        self.predictor = Predictor(transducer)
        self.memory = self.start()
        self.skipped = 0
        self.index = 0
        self._consumed: list[Memory] = []
        self._no_predictions: Array | None = None

    # ------------------------------------------------------------------------------------------------- the rules
    def start(self) -> Memory:
        """Rule 1."""
        return Memory(self.rules.blank_id, self.predictor.initial_state())

    def read(self, scores: Array, frame: int) -> tuple[int, int | None]:
        """Rule 2: label and duration of a row of scores; whose ``frame`` in the chunk it is plays no part."""
        return decide(self.rules, scores)

    def on_blank(self) -> Memory:
        """Rule 3: what is remembered after a blank."""
        return self.memory

    def on_label(self, label: int) -> Memory:
        """Rule 4: what is remembered after a label."""
        return Memory(label, self.after(self.memory))

    def advance(self, label: int, duration: int | None, step: int) -> int:
        """Rules 3, 4 and 5: frames to move on by, after ``step`` evaluations on this one."""
        return advance(self.rules, label, duration, step)

    def next_chunk(self, emitted: bool) -> tuple[Memory, int]:
        """Rule 6: what is remembered, and how many frames are skipped, in the next chunk.

        Args:
            emitted: whether the chunk that ended emitted a label.
        """
        return self.memory, self.skipped

    # -------------------------------------------------------------------------------------------------- the loop
    def chunk(self, frames: Array) -> ChunkDecisions:
        """Decode encoder frames ``[T, D]``, the next chunk of the utterance.

        Raises:
            StepFailed: the model could not run, or emits labels without end.
        """
        rows: list[Array] = []
        lines: list[Line] = []
        labels: list[int] = []
        frame, step = self.skipped, 0
        while frame < len(frames):
            known = self.memory.after is not None
            scores = self.predictor.score(frames[frame], self.memory)
            if not known:
                self._consumed.append(self.memory)
            label, duration = self.read(scores, frame)
            line = decision(self.rules, self.index, frame, step, scores, state=self.memory.name)
            lines.append({**line, "label": label, "duration": duration})
            rows.append(scores)
            if label == self.rules.blank_id:
                self.memory = self.on_blank()
            else:
                labels.append(label)
                self.memory = self.on_label(label)
            step += 1
            moved = self.advance(label, duration, step)
            if moved:
                frame, step = frame + moved, 0
            elif step == MOST_SYMBOLS:
                raise StepFailed(f"decoding emitted {MOST_SYMBOLS} labels on one frame and never a blank", "joint")
        self.skipped = frame - len(frames)
        # NeMo's predictor consumes a label as soon as it is emitted, also when no frame is left to score.
        if self.memory.after is None and self.predictor.consume(self.memory) is not None:
            self._consumed.append(self.memory)
        predictions, states = self._rows()
        self.memory, self.skipped = self.next_chunk(bool(labels))
        self.index += 1
        width = self.rules.labels + len(self.rules.durations)
        logits = np.stack(rows) if rows else np.zeros((0, width), np.float32)
        return ChunkDecisions(logits, lines, labels, predictions, states)

    def after(self, memory: Memory) -> tuple[Array, ...]:
        """State after a memory's label was consumed."""
        state = self.predictor.consume(memory)
        return memory.state if state is None else state

    def _rows(self) -> tuple[Array | None, tuple[Array, ...]]:
        """Predictor outputs ``[P, H]`` and states ``[P, L, B, H]`` of the labels consumed since the last call."""
        consumed, self._consumed = self._consumed, []
        outputs = [memory.prediction for memory in consumed if memory.prediction is not None]
        if outputs:
            self._no_predictions = np.zeros((0, *outputs[0].shape), outputs[0].dtype)
        states = tuple(
            np.stack([memory.after[part] for memory in consumed if memory.after is not None])
            if consumed
            else np.zeros((0, *initial.shape), initial.dtype)
            for part, initial in enumerate(self.memory.state)
        )
        return (np.stack(outputs) if outputs else self._no_predictions), states
