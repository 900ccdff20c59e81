"""The ways to stream that a model's configuration offers, worked out without NeMo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..schedule import StreamingConfig, StreamingEncoder, Subsampling


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
    factor = _whole(encoder.get("subsampling_factor", 4))
    # Kernel and padding decide how many frames come out, not how the stream is cut.
    subsampling = Subsampling(factor, factor.bit_length() - 1, kernel=3, stride=2, padding=(1, 1))
    streams = StreamingEncoder(
        str(encoder.get("att_context_style", "regular")),
        _whole(encoder["n_layers"]),
        _convolution_context(encoder)[1],
        subsampling,
    )
    return [streams.configuration(context) for context in contexts(encoder)]


def _convolution_context(encoder: Mapping[str, Any]) -> tuple[int, int]:
    kernel, context = _whole(encoder.get("conv_kernel_size", 31)), encoder.get("conv_context_size")
    if context is None:
        return (kernel - 1) // 2, (kernel - 1) // 2
    return (kernel - 1, 0) if context == "causal" else (_whole(context[0]), _whole(context[1]))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value
