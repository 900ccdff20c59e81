"""Streaming configuration to chunks of feature frames: pure arithmetic, no tensors.

The rules are those of NeMo's ``CacheAwareStreamingAudioBuffer.__iter__``. All sizes are feature frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import StreamparityError
from .config import Schedule, StreamingConfig


@dataclass(frozen=True)
class Chunk:
    """One turn of the loop over a stream of feature frames.

    The encoder is fed ``zeros`` zero frames, then frames ``[history, stop)``, of which ``[start, stop)`` are new.

    Attributes:
        drop: encoder frames to drop after subsampling (``drop_extra_pre_encoded`` of this step).
        last: nothing follows; NeMo then keeps all encoder outputs (``keep_all_outputs``).
    """

    index: int
    start: int
    stop: int
    history: int
    zeros: int
    drop: int
    last: bool

    @property
    def frames(self) -> int:
        """Length of the encoder's input."""
        return self.zeros + self.stop - self.history


def chunks(config: StreamingConfig, total_frames: int, schedule: Schedule) -> Iterator[Chunk]:
    """Cut ``total_frames`` feature frames as NeMo's streaming buffer does.

    ``native`` is NeMo's own first chunk: shorter, no history, nothing dropped. ``padded``
    (``pad_and_drop_preencoded=True``) gives every chunk the same length by starting with zeros; it is the only one
    that an exported encoder, with its drop baked in, can run.
    """
    if config.shift_size[1] < 1 or config.shift_size[0] < 1:
        raise StreamparityError(
            f"the streaming configuration never moves on: shift_size is {list(config.shift_size)}",
            "set --chunk-size and --shift-size (the attention context of this model is unlimited or too small)",
        )
    start = 0
    index = 0
    while start < total_frames:
        which = 0 if index == 0 and schedule == "native" else 1
        stop = min(start + config.chunk_size[which], total_frames)
        if stop - start < config.sampling_frames[min(index, 1)]:
            return
        wanted = config.pre_encode_cache_size[which]
        history = max(0, start - wanted)
        following = start + config.shift_size[which]
        yield Chunk(
            index=index,
            start=start,
            stop=stop,
            history=history,
            zeros=wanted - (start - history),
            drop=0 if which == 0 else config.drop_extra_pre_encoded,
            last=following >= total_frames,
        )
        start = following
        index += 1


def shortest_stream(config: StreamingConfig, schedule: Schedule) -> int:
    """Feature frames of the first whole chunk."""
    return config.chunk_size[0 if schedule == "native" else 1]
