"""Element types: the names people use for them, and the few that numpy has not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import ml_dtypes
import numpy as np

from .errors import StreamparityError

DType = np.dtype[Any]
Family = Literal["float", "integer", "bool"]

# Short name, also that of safetensors in lower case -> numpy's or ml_dtypes' type.
DTYPES: dict[str, DType] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u64": np.dtype(np.uint64),
    "u32": np.dtype(np.uint32),
    "u16": np.dtype(np.uint16),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
LONG_NAMES = {dtype.name: dtype for dtype in DTYPES.values()}
# What models compute in, the finest first: types, and two ways of rounding the operands of products.
ARITHMETICS = ("float64", "float32", "tf32", "float16", "bfloat16", "int8")
EXTENSION_FLOATS = frozenset(name for name in LONG_NAMES if name.startswith(("bfloat", "float8")))

# (rtol, atol) by dtype. float32 has Polygraphy's defaults for two runtimes. torch.testing's (1.3e-6, 1e-5) are for one
# operator: what float32 alone costs the demo model's joint is past 1e-5 already, as `run --backend torch -o
# dtype=float64` shows. float64 and the 16-bit types have torch.testing.assert_close's
# (torch/testing/_comparison.py), which says nothing of float8: one unit in the last place.
DTYPE_DEFAULTS: dict[str, tuple[float, float]] = {
    "float8_e5m2": (2.5e-1, 1e-5),
    "float8_e4m3fn": (1.25e-1, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float16": (1e-3, 1e-5),
    "float32": (1e-5, 1e-5),
    "float64": (1e-7, 1e-7),
}


def parse_dtype(name: str) -> DType:
    """A dtype from ``f32``, ``float32``, ``bf16``...; a leading ``>`` or ``<`` is its byte order, where it has one.

    Raises:
        StreamparityError: an unknown name.
    """
    bare = name.strip().lower()
    order: Literal["<", ">"] = ">" if bare.startswith(">") else "<"
    bare = bare[1:] if bare[:1] in ("<", ">") else bare
    dtype = DTYPES.get(bare) or LONG_NAMES.get(bare) or LONG_NAMES.get(f"{bare}fn")
    if dtype is None:
        raise StreamparityError(f"unknown dtype {name!r}", f"use one of {', '.join(DTYPES)}; >f32 is big-endian")
    if dtype.name in EXTENSION_FLOATS:
        return dtype
    ordered: DType = dtype.newbyteorder(order)
    return ordered


def is_swapped(name: str) -> bool:
    """Whether a name asks for big-endian elements of a type that is little-endian only, as those of ml_dtypes are."""
    return name.strip().startswith(">") and parse_dtype(name).name in EXTENSION_FLOATS


@cache
def name_of(dtype: DType) -> str:
    """``dtype.name``, which takes numpy microseconds to put together."""
    return str(dtype.name)


@cache
def family(dtype: DType) -> Family | None:
    """What values of a type are compared as; ``None`` for what is no real number."""
    if dtype.name in EXTENSION_FLOATS:
        return "float"
    if dtype.itemsize > 8:  # long doubles, which float64 does not hold
        return None
    families: dict[str, Family] = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}
    return families.get(dtype.kind)


def coarsest(names: Iterable[str | None]) -> str | None:
    """The coarsest of those that are arithmetics; ``None`` without any."""
    return max({name for name in names if name in ARITHMETICS}, key=ARITHMETICS.index, default=None)


def only_float(names: Iterable[str]) -> str | None:
    """The one floating type among names of types; ``None`` where there are several, or none."""
    floats = {name for name in names if name in LONG_NAMES and family(LONG_NAMES[name]) == "float"}
    return floats.pop() if len(floats) == 1 else None
