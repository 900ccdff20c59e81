"""What all readers share: their types, and the checks that stand between a header and memory."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ...dtypes import DType, family
from ...errors import StreamparityError, first_line
from ..stored import Tensor

Tensors = dict[str, list[Tensor]]


class Unnamed(str):
    """What a tensor is called whose format or caller gave it no name: it may be paired with a tensor of any."""


VALUE = Unnamed("value")
MOST_AXES = 32  # numpy's limit before 2.0
MOST_BYTES = 2**63 - 1
REWRITE = "write it again, whole and as numbers"

LONGEST_QUOTE = 200
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80  # a module path of NeMo's is whole
SHORT.maxlist = 8

T = TypeVar("T")


@dataclass(frozen=True)
class RawLayout:
    """What the user says about files that do not describe themselves.

    Attributes:
        shape: extents of one chunk; one may be -1.
        dtype: element type, such as ``f32`` (the default) or ``>f32``.
        layout: ``c`` for elements alone, ``ggml`` for a header before them, ``None`` to look.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    layout: Literal["c", "ggml"] | None = None


class BadFile(Exception):
    """A file is not what its format says; the caller adds the file's name.

    Args:
        problem: what it holds and what was expected.
        hint: what to do about it.
    """

    def __init__(self, problem: str, hint: str = REWRITE) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def refusal(path: object, problem: str, hint: str) -> StreamparityError:
    """An error of one line about ``path`` and one line of advice, whatever line breaks the file's names hold."""
    return StreamparityError(" ".join(f"{path} {problem}".splitlines()), " ".join(hint.splitlines()))


@contextmanager
def foreign(hint: str = REWRITE) -> Iterator[None]:
    """Around somebody else's parser: a damaged file makes it raise whatever it trips over."""
    try:
        yield
    except (BadFile, MemoryError, PermissionError):
        raise
    except Exception as error:
        raise BadFile(said(error), hint) from None


def said(error: Exception) -> str:
    """What somebody else's exception says, short enough for one line: some quote the file."""
    return first_line(error)[:LONGEST_QUOTE]


def shown(value: Any) -> str:
    """Something a file claims, short enough for one line."""
    return SHORT.repr(value)


def check_dtype(dtype: DType, where: str) -> None:
    """Raise :class:`BadFile` unless values of the type are real numbers or booleans."""
    if family(dtype) is None:
        raise BadFile(f"{where} holds {shown(str(dtype))}, not real numbers", "save floats, integers or bools")


def checked_shape(extents: Sequence[Any], itemsize: int) -> tuple[int, ...]:
    """The extents, once it is certain that numpy can have an array of them.

    Raises:
        BadFile: negative or no integers, more axes or bytes than numpy can count.
    """
    if any(type(extent) is not int or extent < 0 for extent in extents):
        raise BadFile(f"a shape is whole numbers from 0 up, not {shown(list(extents))}")
    if len(extents) > MOST_AXES:
        raise BadFile(f"a shape of {len(extents)} axes is more than the {MOST_AXES} that numpy has")
    if math.prod(extent for extent in extents if extent) * itemsize > MOST_BYTES:
        raise BadFile("its shape counts more bytes than 64 bits can")
    return tuple(extents)


def check_size(held: int, shape: Sequence[int], dtype: DType, where: str) -> None:
    """Raise :class:`BadFile` unless ``held`` bytes are what a tensor takes."""
    needed = math.prod(shape) * dtype.itemsize
    if held != needed:
        verdict = f"truncated by {needed - held}" if held < needed else f"over-long by {held - needed}"
        raise BadFile(
            f"{where} holds {held} bytes, {needed} are needed for shape {shown(list(shape))} of {dtype.name}: {verdict}"
        )


def distinct(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """A dictionary of pairs whose names differ. Raises :class:`BadFile` where two are the same."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"two entries are called {shown(name)}", "give every tensor a name of its own")
        found[name] = value
    return found
