"""``.safetensors``: a JSON header, then tensors in C order, little-endian (github.com/huggingface/safetensors)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ...dtypes import DTYPES
from ...tensors import Array
from ..stored import FileState, StoredTensor
from .base import BadFile, Tensors, check_size, checked_shape, distinct, foreign, shown

LENGTH = struct.Struct("<Q")


def read(path: Path, state: FileState) -> Tensors:
    """Its tensors by name, where they lie.

    The library validates the header (extents, sizes, no holes, no overlaps); it has no numpy type for bf16 and fp8,
    so the offsets are taken from the header here.

    Raises:
        BadFile: refused by the library, two tensors of one name, or a type that is not supported.
    """
    with foreign(), safe_open(path, framework="np"):
        pass
    with open(path, "rb") as file, foreign():
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        header = json.loads(file.read(length).decode(), object_pairs_hook=distinct)
    header.pop("__metadata__", None)
    start = LENGTH.size + length
    tensors: Tensors = {}
    for name, entry in header.items():
        dtype = DTYPES.get(entry["dtype"].lower())
        if dtype is None:
            raise BadFile(f"tensor {shown(name)} holds {entry['dtype']}", f"save it as one of {', '.join(DTYPES)}")
        shape = checked_shape(entry["shape"], dtype.itemsize)
        begin, end = entry["data_offsets"]
        check_size(end - begin, shape, dtype, f"tensor {shown(name)}")
        tensors[name] = [StoredTensor(path, start + begin, shape, dtype, state)]
    return tensors


def load(path: Path) -> dict[str, Array]:
    """All of its tensors in memory, read at once; they may be written to.

    Raises:
        BadFile: as :func:`read`, or the file changed.
        OSError: it cannot be read.
    """
    state = FileState.of(path.stat())
    tensors = read(path, state)
    content = np.fromfile(path, np.uint8)
    if content.size != state.size:
        raise BadFile("it changed while it was read")
    return {
        name: content[stored.offset : stored.offset + stored.nbytes].view(stored.dtype).reshape(stored.shape)
        for name, (stored,) in tensors.items()
        if isinstance(stored, StoredTensor)
    }
