"""One encoder step of a NeMo model: arrays in, arrays out, under the export's port names and layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensors import Array

# NeMo keeps caches as [L, B, ...]; exported graphs take them as [B, L, ...].
CACHES = ("cache_last_channel", "cache_last_time")


def initial_caches(module: Any, dtype: Any) -> dict[str, Array]:
    """The empty caches of a stream of batch size 1, in the export's layout."""
    channel, time, length = module.encoder.get_initial_cache_state(batch_size=1, dtype=dtype)
    return {
        "cache_last_channel": to_numpy(channel.transpose(0, 1)),
        "cache_last_time": to_numpy(time.transpose(0, 1)),
        "cache_last_channel_len": to_numpy(length),
    }


def step_arguments(module: Any, inputs: dict[str, Array], drop: int, last: bool, dtype: Any) -> dict[str, Any]:
    """Keyword arguments of ``cache_aware_stream_step`` and ``conformer_stream_step`` for one chunk.

    Args:
        module: the NeMo model.
        inputs: the five encoder inputs by port name.
        drop: encoder frames to drop after subsampling.
        last: whether NeMo keeps all outputs, as its streaming script does for the last chunk.
        dtype: floating dtype of the encoder.
    """
    import torch

    device = next(module.encoder.parameters()).device

    def tensor(name: str) -> Any:
        value = torch.from_numpy(np.ascontiguousarray(inputs[name])).to(device)
        if value.is_floating_point():
            value = value.to(dtype)
        return value.transpose(0, 1) if name in CACHES else value

    return {
        "processed_signal": tensor("audio_signal"),
        "processed_signal_length": tensor("length"),
        "cache_last_channel": tensor("cache_last_channel"),
        "cache_last_time": tensor("cache_last_time"),
        "cache_last_channel_len": tensor("cache_last_channel_len"),
        "keep_all_outputs": last,
        "drop_extra_pre_encoded": drop,
    }


def step_outputs(returned: Any) -> dict[str, Array]:
    """Output ports from what ``cache_aware_stream_step`` returned."""
    encoded, lengths, channel, time, channel_length = returned[:5]
    return {
        "outputs": to_numpy(encoded),
        "encoded_lengths": to_numpy(lengths),
        "cache_last_channel_next": to_numpy(channel.transpose(0, 1)),
        "cache_last_time_next": to_numpy(time.transpose(0, 1)),
        "cache_last_channel_next_len": to_numpy(channel_length),
    }


def to_numpy(tensor: Any) -> Array:
    """A contiguous copy; bfloat16, which numpy lacks, becomes float32 without loss."""
    import torch

    value = tensor.detach().cpu()
    if value.dtype == torch.bfloat16:
        value = value.float()
    array: Array = np.array(value.numpy(), order="C", copy=True)
    return array
