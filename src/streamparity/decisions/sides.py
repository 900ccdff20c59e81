"""The two sides of a comparison: encoder frames, what decodes them, and the decisions that came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..decode import ChunkDecisions, Head, decoder_for, valid_frames
from ..decode.memory import Memory, Predictor
from ..dump import Decoder, DumpReader
from ..dump.decoder import CTC_HEAD, JOINT
from ..dump.trace import log_probabilities
from ..errors import StepFailed
from ..runners import SplitTransducer
from ..runners.transducer import State, TransducerStep
from ..tensors import Array
from .trace import DecisionTrace, Step, starts_of, trace_of

Frames = Sequence[Array]  # per chunk [T, D]


@dataclass(frozen=True)
class Side:
    """One side, as far as it is known.

    Attributes:
        frames: valid encoder frames ``[T, D]`` of every chunk.
        head: predictor and joint, or the CTC head.
    """

    frames: Frames | None = None
    head: Head | None = None


@dataclass(frozen=True)
class Recorded:
    """What a dump says of its decisions.

    Attributes:
        frames: valid encoder frames of every chunk.
        starts: first encoder frame of every chunk, and of the one after the last.
        trace: the decisions.
        rows: per-head log-probabilities ``[V + 1 (+ durations)]`` of every step, ``None`` where the dump has them not.
    """

    frames: Frames
    starts: list[int]
    trace: DecisionTrace
    rows: list[Array] | None


def recorded(dump: DumpReader, rules: Decoder, limit: int | None = None) -> Recorded:
    """Read a dump's encoder frames and decisions, the first ``limit`` chunks of them."""
    key = f"tap/{CTC_HEAD if rules.kind == 'ctc' else JOINT}"
    frames: list[Array] = []
    rows: list[Array] = []
    for index in range(min(dump.chunk_count, limit or dump.chunk_count)):
        tensors = dump.chunk(index)
        frames.append(np.ascontiguousarray(valid_frames(tensors)))
        rows += list(tensors.get(key, ()))
    starts = starts_of(map(len, frames))
    lines = [line for line in dump.trace() if line["chunk"] < len(frames)]
    trace = trace_of(lines, rules, starts)
    return Recorded(frames, starts, trace, rows if len(rows) == len(trace.steps) else None)


def chunk_starts(dump: DumpReader) -> list[int]:
    """First encoder frame of every chunk of a dump, and of the one after the last."""
    return starts_of(len(valid_frames(dump.chunk(index))) for index in range(dump.chunk_count))


def decoded(head: Head, rules: Decoder, frames: Frames) -> tuple[DecisionTrace, list[Array]]:
    """What greedy decoding makes of encoder frames, by the book.

    Returns:
        The decisions, and per-head log-probabilities of every step.

    Raises:
        StepFailed: the model could not run.
    """
    trace, rows, failure = decoded_so_far(head, rules, frames)
    if failure is not None:
        raise failure
    return trace, rows


def decoded_so_far(head: Head, rules: Decoder, frames: Frames) -> tuple[DecisionTrace, list[Array], StepFailed | None]:
    """As :func:`decoded`, up to the chunk that could not be decoded, and why."""
    decoder, chunks, failure = decoder_for(head, rules), list[ChunkDecisions](), None
    for chunk in frames:
        try:
            chunks.append(decoder.chunk(chunk))
        except StepFailed as error:
            failure = error
            break
    lines = [line for chunk in chunks for line in chunk.lines]
    rows = [row for chunk in chunks for row in log_probabilities(chunk.logits, rules)]
    return trace_of(lines, rules, starts_of(map(len, frames))), rows, failure


def forced(head: Head, rules: Decoder, frames: Frames, steps: Sequence[Step]) -> Iterator[tuple[Array, Memory | None]]:
    """Score the decisions that another side made: its history, this head, these frames.

    Yields:
        Per step the logits ``[V + 1 (+ durations)]``, and for transducers what the predictor remembered.

    Raises:
        StepFailed: the model could not run.
    """
    if rules.kind == "ctc":
        scores = [head.scores(chunk) for chunk in frames]  # type: ignore[union-attr]  # chosen by the kind
        for step in steps:
            yield scores[step.chunk][step.frame], None
        return
    predictor = Predictor(head)  # type: ignore[arg-type]
    memory = Memory(rules.blank_id, predictor.initial_state())
    for step in steps:
        yield predictor.score(frames[step.chunk][step.frame], memory), memory
        if step.label != rules.blank_id:
            state = predictor.consume(memory)
            assert state is not None
            memory = Memory(step.label, state)


class Mixed:
    """The predictor of one model and the joint of another."""

    def __init__(self, predictor: SplitTransducer, joint: SplitTransducer) -> None:
        self._predictor, self._joint = predictor, joint

    def initial_state(self) -> State:
        """The predictor's zeros."""
        return self._predictor.initial_state()

    def predict(self, label: int, state: State) -> tuple[Array, State]:
        """By the predictor."""
        return self._predictor.predict(label, state)

    def join(self, frame: Array, prediction: Array) -> Array:
        """By the joint."""
        return self._joint.join(frame, prediction)

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """Both."""
        prediction, after = self.predict(label, state)
        return TransducerStep(self.join(frame, prediction), after, prediction)


def split_of(head: Head | None, width: int) -> SplitTransducer | None:
    """A transducer taken apart, ``None`` where that cannot be done.

    Args:
        head: the model.
        width: of an encoder frame.
    """
    if isinstance(head, SplitTransducer):
        return head
    cut = getattr(head, "split", None)
    apart: SplitTransducer | None = None if cut is None else cut(width)
    return apart
