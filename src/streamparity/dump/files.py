"""Single files of tensors from any program: raw, ``.npy``, ``.npz``, ``.safetensors``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format
from safetensors.numpy import load_file

from ..errors import StreamparityError, first_line
from ..tensors import Array

DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}


def parse_dtype(name: str) -> np.dtype[np.generic]:
    """A dtype from ``f32`` or ``float32``. Raises ``StreamparityError`` for an unknown name."""
    canonical = DTYPES.get(name, name)
    if canonical not in DTYPES.values():
        raise StreamparityError(f"unknown dtype {name!r}", f"use one of {', '.join(DTYPES)}")
    return np.dtype(canonical)


def read_tensors(path: Path, shape: Sequence[int] | None, dtype: str | None) -> dict[str, Array]:
    """Read the tensors of one file by name; raw and ``.npy`` files hold a single one, called ``value``.

    Args:
        path: the file; its suffix tells the format, anything unknown is raw, C order.
        shape: extents of a raw file; one may be -1. Formats that carry their own shape and dtype ignore both.
        dtype: element type of a raw file, little-endian; float32 when not given.

    Raises:
        StreamparityError: missing, damaged, of another size than ``shape`` says, or of a type that is not numbers.
    """
    if path.is_dir():
        raise StreamparityError(f"{path} is a folder, not a file", "give a file, or two dump folders")
    if not path.is_file():
        raise StreamparityError(f"{path} does not exist", "check the path")
    if not is_self_describing(path):
        return {"value": _read_raw(path, shape, parse_dtype(dtype or "f32"))}
    try:
        tensors = _read_self_describing(path)
        for name, tensor in tensors.items():
            check_numeric(tensor, name)
    except Exception as error:  # a damaged file makes numpy, zipfile and safetensors raise whatever they trip over
        raise StreamparityError(
            f"{path} is not a readable {path.suffix} file: {first_line(error)}",
            "write it again, as numbers of a numpy type",
        ) from None
    return tensors


def is_self_describing(path: Path) -> bool:
    """Whether files of this name carry shape and dtype themselves."""
    return path.suffix in (".npy", ".npz", ".safetensors")


def check_numeric(tensor: Array, where: str) -> None:
    """Raise ``StreamparityError`` unless ``tensor`` holds real numbers or booleans."""
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in "fiub":
        kind = tensor.dtype if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise StreamparityError(
            f"{where} holds {kind}, not real numbers", "compare arrays of floats, integers or bools"
        )


def _read_self_describing(path: Path) -> dict[str, Array]:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    if path.suffix == ".npy":
        return {"value": np.load(path, mmap_mode="r", allow_pickle=False)}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_member(archive, member)
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header promises another size than its member has, before anything is allocated."""
    with archive.open(member) as file:
        read_header = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
        extents, _, dtype = read_header[format.read_magic(file)](file)
        if file.tell() + math.prod(extents) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} promises shape {list(extents)} of {dtype}, which it does not hold")


def _read_raw(path: Path, shape: Sequence[int] | None, dtype: np.dtype[np.generic]) -> Array:
    if shape is None:
        raise StreamparityError(
            f"{path} is a raw file: its shape is not known", "pass --shape, such as --shape 1,3,1024"
        )
    size = path.stat().st_size
    elements, rest = divmod(size, dtype.itemsize)
    known = math.prod(extent for extent in shape if extent != -1)
    resolved = [elements // known if extent == -1 and known else extent for extent in shape]
    if rest or min(resolved, default=1) < 0 or math.prod(resolved) != elements:
        raise StreamparityError(
            f"{path} holds {size} bytes; shape {list(shape)} of {dtype} needs "
            f"{'a multiple of ' if -1 in shape else ''}{abs(known) * dtype.itemsize}",
            "check --shape and --dtype",
        )
    if elements == 0:
        return np.zeros(resolved, dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=tuple(resolved))
