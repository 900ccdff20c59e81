"""A predictor and joint under test, as greedy decoding calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..tensors import Array

State = tuple[Array, ...]


@dataclass(frozen=True)
class TransducerStep:
    """One evaluation of predictor and joint.

    Attributes:
        logits: ``[V + 1]``.
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
