"""What one streaming loop needs to know, in feature frames unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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

    @property
    def input_frames(self) -> int:
        """Feature frames of every input of the padded schedule but the last, history included."""
        return self.pre_encode_cache_size[1] + self.chunk_size[1]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StreamingConfig:
        """Inverse of :meth:`to_json`. Raises ``KeyError`` or ``TypeError`` on other shapes."""
        known = cls.__dataclass_fields__
        values: dict[str, Any] = {key: tuple(data[key]) if isinstance(data[key], list) else data[key] for key in known}
        return cls(**values)
