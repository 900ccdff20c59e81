"""``.pt`` and ``.pth``: what ``torch.save`` writes since 1.6, a zip archive of a pickle and one member per storage.

Only tensors come out of the pickle (``weights_only``), and their elements are read from the file, not through torch:
torch takes the size of a storage from the pickle, and maps that much of the file whatever the member's size is.
"""

from __future__ import annotations

import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import DType, parse_dtype
from ...errors import BackendMissing, StreamparityError
from ...tensors import Array
from ..stored import FileState, StoredTensor, StoredView, Tensor
from . import archive
from .base import VALUE, BadFile, Tensors, checked_shape, distinct, foreign, said, shown

SAVE = "save a dict of tensors: torch.save({name: tensor.cpu().contiguous()}, path)"
INSTALL = "pip install 'torch>=2.6'"
DATA = re.compile(r"[^/]*/data/[^/]+")
DEEPEST = 64


def read(path: Path, state: FileState) -> Tensors:
    """Its tensors by dotted name; a bare tensor is called ``value``. Whatever else the file holds is left out.

    Raises:
        BackendMissing: no torch, or one older than 2.6, whose ``weights_only`` is unsafe (CVE-2025-32434).
        BadFile: a TorchScript archive, a pickle, objects other than tensors, or sizes that do not agree.
    """
    _check_kind(path)
    torch = _torch()
    with foreign():
        opened = zipfile.ZipFile(path)
    with opened:
        found = archive.members(opened, path, state)
        with foreign():
            order = [opened.open(info).read(16) for name, (info, _) in found.items() if name.endswith("/byteorder")]
    if any(name.endswith("/constants.pkl") for name in found):
        raise BadFile("it is a TorchScript archive, a program and not tensors", SAVE)
    if any(info.compress_type != zipfile.ZIP_STORED for info, _ in found.values()):
        raise BadFile("its members are compressed, which torch.save never does", SAVE)
    if order not in ([], [sys.byteorder.encode()]):
        raise BadFile(f"it was written on a machine of another byte order ({shown(order)})", "save it on this machine")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of another protocol
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and the pickle raise whatever they trip over
        raise BadFile(_objection(error), SAVE) from None
    tensors = distinct(_flatten(content, state.size, torch.Tensor))
    starts = _storage_offsets(tensors, found)
    return {name: [_described(name, tensor, starts, path, state)] for name, tensor in tensors.items()}


def _objection(error: Exception) -> str:
    """What is in the file, where torch explains how to load it unsafely."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"it holds objects of {named[1]}, not only tensors"
    return "its pickle is damaged or holds more than tensors" if "Weights only" in str(error) else said(error)


def _check_kind(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(len(archive.MAGIC))
    if head != archive.MAGIC:
        kind = "a bare pickle, or from torch before 1.6" if head[:1] == b"\x80" else "not a zip archive"
        raise BadFile(f"it is {kind}, not what torch.save writes", SAVE)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise BackendMissing("reading .pt files needs torch, which is not installed", INSTALL) from None
    if torch.__version__ < (2, 6):
        raise BackendMissing(f"torch {torch.__version__} cannot read .pt files safely, 2.6 can", INSTALL)
    return torch


def _flatten(content: Any, most: int, tensor_type: type) -> Iterator[tuple[str, Any]]:
    """Tensors in nested containers; ``most`` bounds the visits, as a pickle can name one list many times over."""
    pending = [("", content, 0)]
    visits = 0
    while pending:
        name, item, depth = pending.pop()
        visits += 1
        if depth > DEEPEST or visits > most:
            raise BadFile("its containers hold each other, or nest too deep", SAVE)
        if isinstance(item, tensor_type):
            yield name or VALUE, item
            continue
        entries = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list | tuple) else ()
        below = [(f"{name}.{key}" if name else str(key), value, depth + 1) for key, value in entries]
        pending.extend(reversed(below))


def _storage_offsets(tensors: dict[str, Any], found: dict[str, tuple[zipfile.ZipInfo, int]]) -> dict[int, int]:
    """Address of each storage -> offset of its member in the file.

    torch maps the file once, so that both are in the same order and at the same distance.
    """
    for name, tensor in tensors.items():
        if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu" or tensor.is_quantized:
            raise BadFile(f"tensor {shown(name)} is not dense on the CPU", SAVE)
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    mapped = sorted({(storage.data_ptr(), storage.nbytes()) for storage in storages if storage.nbytes()})
    members = sorted(
        (start, info.file_size) for name, (info, start) in found.items() if info.file_size and DATA.fullmatch(name)
    )
    distances = {address - start for (address, _), (start, _) in zip(mapped, members, strict=False)}
    if [size for _, size in mapped] != [size for _, size in members] or len(distances) > 1:
        raise BadFile(
            f"its tensors claim {sum(size for _, size in mapped)} bytes in {len(mapped)} storages, the archive has "
            f"{sum(size for _, size in members)} in {len(members)}"
        )
    return {address: start for (address, _), (start, _) in zip(mapped, members, strict=True)}


def _described(name: str, tensor: Any, starts: dict[int, int], path: Path, state: FileState) -> Tensor:
    dtype = _dtype(name, tensor)
    shape = checked_shape(list(tensor.shape), dtype.itemsize)
    if tensor.numel() == 0:
        return StoredTensor(path, 0, shape, dtype, state)
    storage = tensor.untyped_storage()
    elements = storage.nbytes() // dtype.itemsize
    last = sum((extent - 1) * stride for extent, stride in zip(shape, tensor.stride(), strict=True))
    if tensor.numel() > elements or tensor.storage_offset() + last >= elements:
        raise BadFile(f"tensor {shown(name)} of shape {shown(list(shape))} has only {elements} elements", SAVE)
    if tensor.is_neg() or tensor.is_conj():
        raise BadFile(f"tensor {shown(name)} is a view that torch has not computed yet", SAVE)
    start = starts[storage.data_ptr()]
    if tensor.is_contiguous():
        return StoredTensor(path, start + tensor.storage_offset() * dtype.itemsize, shape, dtype, state)
    offset, strides = tensor.storage_offset(), tensor.stride()

    def strided(whole: Array) -> Array:
        steps = [stride * whole.strides[0] for stride in strides]
        return np.lib.stride_tricks.as_strided(whole[offset:], shape, steps, writeable=False)

    return StoredView(StoredTensor(path, start, (elements,), dtype, state), (strided,))


def _dtype(name: str, tensor: Any) -> DType:
    try:
        return parse_dtype(str(tensor.dtype).removeprefix("torch."))
    except StreamparityError:
        raise BadFile(f"tensor {shown(name)} holds {tensor.dtype}", "save floats, integers or bools") from None
