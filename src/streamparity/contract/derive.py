"""The parts of a contract that follow from others: ports, timebase, what happens at each attention context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..dtypes import DTYPE_DEFAULTS
from ..schedule import WHOLE_UTTERANCE, FrameGrid, StreamingConfig, StreamingEncoder
from ..tensors import DECODER_AXES, DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, Port
from .network import Context, ContractPort, Decoder, Encoder, Extent, Size
from .parts import ContractTolerance, Features, Timebase


def streams_safely(normalize: str | None) -> bool | None:
    """Whether a live stream can normalise features so; ``None`` where it is not known how they are."""
    return None if normalize is None else normalize not in WHOLE_UTTERANCE


def frame_grid(features: Features) -> FrameGrid | None:
    """Where feature frames lie in the audio, where the features say so."""
    sizes = (features.sample_rate, features.hop_samples, features.window_samples)
    if any(size is None or size < 1 for size in sizes) or features.exact_pad:
        return None
    rate, hop, window = (size for size in sizes if size is not None)
    return FrameGrid(rate, hop, window)


def streaming_encoder(encoder: Encoder) -> StreamingEncoder:
    """What decides how the encoder streams."""
    return StreamingEncoder(
        encoder.att_context_style, encoder.layers, encoder.conv_context_size[1], encoder.subsampling
    )


def timebase(grid: FrameGrid, factor: int) -> Timebase:
    """Samples, feature frames and encoder frames of one another."""
    return Timebase(
        sample_rate=grid.sample_rate,
        samples_per_feature_frame=grid.hop,
        feature_frame_ms=grid.milliseconds(grid.hop),
        feature_frames_per_encoder_frame=factor,
        samples_per_encoder_frame=grid.hop * factor,
        encoder_frame_ms=grid.milliseconds(grid.hop * factor),
    )


def contexts(encoder: Encoder, streaming: StreamingConfig, grid: FrameGrid) -> tuple[Context, ...]:
    """How the encoder streams at each context it was trained for, then at ``streaming`` where that is another one."""
    arithmetic = streaming_encoder(encoder)
    configurations = [arithmetic.configuration(context) for context in encoder.att_context_sizes]
    if streaming not in configurations:
        configurations.append(streaming)
    return tuple(_context(encoder, configuration, grid) for configuration in configurations)


def _context(encoder: Encoder, streaming: StreamingConfig, grid: FrameGrid) -> Context:
    seen = max(encoder.subsampling.frames_out(streaming.input_frames) - streaming.drop_extra_pre_encoded, 0)
    channel, time = cache_shapes(encoder, streaming)
    return Context(
        att_context_size=streaming.att_context_size,
        streaming=streaming,
        chunk=_size(streaming.chunk_size, grid),
        shift=_size(streaming.shift_size, grid),
        pre_encode=_size(streaming.pre_encode_cache_size, grid),
        input_frames=streaming.input_frames,
        encoder_frames=min(seen, streaming.valid_out_len) if streaming.valid_out_len > 0 else seen,
        chunk_ms=grid.milliseconds(streaming.chunk_size[1] * grid.hop),
        window_ms=grid.milliseconds(grid.reach - grid.hop),
        cache_last_channel=(1, *channel[1:]),
        cache_last_time=(1, *time[1:]),
    )


def cache_shapes(encoder: Encoder, streaming: StreamingConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ``cache_last_channel`` and ``cache_last_time`` for a batch of one."""
    channel = (1, encoder.layers, streaming.last_channel_cache_size, encoder.d_model)
    return channel, (1, encoder.layers, encoder.d_model, encoder.conv_context_size[0])


def _size(frames: tuple[int, int], grid: FrameGrid) -> Size:
    first, every = (count * grid.hop for count in frames)
    return Size(frames, (first, every), (grid.milliseconds(first), grid.milliseconds(every)))


def with_encoder_ports(
    encoder: Encoder, streaming: StreamingConfig, mels: int | None, width: int, dtype: str = "float32"
) -> Encoder:
    """The encoder with the ports of one step.

    Args:
        encoder: the architecture.
        streaming: decides the slots of the attention cache.
        mels: feature bands, ``None`` where not known.
        width: of the frames returned.
        dtype: of the arithmetic.
    """
    channel, time = ((None, *shape[1:]) for shape in cache_shapes(encoder, streaming))
    shapes: dict[str, tuple[Extent, ...]] = {
        "audio_signal": (None, mels, None),
        "cache_last_channel": channel,
        "cache_last_time": time,
        "outputs": (None, width, None),
        "cache_last_channel_next": channel,
        "cache_last_time_next": time,
    }

    def ports(group: dict[str, Port]) -> tuple[ContractPort, ...]:
        return tuple(
            ContractPort.of(name, dtype if name in shapes else "int64", shapes.get(name, (None,)), port)
            for name, port in group.items()
        )

    return replace(encoder, inputs=ports(ENCODER_INPUTS), outputs=ports(ENCODER_OUTPUTS))


def with_decoder_ports(decoder: Decoder, width: int, dtype: str = "float32") -> Decoder:
    """The decoder with the ports of one step of ``decoder_joint``; ``width`` is that of an encoder frame."""
    state: tuple[Extent, ...] = (decoder.prediction_layers, None, decoder.prediction_hidden)
    shapes: dict[str, tuple[Extent, ...]] = {
        "encoder_outputs": (None, width, None),
        "outputs": (None, None, None, decoder.logits),
        **dict.fromkeys(("input_states_1", "input_states_2", "output_states_1", "output_states_2"), state),
    }
    whole: dict[str, tuple[Extent, ...]] = {"targets": (None, None)}

    def ports(names: Sequence[str]) -> tuple[ContractPort, ...]:
        return tuple(
            ContractPort(name, dtype, shapes[name], DECODER_AXES[name])
            if name in shapes
            else ContractPort(name, "int32", whole.get(name, (None,)), DECODER_AXES[name])
            for name in names
        )

    return replace(decoder, inputs=ports(DECODER_INPUTS), outputs=ports(DECODER_OUTPUTS))


def default_tolerances() -> dict[str, ContractTolerance]:
    """What ``compare`` allows where nothing was measured, by dtype."""
    return {name: ContractTolerance(atol, rtol) for name, (rtol, atol) in sorted(DTYPE_DEFAULTS.items())}
