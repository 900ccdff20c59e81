"""Decoder heads under test, as greedy decoding calls them: predictor and joint, or the CTC head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..tensors import Array

State = tuple[Array, ...]


@dataclass(frozen=True)
class TransducerStep:
    """One evaluation of predictor and joint.

    Attributes:
        logits: ``[V + 1 (+ durations)]``.
        state: predictor state after consuming the label, ``[L, B, H]`` each.
        prediction: predictor output ``[H]``, where the model lets it be seen.
    """

    logits: Array
    state: State
    prediction: Array | None


@dataclass(frozen=True)
class TransducerCall:
    """What one evaluation is given.

    Attributes:
        frame: encoder frame ``[D]``.
        label: the label consumed.
        state: predictor state before it.
        prediction: what the reference's predictor makes of label and state, ``[H]``, where that is known.
    """

    frame: Array
    label: int
    state: State
    prediction: Array | None = None


class Transducer(Protocol):
    """A predictor and joint, as ``decoder_joint`` exports them."""

    def initial_state(self) -> State:
        """The all-zero predictor state."""

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """Score one encoder frame ``[D]`` after ``label`` was consumed in ``state``.

        Raises:
            StepFailed: the model could not run.
        """


@runtime_checkable
class SplitTransducer(Protocol):
    """A transducer whose predictor and joint can be called one without the other."""

    def initial_state(self) -> State:
        """The all-zero predictor state."""

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """Both in one, as :class:`Transducer` has it."""

    def predict(self, label: int, state: State) -> tuple[Array, State]:
        """Consume ``label`` in ``state``: predictor output ``[H]`` and the state after it.

        Raises:
            StepFailed: the model could not run.
        """

    def join(self, frame: Array, prediction: Array) -> Array:
        """Score an encoder frame ``[D]`` against a predictor output ``[H]``: ``[V + 1 (+ durations)]``.

        Raises:
            StepFailed: the model could not run.
        """


class CtcHead(Protocol):
    """What turns encoder frames into scores of labels, without memory."""

    def scores(self, frames: Array) -> Array:
        """Encoder frames ``[T, D]`` to ``[T, V + 1]``, raw or log-softmaxed.

        Raises:
            StepFailed: the model could not run.
        """
