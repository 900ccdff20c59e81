"""Zip archives, as ``.npz`` and ``.pt`` are: where the bytes of each member lie (PKWARE APPNOTE 4.3.7)."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..stored import FileState
from .base import BadFile, distinct, foreign, shown

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<26xHH")  # then the member's name and an extra field, of those lengths


def members(archive: zipfile.ZipFile, path: Path, state: FileState) -> dict[str, tuple[zipfile.ZipInfo, int]]:
    """Members by name, each with the offset of its bytes.

    Raises:
        BadFile: two of one name, bytes outside of the file, or more of them than the file has.
    """
    found = distinct((info.filename, (info, start)) for info, start in _located(archive, path))
    if sum(info.compress_size for info, _ in found.values()) > state.size:
        raise BadFile("its members claim more bytes than the file has")
    for name, (info, start) in found.items():
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise BadFile(f"member {shown(name)} has {info.compress_size} bytes and claims {info.file_size}")
        if start + info.compress_size > state.size:
            raise BadFile(f"member {shown(name)} reaches beyond the end of the file")
    return found


def _located(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    with open(path, "rb") as file:
        for info in archive.infolist():
            with foreign(), archive.open(info):  # checks the header in place: its name, and that it is not encrypted
                file.seek(info.header_offset)
                name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            yield info, info.header_offset + LOCAL_HEADER.size + name + extra
