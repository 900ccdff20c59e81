"""Chooses the loops and drives them over pairs of tensors of any size, in several threads where that is worth it."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import Protocol

import numpy as np

from ..dump.stored import StoredTensor, StoredView, Tensor
from ..tensors import Array, Origin
from . import plain
from .blocks import Block, block_of
from .percentiles import Wanted
from .tally import Tally

Region = tuple[Tensor, Tensor, Origin]
Visit = Callable[[int, Block], None]
Read = Callable[[int, int], Array]

BLOCK = 1 << 17
MOST_BLOCKS = 1 << 16  # of a tensor: each leaves a row of moments
THREADED = 1 << 20
THREADS = min(4, os.cpu_count() or 1)
# Bytes with which numpy is done before numba would be loaded.
COMPILED_FROM = 64 << 20
KERNELS = f"{__package__}.kernels"
COPIED_WHOLE = 1 << 22


class Loops(Protocol):
    """What :mod:`.plain` and :mod:`.kernels` provide."""

    def accumulate(self, block: Block, atol: float, rtol: float, start: int, tally: Tally) -> None:
        """See :func:`.plain.accumulate`."""

    def collect(self, block: Block, wanted: Wanted) -> None:
        """See :func:`.plain.collect`."""

    def select(self, errors: Array, ranks: Array) -> tuple[Array, Array]:
        """See :func:`.plain.select`."""


class _Work:
    """How much this process has compared."""

    nbytes = 0


def loops_for(nbytes: int) -> Loops:
    """The inner loops for so many bytes more: compiled, where numba is installed, once it pays to load them."""
    _Work.nbytes += nbytes
    return _compiled() if _Work.nbytes >= COMPILED_FROM or KERNELS in sys.modules else plain


@cache
def _compiled() -> Loops:
    """The compiled loops, tried out: numba may be absent, not fit this numpy, or find no place for its cache."""
    try:
        loops: Loops = importlib.import_module(KERNELS)
        pair = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
        for hold in (True, False):
            loops.accumulate(block_of(*pair), 0.0, 0.0, 0, Tally.empty(1, hold))
    except Exception:  # whatever it is, numpy gives the same numbers
        return plain
    return loops


def accumulate(loops: Loops, reference: Tensor, candidate: Tensor, atol: float, rtol: float, tally: Tally) -> None:
    """Take a pair of equally shaped tensors into a tally, one pass over both.

    Raises:
        StreamparityError: a file changed while it was read.
    """
    if isinstance(reference, np.ndarray) and isinstance(candidate, np.ndarray) and reference.size <= BLOCK:
        return loops.accumulate(block_of(_flat(reference), _flat(candidate)), atol, rtol, 0, tally)

    def visitor(mine: Tally) -> Visit:
        return lambda start, block: loops.accumulate(block, atol, rtol, start, mine)

    parts = [Tally.empty(tally.worst_pattern.size, tally.histogram is None) for _ in range(_threads(reference) - 1)]
    _scan(reference, candidate, [visitor(mine) for mine in (tally, *parts)])
    for part in parts:
        tally.add_part(part)
    return None


def collect(loops: Loops, reference: Tensor, candidate: Tensor, wanted: Wanted) -> None:
    """Look for wanted errors in a pair of equally shaped tensors, one pass over both.

    Raises:
        StreamparityError: a file changed while it was read.
    """

    def visitor(mine: Wanted) -> Visit:
        return lambda _, block: loops.collect(block, mine)

    parts = [wanted.part() for _ in range(_threads(reference) - 1)]
    _scan(reference, candidate, [visitor(mine) for mine in (wanted, *parts)])
    for part in parts:
        wanted.add_part(part)


def values_at(tensor: Tensor, start: int, stop: int) -> Array:
    """A few values by their places in C order."""
    if isinstance(tensor, StoredView):
        with tensor.opened() as view:
            return view.flat[start:stop]
    if not isinstance(tensor, StoredTensor):
        return tensor.flat[start:stop]
    with tensor.opened() as file:
        return tensor.read(file, start, stop, np.empty((stop - start) * tensor.dtype.itemsize, np.uint8))


def _threads(tensor: Tensor) -> int:
    return THREADS if tensor.size >= THREADED else 1


def _scan(reference: Tensor, candidate: Tensor, visitors: Sequence[Visit]) -> None:
    """Show every block of a pair to one of the visitors, each of which works in a thread of its own."""
    step = max(BLOCK, -(-reference.size // MOST_BLOCKS))
    starts, lock, failed = iter(range(0, reference.size, step)), threading.Lock(), threading.Event()

    def work(visit: Visit) -> None:
        with ExitStack() as stack:
            read_reference, read_candidate = _reader(reference, step, stack), _reader(candidate, step, stack)
            while not failed.is_set():
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                stop = min(start + step, reference.size)
                visit(start, block_of(read_reference(start, stop), read_candidate(start, stop)))

    def work_or_stop(visit: Visit) -> None:
        try:
            work(visit)
        except BaseException:
            failed.set()
            raise

    if len(visitors) == 1:
        return work(visitors[0])
    with ThreadPoolExecutor(len(visitors)) as pool:
        try:
            for _ in pool.map(work_or_stop, visitors):
                pass
        finally:
            failed.set()  # an interruption, too, must not wait for the rest of the file


def _reader(tensor: Tensor, step: int, stack: ExitStack) -> Read:
    """Reads flat stretches of a tensor, ``step`` values at most; what it returns is good until the next call."""
    if isinstance(tensor, StoredTensor):
        stored, file = tensor, stack.enter_context(tensor.opened())
        buffer = np.empty(min(step, stored.size) * stored.dtype.itemsize, np.uint8)
        return lambda start, stop: stored.read(file, start, stop, buffer)
    if isinstance(tensor, StoredView):
        tensor = stack.enter_context(tensor.opened())
    if tensor.flags.c_contiguous or tensor.size <= COPIED_WHOLE:
        flat = _flat(tensor)
        return lambda start, stop: flat[start:stop]
    scattered = tensor.flat
    return lambda start, stop: scattered[start:stop]


def _flat(array: Array) -> Array:
    return (array if array.flags.c_contiguous else np.ascontiguousarray(array)).reshape(-1)
