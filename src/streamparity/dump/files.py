"""Single files of tensors from any program: which reader a file goes to, and how what it says becomes two lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..dtypes import family, is_swapped, parse_dtype
from .formats import c_order, ggml, npy, npz, polygraphy, records, safetensors, torch_archive
from .formats.base import VALUE, BadFile, RawLayout, Tensors, Unnamed, refusal
from .stored import FileState

__all__ = ["VALUE", "RawLayout", "Tensors", "Unnamed", "check_numeric", "is_self_describing", "read_file"]

READERS: dict[str, Callable[[Path, FileState], Tensors]] = {
    ".npy": npy.read,
    ".npz": npz.read,
    ".safetensors": safetensors.read,
    ".pt": torch_archive.read,
    ".pth": torch_archive.read,
    ".json": polygraphy.read,
    ".jsonl": records.read,
}
UNKNOWN = RawLayout()


def read_file(path: Path, raw: RawLayout = UNKNOWN) -> Tensors:
    """The tensors of a file by name, one entry per chunk; formats without names call theirs ``value``.

    The suffix tells the format, anything unknown is raw. Tensors stay in the file where its format allows
    (:class:`~.stored.StoredTensor`); those of compressed and JSON files are in memory, which their claimed size
    alone never is.

    Args:
        path: the file.
        raw: what is known about raw files; formats that describe themselves ignore it.

    Raises:
        StreamparityError: missing, a folder, damaged, of another size than its header or ``raw`` says,
            holding no tensors or values that are not numbers, or changed while it was read.
        BackendMissing: the format needs a library that is not installed.
    """
    try:
        state = _state(path)
        tensors = _read(path, state, raw)
        if FileState.of(path.stat()) != state:
            raise refusal(path, "changed while it was read", "wait until the program that writes it has ended")
    except OSError as error:
        raise refusal(
            path, f"cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from None
    except MemoryError:
        raise refusal(path, "does not fit in memory", "save it in a format without compression") from None
    if not tensors:
        raise refusal(path, "holds no tensors", "give a file with at least one")
    return tensors


def is_self_describing(path: Path, raw: RawLayout = UNKNOWN) -> bool:
    """Whether a file carries shape and dtype itself, so that those of ``raw`` say nothing about it."""
    return _format(path, raw) is not None


def check_numeric(tensor: Any, where: str) -> None:
    """Raise ``StreamparityError`` unless ``tensor`` holds real numbers or booleans."""
    dtype = getattr(tensor, "dtype", None)
    if dtype is None or family(dtype) is None:
        kind = type(tensor).__name__ if dtype is None else dtype
        raise refusal(where, f"holds {kind}, not real numbers", "compare arrays of floats, integers or bools")


def _state(path: Path) -> FileState:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise refusal(path, "does not exist", "check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise refusal(path, "is a folder, not a file", "give a file, or two dump folders")
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "is a device or a pipe, not a file", "write what it gives into a file first")
    return FileState.of(status)


def _format(path: Path, raw: RawLayout) -> str | None:
    """The format's suffix; ``None`` for a raw file. A .npy of another name is known by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in READERS:
        return suffix
    if raw.shape is None and raw.layout is None and path.is_file():
        with suppress(OSError), open(path, "rb") as file:  # who reads the file says why it cannot be read
            return ".npy" if file.read(len(npy.MAGIC)) == npy.MAGIC else None
    return None


def _read(path: Path, state: FileState, raw: RawLayout) -> Tensors:
    suffix = _format(path, raw)
    if suffix is None:
        return _read_raw(path, state, raw)
    try:
        return READERS[suffix](path, state)
    except BadFile as error:
        raise refusal(path, f"is not a readable {suffix} file: {error.problem}", error.hint) from None


def _read_raw(path: Path, state: FileState, given: RawLayout) -> Tensors:
    dtype = parse_dtype(given.dtype or "f32")
    swapped = is_swapped(given.dtype or "f32")
    has_header = given.layout is None and ggml.recognised(path, state, dtype)
    try:
        if given.layout == "ggml" or (has_header and given.shape is None):
            chunks = ggml.read(path, state, given.shape, dtype)
        elif given.shape is None:
            raise BadFile("is a raw file: its shape is not known", "pass --shape, such as --shape 1,3,1024")
        else:
            chunks = c_order.read(path, state, given.shape, dtype)
        return {VALUE: [replace(chunk, swapped=swapped) for chunk in chunks]}
    except BadFile as error:
        hint = "it begins with a ggml header: pass --layout ggml" if has_header else error.hint
        raise refusal(path, error.problem, hint) from None
