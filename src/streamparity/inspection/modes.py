"""The ways to stream that a model's configuration offers, worked out without NeMo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..schedule import StreamingConfig

UNLIMITED_CACHE = 10_000  # max_context of setup_streaming_params


def contexts(encoder: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Attention contexts of an encoder's configuration; NeMo takes one, a list of them, or none (unlimited).

    Raises:
        TypeError: not numbers.
    """
    given = encoder.get("att_context_size")
    if not given:
        given = [-1, -1]
    several = given if isinstance(given[0], list) else [given]
    return [tuple(_whole(part) for part in context) for context in several]


def streaming_modes(encoder: Mapping[str, Any]) -> list[StreamingConfig]:
    """A streaming configuration per attention context, as NeMo's ``setup_streaming_params`` settles it.

    Args:
        encoder: the ``encoder`` section of ``model_config.yaml``.

    Returns:
        Nothing for a front end whose framing is not that of NeMo's ``ConvSubsampling`` (striding, dw_striding, vggnet).
    """
    if str(encoder.get("subsampling", "striding")).startswith("stacking"):
        return []
    factor, layers = _whole(encoder.get("subsampling_factor", 4)), _whole(encoder["n_layers"])
    style = str(encoder.get("att_context_style", "regular"))
    convolution = _convolution_context(encoder)
    return [_mode(context, style, factor, layers, convolution) for context in contexts(encoder)]


def _mode(
    context: tuple[int, ...], style: str, factor: int, layers: int, convolution: tuple[int, int]
) -> StreamingConfig:
    lookahead, dropped = context[1], 0
    if style == "regular":
        lookahead = dropped = (context[1] + convolution[1]) * layers
    elif style == "chunked_limited_with_rc":
        lookahead = ((context[2] if len(context) > 2 else -1) + convolution[1]) * layers
    shift = factor * (lookahead - dropped)
    return StreamingConfig(
        att_context_size=context,
        att_context_style=style,
        chunk_size=(1 + factor * lookahead, factor + factor * lookahead),
        shift_size=(1 + shift, factor + shift),
        pre_encode_cache_size=(0, factor + 1),
        sampling_frames=(1, factor),
        drop_extra_pre_encoded=2,  # 1 + factor // factor: what factor + 1 frames of history make
        cache_drop_size=dropped,
        valid_out_len=shift // factor + 1,
        last_channel_cache_size=context[0] if context[0] >= 0 else UNLIMITED_CACHE,
        subsampling_factor=factor,
    )


def _convolution_context(encoder: Mapping[str, Any]) -> tuple[int, int]:
    kernel, context = _whole(encoder.get("conv_kernel_size", 31)), encoder.get("conv_context_size")
    if context is None:
        return (kernel - 1) // 2, (kernel - 1) // 2
    return (kernel - 1, 0) if context == "causal" else (_whole(context[0]), _whole(context[1]))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value
