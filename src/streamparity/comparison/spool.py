"""Exact percentiles of a stream of numbers in bounded memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..tensors import Array

HELD_BYTES = 1 << 18
BLOCK = 1 << 18
DIGIT_BITS = 16
DIGITS = 64 // DIGIT_BITS
COLLECTED = 1 << 20


class Spool:
    """Keeps non-negative float64 values, on disk past 256 KiB, and selects order statistics without sorting them all.

    The bit pattern of a non-negative float64 orders like the number. A pass over the values counts them by the
    pattern's leading 16 bits, which says in which bin each wanted rank lies; bins too large to hold are counted again
    by their next 16 bits, and a last pass collects the others. Zeros, which a good port has many of, are only counted.
    """

    def __init__(self) -> None:
        self.count = 0
        self._zeros = 0
        self._held: list[Array] = []
        self._held_bytes = 0
        self._path: Path | None = None

    def add(self, values: Array) -> None:
        """Append non-negative float64 values ``[N]``, none of them NaN."""
        self.count += values.size
        positive = values[values > 0]
        self._zeros += values.size - positive.size
        self._held.append(positive)
        self._held_bytes += positive.nbytes
        if self._held_bytes > HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        """Append what is held to a file that lives as long as this object; it is not kept open between calls.

        The file takes 8 bytes per error that is not zero, in the folder that ``TMPDIR`` names.
        """
        if self._path is None:
            descriptor, name = tempfile.mkstemp(prefix="streamparity-")
            os.close(descriptor)
            self._path = Path(name)
            weakref.finalize(self, self._path.unlink, missing_ok=True)
        with open(self._path, "ab") as file:
            for values in self._held:
                file.write(values.tobytes())
        self._held, self._held_bytes = [], 0

    def percentiles(self, wanted: Sequence[float]) -> list[float | None]:
        """What ``numpy.percentile(values, wanted)`` gives (linear interpolation), to the last bit.

        Args:
            wanted: percentages, 0 to 100.

        Returns:
            One value each, ``None`` where nothing was added.
        """
        if self.count == 0:
            return [None] * len(wanted)
        ranks = [percentage / 100 * (self.count - 1) for percentage in wanted]
        lower = [int(np.floor(rank)) for rank in ranks]
        order = self._order_statistics({*lower, *(min(rank + 1, self.count - 1) for rank in lower)})
        return [
            _interpolate(order[low], order[min(low + 1, self.count - 1)], rank - low)
            for low, rank in zip(lower, ranks, strict=True)
        ]

    def _order_statistics(self, ranks: set[int]) -> dict[int, float]:
        found = {rank: 0.0 for rank in ranks if rank < self._zeros}
        # prefix of the pattern -> ranks that lie among the values with that prefix, counted within them
        open_bins = {0: {rank: rank - self._zeros for rank in ranks if rank >= self._zeros}}
        small_bins: dict[tuple[int, int], dict[int, int]] = {}
        for digits in range(1, DIGITS + 1):
            counts = self._count(digits, [prefix for prefix, inside in open_bins.items() if inside])
            deeper: dict[int, dict[int, int]] = {}
            for prefix, inside in open_bins.items():
                for rank, position in inside.items():
                    ends = np.cumsum(counts[prefix])
                    digit = int(np.searchsorted(ends, position, side="right"))
                    size = int(counts[prefix][digit])
                    longer, within = (prefix << DIGIT_BITS) | digit, position - int(ends[digit] - size)
                    if digits == DIGITS:
                        found[rank] = float(np.array(longer, np.uint64).view(np.float64))
                    elif size <= COLLECTED:
                        small_bins.setdefault((digits, longer), {})[rank] = within
                    else:
                        deeper.setdefault(longer, {})[rank] = within
            open_bins = deeper
        for key, values in self._collect(list(small_bins)).items():
            for rank, within in small_bins[key].items():
                found[rank] = float(np.partition(values, within)[within])
        return found

    def _count(self, digits: int, prefixes: Sequence[int]) -> dict[int, Array]:
        """For each prefix one digit shorter, how many values go on with each digit."""
        counts = {prefix: np.zeros(1 << DIGIT_BITS, np.int64) for prefix in prefixes}
        for values in self._blocks() if prefixes else ():
            leading = _leading(values, digits)
            for prefix, bins in counts.items():
                mine = leading[leading >> np.uint64(DIGIT_BITS) == prefix]
                bins += np.bincount((mine & np.uint64((1 << DIGIT_BITS) - 1)).astype(np.int64), minlength=bins.size)
        return counts

    def _collect(self, bins: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Array]:
        """The values of each (digits, prefix)."""
        parts: dict[tuple[int, int], list[Array]] = {key: [] for key in bins}
        for values in self._blocks() if bins else ():
            for (digits, prefix), found in parts.items():
                found.append(values[_leading(values, digits) == prefix])
        return {key: np.concatenate(found) for key, found in parts.items()}

    def _blocks(self) -> Iterator[Array]:
        if self._path is not None:
            with open(self._path, "rb") as file:
                while block := file.read(BLOCK * 8):
                    yield np.frombuffer(block, dtype=np.float64)
        yield from self._held


def _leading(values: Array, digits: int) -> Array:
    pattern = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    leading: Array = pattern >> np.uint64(64 - DIGIT_BITS * digits)
    return leading


def _interpolate(low: float, high: float, fraction: float) -> float:
    """As numpy does it, so that the results are equal to the last bit."""
    span = high - low
    return high - span * (1 - fraction) if fraction >= 0.5 else low + span * fraction
