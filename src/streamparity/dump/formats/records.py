"""JSON lines with arrays in base64, as porting scripts write them: ``{"dtype", "shape", "data_b64"}``.

Every line is an object. Arrays are found wherever they are in it and named by the keys that lead there, joined by
dots; the k-th line that has a name holds its chunk k.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import DType, parse_dtype
from ...errors import StreamparityError
from ...tensors import Array
from ..stored import FileState
from .base import VALUE, BadFile, Tensors, check_dtype, check_size, checked_shape, distinct, shown

KEYS = {"dtype", "shape", "data_b64"}
DEEPEST = 64

Decoder = Callable[[dict[str, Any], str], Array | None]


class NotJson(BadFile):
    """Text that no JSON parser takes, as against JSON that says something wrong."""


def read(path: Path, state: FileState) -> Tensors:
    """Its arrays by name, in memory.

    Raises:
        BadFile: a line that is no JSON object, the last one cut off, or an array that is not what it says.
    """
    return collect(_lines(path), decode)


def is_line(line: bytes) -> bool:
    """Whether a line is a record by itself."""
    try:
        return isinstance(parse(line, "it"), dict)
    except BadFile:
        return False


def parse(text: bytes, where: str) -> Any:
    """JSON, in which no object has a key twice. Raises :class:`BadFile`, or :class:`NotJson`."""
    try:
        return json.loads(text.decode(), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"{where} is not JSON: {error}") from None


def collect(records: Iterable[tuple[str, Any]], decoder: Decoder) -> Tensors:
    """The arrays of records, by name, in order.

    Args:
        records: each with what to call it in an error.
        decoder: the array that an object is, ``None`` where it is none.
    """
    tensors: Tensors = {}
    for where, record in records:
        for name, array in distinct(_arrays(record, "", where, decoder)).items():
            tensors.setdefault(name, []).append(array)
    return tensors


def from_base64(text: Any, where: str) -> bytes:
    """Bytes of strict base64. Raises :class:`BadFile`."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadFile(f"{where} is not base64: {error}") from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"line {number}"
            if not line.strip():
                continue
            try:
                record = parse(line, where)
            except NotJson:
                if line.endswith(b"\n"):
                    raise
                raise BadFile(f"{where}, the last one, is cut off after {len(line)} bytes") from None
            if not isinstance(record, dict):
                raise BadFile(f"{where} holds {shown(record)}, not an object")
            yield where, record


def _arrays(item: Any, name: str, where: str, decoder: Decoder, depth: int = 0) -> Iterator[tuple[str, Array]]:
    if depth > DEEPEST:
        raise BadFile(f"{where} nests more than {DEEPEST} levels")
    if isinstance(item, dict):
        array = decoder(item, f"{where}, {shown(name)}" if name else where)
        if array is not None:
            yield name or _own_name(item), array
            return
        entries: Iterable[tuple[Any, Any]] = item.items()
    elif isinstance(item, list):
        entries = enumerate(item)
    else:
        return
    for key, value in entries:
        yield from _arrays(value, f"{name}.{key}" if name else str(key), where, decoder, depth + 1)


def _own_name(record: dict[str, Any]) -> str:
    return next((record[key] for key in ("name", "tensor") if isinstance(record.get(key), str)), VALUE)


def decode(item: dict[str, Any], where: str) -> Array | None:
    """The array that a record is; ``None`` where it is none. Raises :class:`BadFile`."""
    if not item.keys() >= KEYS:
        return None
    dtype = _dtype(item["dtype"], where)
    if not isinstance(item["shape"], list):
        raise BadFile(f"{where} has shape {shown(item['shape'])}, not a list")
    shape = checked_shape(item["shape"], dtype.itemsize)
    content = from_base64(item["data_b64"], where)
    check_size(len(content), shape, dtype, where)
    return np.frombuffer(content, dtype).reshape(shape)


def _dtype(name: Any, where: str) -> DType:
    """``f32``, ``float32``, ``torch.float32`` or numpy's ``<f4``: scripts write what their library prints."""
    if not isinstance(name, str):
        raise BadFile(f"{where} has dtype {shown(name)}, not a name")
    if re.fullmatch(r"[<>|][fiub][1248]", name):  # with its sign, as numpy prints it: a bare i8 is one byte here
        dtype = np.dtype(name)
        check_dtype(dtype, where)
        return dtype
    try:
        return parse_dtype(name.removeprefix("torch."))
    except StreamparityError as error:
        raise BadFile(f"{where} has an {error.message}", error.hint) from None
