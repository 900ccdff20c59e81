"""From an encoder's architecture to its streaming configurations, without the encoder.

The rules are those of NeMo's ``ConformerEncoder.setup_streaming_params`` and of its ``ConvSubsampling``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import StreamparityError
from .config import StreamingConfig

# NeMo's max_context: slots of the cache where the left context is unlimited.
UNLIMITED_CACHE = 10_000
MOST_LAYERS = 32  # each halves time: more would leave nothing of a year of audio


@dataclass(frozen=True)
class Subsampling:
    """A stack of equal convolutions or poolings that shortens time.

    Attributes:
        factor: feature frames per encoder frame.
        layers: how many there are.
        kernel: extent of each in time.
        stride: step of each in time.
        padding: zeros that each puts before and after its input.
        ceil: whether a window that hangs over the end counts.

    Raises:
        ValueError: sizes that no convolution has.
    """

    factor: int
    layers: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    ceil: bool = False

    def __post_init__(self) -> None:
        if min(self.factor, self.kernel, self.stride) < 1 or not 0 <= self.layers <= MOST_LAYERS:
            raise ValueError(
                f"subsampling by {self.factor} in {self.layers} layers of kernel {self.kernel}, stride {self.stride}"
            )

    @property
    def sampling_frames(self) -> tuple[int, int]:
        """Fewest new frames that make an encoder frame, of the first and of every other chunk."""
        return (1, self.factor)

    @property
    def history(self) -> tuple[int, int]:
        """Feature frames that NeMo puts in front of the first and of every other chunk."""
        return (0, self.factor + 1)

    def frames_out(self, frames: int) -> int:
        """Encoder frames that ``frames`` feature frames make."""
        for _ in range(self.layers):
            room = frames + sum(self.padding) - self.kernel
            frames = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        return max(frames, 0)


@dataclass(frozen=True)
class StreamingEncoder:
    """What decides how an encoder streams.

    Attributes:
        style: NeMo's ``att_context_style``.
        layers: conformer layers.
        conv_right: frames that a layer's convolution looks ahead.
        subsampling: what turns feature frames into encoder frames.
    """

    style: str
    layers: int
    conv_right: int
    subsampling: Subsampling

    def configuration(
        self,
        context: tuple[int, ...],
        chunk_size: int | None = None,
        shift_size: int | None = None,
        cache_drop_size: int | None = None,
    ) -> StreamingConfig:
        """The streaming configuration at an attention context.

        Args:
            context: attention context in encoder frames, ``(left, right)``; -1 is unlimited.
            chunk_size: encoder frames that a chunk computes, ``None`` for what context and style say.
            shift_size: encoder frames by which the stream moves on; goes with ``chunk_size``.
            cache_drop_size: newest encoder frames kept out of the caches, in place of NeMo's own rule.

        Raises:
            StreamparityError: an attention style that does not stream.
        """
        ahead, drop = self._look_ahead(context, chunk_size, shift_size)
        first, every = self.subsampling.sampling_frames
        factor = self.subsampling.factor
        history = self.subsampling.history
        shift = (first + every * (ahead - drop), every + every * (ahead - drop))
        return StreamingConfig(
            att_context_size=context,
            att_context_style=self.style,
            chunk_size=(first + factor * ahead, every + factor * ahead),
            shift_size=shift,
            pre_encode_cache_size=history,
            sampling_frames=(first, every),
            drop_extra_pre_encoded=1 + (history[1] - 1) // factor,
            cache_drop_size=drop if cache_drop_size is None else cache_drop_size,
            valid_out_len=(shift[1] - every) // factor + 1,
            last_channel_cache_size=context[0] if context[0] >= 0 else UNLIMITED_CACHE,
            subsampling_factor=factor,
        )

    def same_sizes(self, config: StreamingConfig) -> StreamingConfig:
        """The configuration that this encoder has at the context and with the chunk sizes of ``config``.

        Equal to ``config`` exactly when ``config`` is one of this encoder's. Raises as :meth:`configuration`.
        """
        natural = self.configuration(config.att_context_size)
        if (natural.chunk_size, natural.shift_size) != (config.chunk_size, config.shift_size):
            factor = self.subsampling.factor
            chunk, shift = config.chunk_size[1] // factor, config.shift_size[1] // factor
            natural = self.configuration(config.att_context_size, chunk, shift)
        return replace(natural, cache_drop_size=config.cache_drop_size)

    def _look_ahead(self, context: tuple[int, ...], chunk_size: int | None, shift_size: int | None) -> tuple[int, int]:
        """Encoder frames that a chunk sees ahead of its first, and how many of the newest stay out of the caches."""
        if chunk_size is not None and shift_size is not None:
            return chunk_size - 1, chunk_size - shift_size
        if self.style == "chunked_limited":
            return context[1], 0
        ahead = (context[-1] + self.conv_right) * self.layers
        if self.style == "chunked_limited_with_rc":
            return ahead, 0
        if self.style == "regular":
            return ahead, ahead
        raise StreamparityError(
            f"attention style {self.style!r} does not stream", "use a model trained chunked_limited or regular"
        )
