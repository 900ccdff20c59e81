"""Elements in C order and nothing else; a file of k times the shape is k chunks."""

from __future__ import annotations

import math
from pathlib import Path

from ...dtypes import DType
from ..stored import FileState, StoredTensor
from .base import BadFile, checked_shape, shown

# A description takes 300 bytes of memory: a shape of 1 on a file of 1 GiB would take more than the file.
MOST_CHUNKS = 2**18


def read(path: Path, state: FileState, shape: tuple[int, ...], dtype: DType, header: int = 0) -> list[StoredTensor]:
    """Describe the chunks of a file.

    Args:
        path: the file.
        state: the file as it was when its size was taken.
        shape: extents of one chunk; one may be -1, and then all of the file is one chunk.
        dtype: element type.
        header: bytes before the first chunk.

    Raises:
        BadFile: the file's size is no multiple of the shape's, or no array can have such a shape.
    """
    held = state.size - header
    needs = f"holds {held} bytes{' behind its header' if header else ''}; shape {shown(list(shape))} of {dtype.name}"
    if shape.count(-1) > 1 or (-1 in shape and 0 in shape):
        raise BadFile(f"{needs} leaves more than one answer", "check --shape: one extent may be -1, the others not 0")
    try:
        extents = checked_shape([extent for extent in shape if extent != -1], dtype.itemsize)
    except BadFile as error:
        raise BadFile(f"{needs} is none: {error.problem}", "check --shape") from None
    size = math.prod(extents) * dtype.itemsize
    count, rest = divmod(held, size) if size else (0, held)
    multiple = "a multiple of " if -1 in shape else ""
    if rest or (count == 0 and size and -1 not in shape):
        parts = f"over-long by {rest}" if not size else f"truncated, the last one has {rest}" if rest else "truncated"
        raise BadFile(f"{needs} needs {multiple}{size} per chunk: {parts}", "check --shape and --dtype")
    if -1 in shape:
        whole = tuple(count if extent == -1 else extent for extent in shape)
        return [StoredTensor(path, header, whole, dtype, state)]
    if count > MOST_CHUNKS:
        raise BadFile(f"{needs} makes {count} chunks, more than {MOST_CHUNKS}", "check --shape: one chunk's extents")
    return [StoredTensor(path, header + index * size, extents, dtype, state) for index in range(max(count, 1))]
