"""PyTorch: NeMo's own decoder heads, one call at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import StepFailed, first_line
from ..reference.encoder import to_numpy
from ..tensors import Array
from .transducer import State, TransducerStep


class TorchTransducer:
    """NeMo's prediction network and joint, one frame and label at a time, by the methods that greedy decoding calls.

    Args:
        module: the NeMo model.
        dtype: floating dtype of its parameters.
    """

    def __init__(self, module: Any, dtype: Any) -> None:
        self._module = module
        self._dtype = dtype
        self.arithmetic = str(dtype).removeprefix("torch.")

    def initial_state(self) -> State:
        """Zeros ``[L, 1, H]`` for each state tensor."""
        import torch

        like = torch.zeros(1, 1, 1, dtype=self._dtype, device=self._module.device)
        return tuple(to_numpy(part) for part in self._module.decoder.initialize_state(like))

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """Predictor, then joint."""
        prediction, after = self.predict(label, state)
        return TransducerStep(self.join(frame, prediction), after, prediction)

    def predict(self, label: int, state: State) -> tuple[Array, State]:
        """``decoder.predict`` for one label."""
        import torch

        try:
            with torch.inference_mode():
                target = torch.tensor([[label]], device=self._module.device)
                given = tuple(self._tensor(part) for part in state)
                prediction, after, *_ = self._module.decoder.predict(target, given, add_sos=False, batch_size=1)
                return to_numpy(prediction).reshape(-1), tuple(to_numpy(part) for part in after)
        except Exception as error:  # whatever the model's code raises, the model could not run
            raise StepFailed(first_line(error), "decoder.prediction") from error

    def join(self, frame: Array, prediction: Array) -> Array:
        """``joint.joint_after_projection`` for one frame."""
        import torch

        joint = self._module.joint
        try:
            with torch.inference_mode():
                logits = joint.joint_after_projection(
                    joint.project_encoder(self._tensor(frame).reshape(1, 1, -1)),
                    joint.project_prednet(self._tensor(prediction).reshape(1, 1, -1)),
                )
                return to_numpy(logits).reshape(-1)
        except Exception as error:  # as above
            raise StepFailed(first_line(error), "joint") from error

    def _tensor(self, array: Array) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._module.device, self._dtype)


class TorchCtc:
    """NeMo's CTC head.

    Args:
        head: ``decoder`` of a CTC model, ``ctc_decoder`` of a hybrid.
        dtype: floating dtype of its parameters.
    """

    def __init__(self, head: Any, dtype: Any) -> None:
        self._head = head
        self._dtype = dtype
        self.arithmetic = str(dtype).removeprefix("torch.")

    def scores(self, frames: Array) -> Array:
        """Encoder frames ``[T, D]`` to log-probabilities ``[T, V + 1]``.

        Raises:
            StepFailed: the model could not run.
        """
        import torch

        try:
            with torch.inference_mode():
                device = next(self._head.parameters()).device
                encoded = torch.from_numpy(np.ascontiguousarray(frames.T[None])).to(device, self._dtype)
                scores: Array = to_numpy(self._head(encoder_output=encoded))[0]
                return scores
        except Exception as error:  # whatever the model's code raises, the model could not run
            raise StepFailed(first_line(error), "ctc_decoder") from error
