"""A tensor where it lies in a file: described at once, read when and as far as it is needed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from ..dtypes import DType
from ..errors import StreamparityError
from ..tensors import Array

IN_MEMORY = 1 << 26


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
        swapped: the bytes of each element are in the other order than ``dtype`` can say, as for a big-endian bfloat16.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: DType
    state: FileState
    swapped: bool = False

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
        if self.size == 0 or self.swapped:
            return self.array()
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
        elements = buffer[: len(wanted)]
        if self.swapped:
            elements.view(f"u{self.dtype.itemsize}").byteswap(inplace=True)
        return elements.view(self.dtype)

    def check(self, status: os.stat_result) -> None:
        """Raise ``StreamparityError`` if the file is not what it was when it was described."""
        if FileState.of(status) != self.state:
            raise self._changed()

    def _changed(self) -> StreamparityError:
        return StreamparityError(
            f"{self.path} changed while it was read", "wait until the program that writes it has ended"
        )


@dataclass(frozen=True)
class StoredView:
    """A stored tensor seen in another way: permuted, cut, or with other strides.

    A small one is read into memory to be looked at. A large one is mapped, so that only what is read takes memory; a
    file that is cut short in that very moment ends the process, as it does with any mapping.

    Attributes:
        stored: what lies in the file.
        looks: views to be taken of it, one of the other.
    """

    stored: StoredTensor
    looks: tuple[Callable[[Array], Array], ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Extents as seen."""
        # The same steps over one element that stands for all: no file is opened, no memory taken.
        return tuple(self._seen(np.broadcast_to(np.zeros((), self.dtype), self.stored.shape)).shape)

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.stored.dtype

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
        """Bytes of what is seen."""
        return self.size * self.dtype.itemsize

    def mapped(self) -> Array:
        """The view, of a mapping. Raises ``StreamparityError`` if the file changed since it was described."""
        return self._seen(self.stored.mapped())

    def array(self) -> Array:
        """All of it in memory. Raises as :meth:`mapped`."""
        with self.opened() as view:
            copy: Array = view.copy()
        return copy

    @contextmanager
    def opened(self) -> Iterator[Array]:
        """The view while it is read; that the file is still the same is checked on both ends."""
        yield self._seen(self.stored.array()) if self.stored.nbytes <= IN_MEMORY else self.mapped()
        self.stored.check(os.stat(self.stored.path))

    def _seen(self, array: Array) -> Array:
        for look in self.looks:
            array = look(array)
        return array


Tensor = StoredTensor | StoredView | Array
