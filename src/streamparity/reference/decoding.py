"""NeMo's decoding state between chunks: as arrays for the dump, and back for a resumed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import StreamparityError
from ..tensors import Array
from .encoder import to_numpy

PREFIX = "state/"


def prepare_decoding(module: Any) -> None:
    """Make the model decode by label looping, without CUDA graphs, so that the wrapped methods are called.

    Raises:
        StreamparityError: the model decodes in another way.
    """
    decoding = module.decoding.decoding
    computer = getattr(decoding, "decoding_computer", None)
    if computer is None:
        raise StreamparityError(
            f"the model decodes with {type(decoding).__name__}, which carries no label-looping state",
            "set decoding.strategy to greedy_batch in the model's configuration",
        )
    decoding.disable_cuda_graphs()


def decoding_state(item: Any, skipped: int) -> dict[str, Array]:
    """A ``LabelLoopingStateItem`` as arrays, with the frames that a TDT duration jumped over."""
    parts = item.predictor_state if isinstance(item.predictor_state, list | tuple) else [item.predictor_state]
    arrays = {f"{PREFIX}predictor_state_{number}": to_numpy(part) for number, part in enumerate(parts, start=1)}
    arrays[f"{PREFIX}predictor_output"] = to_numpy(item.predictor_output)
    arrays[f"{PREFIX}label"] = to_numpy(item.label)
    arrays[f"{PREFIX}decoded_length"] = to_numpy(item.decoded_length)
    if item.time_jump is not None:
        arrays[f"{PREFIX}time_jump"] = to_numpy(item.time_jump)
    arrays[f"{PREFIX}skipped"] = np.array([skipped], np.int64)
    return arrays


def restore_hypothesis(arrays: Mapping[str, Array], tokens: Sequence[int], device: Any) -> Any:
    """The hypothesis that NeMo's loop would hold after the chunk that ``arrays`` come from."""
    import torch
    from nemo.collections.asr.parts.submodules.transducer_decoding.label_looping_base import LabelLoopingStateItem
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

    def tensor(name: str) -> Any:
        return torch.from_numpy(arrays[f"{PREFIX}{name}"].copy()).to(device)

    parts: list[Any] = []
    while f"{PREFIX}predictor_state_{len(parts) + 1}" in arrays:
        parts.append(tensor(f"predictor_state_{len(parts) + 1}"))
    item = LabelLoopingStateItem(
        predictor_state=tuple(parts),
        predictor_output=tensor("predictor_output"),
        label=tensor("label"),
        decoded_length=tensor("decoded_length"),
        time_jump=tensor("time_jump") if f"{PREFIX}time_jump" in arrays else None,
    )
    sequence = torch.tensor(list(tokens), dtype=torch.long)
    return Hypothesis(
        score=0.0, y_sequence=sequence, timestamp=torch.zeros(len(tokens), dtype=torch.long), dec_state=item
    )
