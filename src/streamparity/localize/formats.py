"""Arrays as smaller number formats would hold them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..tensors import Array

UPPER_HALF = np.uint32(0xFFFF0000)


def float16(values: Array) -> Array:
    """Rounded to nearest."""
    with np.errstate(over="ignore"):
        return _as(values.astype(np.float16), values)


def bfloat16(values: Array) -> Array:
    """Rounded to nearest, ties to even: the upper half of a float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return _as(((bits + 0x7FFF + ((bits >> 16) & 1)) & UPPER_HALF).view(np.float32), values)


def bfloat16_cut(values: Array) -> Array:
    """The lower half simply left out."""
    return _as((values.astype(np.float32).view(np.uint32) & UPPER_HALF).view(np.float32), values)


def int8(values: Array) -> Array:
    """One step for the whole array, the largest value at 127."""
    step = np.abs(values).max() / 127 or 1.0
    return _as(np.round(values / step) * step, values)


def _as(rounded: Array, values: Array) -> Array:
    kept: Array = rounded.astype(values.dtype)
    return kept


FORMATS: dict[str, Callable[[Array], Array]] = {
    "float16": float16,
    "bfloat16": bfloat16,
    "bfloat16 by truncation": bfloat16_cut,
}
