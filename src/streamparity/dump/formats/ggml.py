"""Dumps of ggml ports: four little-endian int64 ``ne``, innermost first, then chunks of elements in C order.

The order of ``ne`` is that of ``ggml_tensor.ne`` in ggml.h: ``ne[0]`` counts contiguous elements.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from ...dtypes import DType
from ..stored import FileState, StoredTensor
from . import c_order
from .base import BadFile

HEADER = struct.Struct("<4q")
LARGEST_EXTENT = 2**40


def recognised(path: Path, state: FileState, dtype: DType) -> bool:
    """Whether the file begins with four plausible extents that fit its size."""
    shape = _shape(path)
    if shape is None or not all(1 <= extent <= LARGEST_EXTENT for extent in shape):
        return False
    held = state.size - HEADER.size
    return held > 0 and held % (math.prod(shape) * dtype.itemsize) == 0


def read(path: Path, state: FileState, shape: tuple[int, ...] | None, dtype: DType) -> list[StoredTensor]:
    """Describe the chunks, ``[ne3, ne2, ne1, ne0]`` each unless ``shape`` names the same elements otherwise.

    Raises:
        BadFile: no header, one that does not fit the file's size, or another number of elements than ``shape``.
    """
    extents = _shape(path)
    if extents is None:
        raise BadFile(f"holds {state.size} bytes; a ggml header alone has {HEADER.size}", "leave out --layout ggml")
    if not all(0 <= extent <= LARGEST_EXTENT for extent in extents):
        raise BadFile(
            f"begins with ne = {list(extents[::-1])}; a ggml header is four little-endian int64 from 0 to 2^40",
            "leave out --layout ggml, or write the header first",
        )
    chunks = c_order.read(path, state, extents, dtype, HEADER.size)
    return chunks if shape is None else [_reshaped(chunk, shape) for chunk in chunks]


def _shape(path: Path) -> tuple[int, ...] | None:
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
    return HEADER.unpack(head)[::-1] if len(head) == HEADER.size else None


def _reshaped(chunk: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    known = math.prod(extent for extent in shape if extent != -1)
    unknown = chunk.size // known if known else 0
    resolved = tuple(unknown if extent == -1 else extent for extent in shape)
    if min(shape, default=0) < -1 or shape.count(-1) > 1 or math.prod(resolved) != chunk.size:
        raise BadFile(
            f"has chunks of {chunk.size} elements by its ggml header, which are none of shape {list(shape)}",
            "check --shape, or leave it out",
        )
    return StoredTensor(chunk.path, chunk.offset, resolved, chunk.dtype, chunk.state)
