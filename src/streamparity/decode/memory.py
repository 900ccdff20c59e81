"""What the predictor remembers between two decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ..dump.trace import state_hash
from ..runners import SplitTransducer, Transducer
from ..runners.transducer import State
from ..tensors import Array


@dataclass
class Memory:
    """A label to be consumed and the state to consume it in.

    What the predictor makes of the two is worked out once, when a frame is first scored: ports whose predictor and
    joint are one graph cannot do it without a frame.

    Attributes:
        label: the last label, which the predictor consumes next.
        state: its state before that.
        prediction: its output ``[H]`` after, once known and where the model shows it.
        after: its state after, once known.
    """

    label: int
    state: State
    prediction: Array | None = field(default=None, compare=False)
    after: State | None = field(default=None, compare=False)

    @cached_property
    def name(self) -> str:
        """Hash of the state after the label; it must be known."""
        assert self.after is not None
        return state_hash(self.after)


class Predictor:
    """Predictor and joint behind one face, whether the model has them as one graph or as two.

    Args:
        transducer: the model.
    """

    def __init__(self, transducer: Transducer) -> None:
        self._whole = transducer
        self._split = transducer if isinstance(transducer, SplitTransducer) else None
        self._frame: Array | None = None

    def initial_state(self) -> State:
        """The all-zero state."""
        return self._whole.initial_state()

    def score(self, frame: Array, memory: Memory) -> Array:
        """Logits ``[V + 1 (+ durations)]`` of an encoder frame ``[D]``; the memory's label is consumed if it was not.

        Raises:
            StepFailed: the model could not run.
        """
        self._frame = frame
        if self._split is not None:
            self.consume(memory)
            assert memory.prediction is not None
            return self._split.join(frame, memory.prediction)
        step = self._whole.step(frame, memory.label, memory.state)
        memory.prediction, memory.after = step.prediction, step.state
        return step.logits

    def consume(self, memory: Memory) -> State | None:
        """State after the memory's label; ``None`` where it takes a frame to find out and there was none yet.

        Raises:
            StepFailed: the model could not run.
        """
        if memory.after is None and self._split is not None:
            memory.prediction, memory.after = self._split.predict(memory.label, memory.state)
        elif memory.after is None and self._frame is not None:
            self.score(self._frame, memory)
        return memory.after
