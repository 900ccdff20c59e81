"""``.npz``: a zip archive of ``.npy`` files (numpy.savez, numpy.savez_compressed)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ..stored import FileState, Tensor
from . import archive, npy
from .base import BadFile, Tensors, check_size, distinct, foreign, shown

# What deflate can reach: 258 bytes for 2 bits (RFC 1951).
LARGEST_RATIO = 1032
BLOCK = 1 << 20


def read(path: Path, state: FileState) -> Tensors:
    """Its arrays by member name: where they lie, or in memory where the archive compresses them.

    Raises:
        BadFile: no archive, or members that are not the arrays that their headers promise.
    """
    with foreign():
        opened = zipfile.ZipFile(path)
    with opened:
        found = archive.members(opened, path, state)
        pairs = [
            (name.removesuffix(".npy"), [_tensor(opened, info, start, path, state)])
            for name, (info, start) in found.items()
        ]
    return distinct(pairs)


def _tensor(opened: zipfile.ZipFile, info: zipfile.ZipInfo, start: int, path: Path, state: FileState) -> Tensor:
    where = f"member {shown(info.filename)}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFile(f"{where} is compressed by method {info.compress_type}", "write it with numpy.savez")
    with foreign(), opened.open(info) as file:
        header = npy.parse(file.read(npy.HEAD), where)
    check_size(info.file_size - header.size, header.shape, header.dtype, where)
    if info.compress_type == zipfile.ZIP_STORED:
        return npy.described(path, state, start, header)
    if info.file_size > info.compress_size * LARGEST_RATIO:
        raise BadFile(f"{where} claims {info.file_size} bytes in {info.compress_size}, more than deflate can hold")
    with foreign(), opened.open(info) as file:
        file.read(header.size)
        elements = np.empty(info.file_size - header.size, np.uint8)
        done = 0
        while done < elements.size:
            block = file.read(min(BLOCK, elements.size - done))
            if not block:
                raise BadFile(f"{where} ends after {done} of {elements.size} bytes")
            elements.data[done : done + len(block)] = block
            done += len(block)
        if file.read(1):  # also makes zipfile check the sum over the whole member
            raise BadFile(f"{where} is longer than {info.file_size} bytes")
    return npy.in_memory(elements, header)
