"""The loop: caches between one chunk and the next."""

from __future__ import annotations

import numpy as np

from streamparity.tensors import Array

from ..loop_faults import ATTENTION, CHANNEL, TIME, Caches, DrivenRunner, driven, having
from .build import HALF, per_chunk


def reset_once(self: DrivenRunner, now: Caches) -> Caches:
    """An endpoint resets the caches in mid-stream."""
    return {name: np.zeros_like(array) for name, array in now.items()} if self.index == 20 else now


def last_layer_never_written(self: DrivenRunner, array: Array) -> Array:
    array[:, -1] = 0
    return array


def in_int8(self: DrivenRunner, array: Array) -> Array:
    """The cache is kept in eight bits with one scale."""
    step = np.abs(array).max() / 127 or 1.0
    return (np.round(array / step) * step).astype(np.float32)


def double_buffer(self: DrivenRunner, now: Caches) -> Caches:
    """Buffers that are exchanged once too often: every second chunk starts from the caches before last."""
    if self.index < 2 or self.index % 2:
        return now
    return {**now, CHANNEL: self.before[-3][CHANNEL] if len(self.before) > 2 else now[CHANNEL]}


def length_in_chunks(self: DrivenRunner, array: Array) -> Array:
    return array * 0 + self.index


def time_cache_of_the_first_layer(self: DrivenRunner, array: Array) -> Array:
    """A loop over layers that copies layer 0 every time."""
    return np.broadcast_to(array[:, :1], array.shape)


def a_chunk_late(port: str):
    def change(self: DrivenRunner, now: Caches) -> Caches:
        return {**now, port: self.before[-2][port]}

    return change


def as_a_ring(self: DrivenRunner, now: Caches) -> Caches:
    """Frame ``i`` of the stream lies in slot ``i`` modulo the number of slots."""
    size = now[CHANNEL].shape[2]
    seen = self.index * per_chunk(self.bench)
    order = (np.arange(seen - size, seen)) % size
    ring = np.empty_like(now[CHANNEL])
    ring[:, :, order] = now[CHANNEL]
    return {**now, CHANNEL: ring}


def length_after_the_chunk(self: DrivenRunner, array: Array) -> Array:
    return np.minimum(array + per_chunk(self.bench), self.before[0][CHANNEL].shape[2])


LAST_SA = "encoder.layers.{last}.self_attn"
FAULTS = [
    driven(
        "time-cache-a-chunk-late",
        ("time-cache-dropped", "cache-not-propagated"),
        "encoder.layers.0.conv",
        1,
        caches=a_chunk_late(TIME),
    ),
    driven("channel-cache-a-chunk-late", "cache-not-propagated", ATTENTION, 1, caches=a_chunk_late(CHANNEL)),
    driven("cache-as-a-ring", "cache-misaligned", ATTENTION, 1, caches=as_a_ring),
    driven(
        "length-after-the-chunk",
        "cache-length-wrong",
        ATTENTION,
        1,
        caches=having(cache_last_channel_len=length_after_the_chunk),
    ),
    driven("reset-once", "cache-not-propagated", ATTENTION, 20, caches=reset_once),
    driven(
        "last-layer-never-written",
        "cache-not-propagated",
        LAST_SA,
        1,
        caches=having(cache_last_channel=last_layer_never_written),
    ),
    driven("cache-in-int8", HALF, ATTENTION, 1, caches=having(cache_last_channel=in_int8)),
    driven("double-buffer", "cache-not-propagated", ATTENTION, 2, caches=double_buffer),
    driven(
        "length-in-chunks", "cache-length-wrong", ATTENTION, 1, caches=having(cache_last_channel_len=length_in_chunks)
    ),
    driven(
        "time-cache-of-the-first-layer",
        "cache-layers-swapped",
        "encoder.layers.1.conv",
        1,
        caches=having(cache_last_time=time_cache_of_the_first_layer),
    ),
]
