"""``.npy``: numpy's header, then one array (numpy/lib/format.py, NEP 1)."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format

from ...dtypes import DType
from ...tensors import Array
from ..stored import FileState, StoredTensor, StoredView, Tensor
from .base import VALUE, BadFile, Tensors, check_dtype, check_size, checked_shape, foreign

HEAD = 16_384  # bytes that hold any header: numpy refuses one longer than 10 000
MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Header:
    """What stands before the elements.

    Attributes:
        shape: extents as numpy shows them.
        dtype: element type, in either byte order.
        fortran: the first axis varies fastest.
        size: bytes of the header itself.
    """

    shape: tuple[int, ...]
    dtype: DType
    fortran: bool
    size: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Extents in C order of the bytes as they are stored."""
        return self.shape[::-1] if self.fortran else self.shape


def read(path: Path, state: FileState) -> Tensors:
    """The one array of a file. Raises :class:`BadFile`."""
    with open(path, "rb") as file:
        header = parse(file.read(HEAD), "the file")
    check_size(state.size - header.size, header.shape, header.dtype, "the file")
    return {VALUE: [described(path, state, 0, header)]}


def parse(head: bytes, where: str) -> Header:
    """The header at the start of ``head``, of an array that numpy can have.

    Raises:
        BadFile: no header, another version than 1.0 and 2.0, values that are not numbers.
    """
    stream = io.BytesIO(head)
    if not head.startswith(MAGIC):
        raise BadFile(f"{where} does not begin as a .npy file does")
    with foreign(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about headers that Python 2 wrote
        version = format.read_magic(stream)
        # 3.0 is for structures with field names beyond Latin-1.
        readers = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
        if version not in readers:
            raise BadFile(f"{where} is a .npy of version {version[0]}.{version[1]}, not 1.0 or 2.0")
        extents, fortran, dtype = readers[version](stream)
    if dtype.kind == "V" and dtype.names is None:
        raise BadFile(
            f"{where} holds {dtype.str}, bytes that numpy has no type for", "save bf16 and fp8 as .safetensors"
        )
    check_dtype(dtype, where)
    return Header(checked_shape(extents, dtype.itemsize), dtype, fortran, stream.tell())


def described(path: Path, state: FileState, start: int, header: Header) -> Tensor:
    """The array whose header begins at byte ``start`` of a file."""
    stored = StoredTensor(path, start + header.size, header.stored_shape, header.dtype, state)
    if header.fortran and len(header.shape) > 1:
        return StoredView(stored, (np.transpose,))
    return StoredTensor(path, stored.offset, header.shape, header.dtype, state)


def in_memory(elements: Array | bytes, header: Header) -> Array:
    """The array of elements that are in memory already."""
    array = np.frombuffer(elements, header.dtype).reshape(header.stored_shape)
    return array.T if header.fortran else array


def decode(content: bytes, where: str) -> Array:
    """The array of a ``.npy`` that is in memory. Raises :class:`BadFile`."""
    header = parse(content[:HEAD], where)
    elements = content[header.size :]
    check_size(len(elements), header.shape, header.dtype, where)
    return in_memory(elements, header)
