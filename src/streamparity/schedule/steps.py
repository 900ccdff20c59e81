"""The schedule explained: what every turn of the loop takes in and gives out, for a recording of some length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .audio import AudioPiece, FrameGrid
from .chunking import Chunk, chunks
from .config import Schedule, StreamingConfig
from .encoder import Subsampling


@dataclass(frozen=True)
class Step:
    """One turn of the loop.

    Attributes:
        chunk: the feature frames fed.
        audio: the samples that its new frames need.
        overlap: samples of ``audio`` that the chunk before it needed too.
        computed: encoder frames that the subsampling makes of the input.
        dropped: those of them that the history made; the layers do not see them.
        discarded: frames that the layers computed and the step does not return: look-ahead of a ``regular`` encoder.
        out: encoder frames returned, ``encoded_lengths``.
        kept: newest frames that enter the caches; NeMo fails, here or at the next step, where it is negative.
        cache_length: ``cache_last_channel_len`` after the step.
    """

    chunk: Chunk
    audio: AudioPiece
    overlap: int
    computed: int
    dropped: int
    discarded: int
    out: int
    kept: int
    cache_length: int


def steps(
    config: StreamingConfig, subsampling: Subsampling, grid: FrameGrid, samples: int, schedule: Schedule
) -> Iterator[Step]:
    """The turns of the loop over a recording of ``samples`` samples, as NeMo's streaming script takes them.

    Raises:
        StreamparityError: the configuration never moves on.
    """
    before, cache_length = 0, 0
    for chunk in chunks(config, grid.frames(samples), schedule):
        audio = grid.piece(chunk.start, chunk.stop, samples)
        computed = subsampling.frames_out(chunk.frames)
        dropped = min(chunk.drop, computed)
        seen = computed - dropped
        out = seen if _keeps_all(config, chunk) else min(seen, config.valid_out_len)
        kept = seen - config.cache_drop_size
        cache_length = min(cache_length + kept, config.last_channel_cache_size)
        yield Step(chunk, audio, max(before - audio.start, 0), computed, dropped, seen - out, out, kept, cache_length)
        before = audio.stop


def _keeps_all(config: StreamingConfig, chunk: Chunk) -> bool:
    """Whether NeMo returns every frame (``ConformerEncoder.streaming_post_process``)."""
    return config.valid_out_len <= 0 or (chunk.last and config.att_context_style != "regular")
