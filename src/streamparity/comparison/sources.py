"""The two sides of a comparison: arrays of any library and files of any format become tensors by name and chunk."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import DTYPES
from ..dump.files import VALUE, RawLayout, Tensors, Unnamed, check_numeric, read_file
from ..dump.stored import Tensor
from ..errors import StreamparityError, first_line
from ..tensors import Array
from .shapes import seen

CPU = 1  # DLDeviceType kDLCPU (dlpack.h)


@dataclass(frozen=True)
class View:
    """How a side is brought into the other's layout.

    Attributes:
        permute: the order in which its axes are taken, as for ``numpy.transpose``.
        slices: what is taken of each axis after that; axes not mentioned are taken whole.
    """

    permute: tuple[int, ...] | None = None
    slices: tuple[slice, ...] = ()

    @staticmethod
    def parse_slices(text: str) -> tuple[slice, ...]:
        """Slices from ``0:10,:,::2``; a single number is that one place, its axis kept.

        Raises:
            StreamparityError: not of that form.
        """
        try:
            return tuple(_parse_slice(part) for part in text.split(","))
        except ValueError:
            raise StreamparityError(
                f"{text!r} is no slice", "write one range for each axis, such as 0:10,:,::2"
            ) from None

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor as seen through this.

        Raises:
            StreamparityError: the tensor has other axes.
        """
        if self.permute is None and not self.slices:
            return tensor
        if self.permute is not None and sorted(self.permute) != list(range(tensor.ndim)):
            raise StreamparityError(
                f"--permute {','.join(map(str, self.permute))} does not fit a tensor of shape {list(tensor.shape)}",
                f"name each axis from 0 to {tensor.ndim - 1} once",
            )
        if len(self.slices) > tensor.ndim:
            raise StreamparityError(
                f"--slice has {len(self.slices)} ranges, the tensor has shape {list(tensor.shape)}",
                "give at most one range for each axis",
            )
        return seen(tensor, self._seen)

    def _seen(self, array: Array) -> Array:
        turned = array if self.permute is None else array.transpose(self.permute)
        return turned[self.slices]


def _parse_slice(text: str) -> slice:
    parts = [int(part) if part.strip() else None for part in text.split(":")]
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 or None)
    if not 2 <= len(parts) <= 3 or parts[2:] == [0]:
        raise ValueError(text)
    return slice(*parts)


def tensors_of(side: Any, raw: RawLayout, view: View) -> Tensors:
    """Tensors of a file or an array, by name, one entry for each chunk; a tensor without a name is ``value``.

    Args:
        side: a path; a numpy array, a tensor of any library that has DLPack, on any device, or a number or list; or a
            mapping of those by name.
        raw: what is known about files that do not describe themselves.
        view: how to look at each tensor.

    Raises:
        StreamparityError: not readable, or not real numbers.
    """
    if isinstance(side, str | Path):
        tensors = read_file(Path(side), raw)
        return {name: [view.of(chunk) for chunk in chunks] for name, chunks in tensors.items()}
    named = {str(name): value for name, value in side.items()} if isinstance(side, Mapping) else {VALUE: side}
    if isinstance(side, Mapping) and len(named) < len(side):
        raise StreamparityError(f"two names read alike: {list(side)}", "give every tensor a name of its own")
    arrays = {name: to_numpy(value) for name, value in named.items()}
    for name, array in arrays.items():
        check_numeric(array, "the array" if isinstance(name, Unnamed) else name)
    return {name: [view.of(array)] for name, array in arrays.items()}


def paired(reference: Tensors, candidate: Tensors) -> tuple[Tensors, Tensors]:
    """Let a single tensor that has no name go by that of the other side's only tensor."""
    if len(reference) == len(candidate) == 1 and reference.keys() != candidate.keys():
        names = [next(iter(side)) for side in (reference, candidate)]
        name = next((name for name in names if not isinstance(name, Unnamed)), names[0])
        if any(isinstance(name, Unnamed) for name in names):
            return {name: next(iter(reference.values()))}, {name: next(iter(candidate.values()))}
    return reference, candidate


def to_numpy(value: Any) -> Array:
    """A numpy array of the same values, without a copy where that is possible.

    Raises:
        StreamparityError: the library will not give its tensor away.
    """
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a class of its own may have an arithmetic of its own
    try:
        if _is_torch(value):
            return _from_torch(value)
        if hasattr(value, "__dlpack__") and value.__dlpack_device__()[0] == CPU:
            return np.from_dlpack(value)
        if hasattr(value, "__dlpack__"):  # on a device, from which torch can copy it
            return _from_torch(_torch().from_dlpack(value))
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError, ImportError, AssertionError) as error:
        raise StreamparityError(
            f"a {type(value).__name__} cannot be read as an array: {first_line(error)}",
            "copy it to the CPU and into a numpy array",
        ) from None


def _torch() -> Any:
    import torch

    return torch


def _is_torch(value: Any) -> bool:
    return "torch" in sys.modules and isinstance(value, _torch().Tensor)


def _from_torch(tensor: Any) -> Array:
    """Types that numpy has not are taken as bits."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    names = {"bfloat16": "bf16", "float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2"}
    name = names.get(str(tensor.dtype).removeprefix("torch."))
    if name is None:
        return np.asarray(tensor.numpy())
    dtype, torch = DTYPES[name], _torch()
    bits = tensor.contiguous().view(torch.int16 if dtype.itemsize == 2 else torch.uint8)
    return np.asarray(bits.numpy()).view(dtype)


def total_bytes(sides: Sequence[Tensors]) -> int:
    """How much there is to compare."""
    return sum(chunk.nbytes for side in sides for chunks in side.values() for chunk in chunks)
