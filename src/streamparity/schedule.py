"""Streaming configuration to chunks: pure arithmetic, no tensors.

The rules are those of NeMo's ``CacheAwareStreamingAudioBuffer.__iter__`` and
``ConformerEncoder.setup_streaming_params``. All sizes are feature frames unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .errors import StreamparityError

Schedule = Literal["padded", "native"]
SCHEDULES: tuple[Schedule, ...] = ("padded", "native")


@dataclass(frozen=True)
class StreamingConfig:
    """What one streaming loop needs to know; pairs are (first chunk, every other chunk) as in NeMo.

    Attributes:
        att_context_size: attention context ``(left, right)`` in encoder frames; -1 is unlimited.
        att_context_style: NeMo's ``chunked_limited``, ``regular``, ...
        chunk_size: new feature frames that a chunk sees.
        shift_size: feature frames by which the stream moves on.
        pre_encode_cache_size: feature frames of history put in front of a chunk.
        sampling_frames: fewest new frames that still make one encoder frame.
        drop_extra_pre_encoded: encoder frames that the history makes, dropped after subsampling.
        cache_drop_size: newest encoder frames that do not enter the caches.
        valid_out_len: encoder frames kept per chunk; 0 keeps all.
        last_channel_cache_size: slots of ``cache_last_channel``, in encoder frames.
        subsampling_factor: feature frames per encoder frame.
    """

    att_context_size: tuple[int, ...]
    att_context_style: str
    chunk_size: tuple[int, int]
    shift_size: tuple[int, int]
    pre_encode_cache_size: tuple[int, int]
    sampling_frames: tuple[int, int]
    drop_extra_pre_encoded: int
    cache_drop_size: int
    valid_out_len: int
    last_channel_cache_size: int
    subsampling_factor: int

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StreamingConfig:
        """Inverse of :meth:`to_json`. Raises ``KeyError`` or ``TypeError`` on other shapes."""
        known = cls.__dataclass_fields__
        values: dict[str, Any] = {key: tuple(data[key]) if isinstance(data[key], list) else data[key] for key in known}
        return cls(**values)


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
