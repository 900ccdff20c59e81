"""A tensor where it lies in a file: described at once, read when and as far as it is needed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from ..dtypes import DType
from ..errors import StreamparityError
from ..tensors import Array


@dataclass(frozen=True)
class FileState:
    """What changes when somebody writes to a file."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """From ``os.stat``."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in C order inside a file.

    Attributes:
        path: the file.
        offset: where its first byte is.
        shape: extents.
        dtype: element type as stored, in either byte order.
        state: the file when it was described.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: DType
    state: FileState

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return self.size * self.dtype.itemsize

    def array(self) -> Array:
        """All of it in memory.

        Raises:
            StreamparityError: the file changed since it was described.
        """
        buffer = np.empty(self.nbytes, np.uint8)
        with self.opened() as file:
            self.read(file, 0, self.size, buffer)
        return buffer.view(self.dtype).reshape(self.shape)

    def mapped(self) -> Array:
        """A read-only mapping of it, for views that are not read in order.

        Raises:
            StreamparityError: the file changed since it was described.
        """
        self.check(os.stat(self.path))
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """The file, for :meth:`read`; that it is still the same is checked on both ends. Every thread opens its own."""
        with open(self.path, "rb", buffering=0) as file:
            self.check(os.fstat(file.fileno()))
            yield file
            self.check(os.fstat(file.fileno()))

    def read(self, file: FileIO, start: int, stop: int, buffer: Array) -> Array:
        """Elements ``start`` to ``stop`` into ``buffer`` (bytes, ``[>= n]``).

        Returns:
            A view of the buffer, ``[stop - start]``, as stored.

        Raises:
            StreamparityError: the file ends early.
        """
        wanted = buffer.data[: (stop - start) * self.dtype.itemsize]
        file.seek(self.offset + start * self.dtype.itemsize)
        done = 0
        while done < len(wanted):
            count = file.readinto(wanted[done:])
            if not count:
                raise self._changed()
            done += count
        return buffer[: len(wanted)].view(self.dtype)

    def check(self, status: os.stat_result) -> None:
        """Raise ``StreamparityError`` if the file is not what it was when it was described."""
        if FileState.of(status) != self.state:
            raise self._changed()

    def _changed(self) -> StreamparityError:
        return StreamparityError(
            f"{self.path} changed while it was read", "wait until the program that writes it has ended"
        )
