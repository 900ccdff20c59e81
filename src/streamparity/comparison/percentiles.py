"""Exact percentiles of errors too many to hold: which bin each rank lies in is known, a further pass finds it there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..tensors import Array
from .patterns import INFINITE, SHIFT, bins_of

KEPT = 1 << 22
DIGIT_BITS = 15


@lru_cache(maxsize=4096)
def _between(percentages: tuple[float, ...], count: int) -> tuple[Array, list[tuple[int, int, float]]]:
    """The ranks needed, ascending, and for each percentage the two it lies between and how far."""
    places = []
    for percentage in percentages if count else ():
        rank = percentage / 100 * (count - 1)
        lower = math.floor(rank)
        places.append((lower, min(lower + 1, count - 1), rank - lower))
    return np.array(sorted({rank for lower, upper, _ in places for rank in (lower, upper)}), np.int64), places


def ranks_of(percentages: tuple[float, ...], count: int) -> Array:
    """Places in ``count`` sorted values between which percentiles lie, ascending."""
    return _between(percentages, count)[0]


def interpolated(percentages: tuple[float, ...], count: int, order: Mapping[int, float]) -> list[float | None]:
    """What ``numpy.percentile`` gives (linear interpolation), to the last bit; ``None`` where there is no value.

    Args:
        percentages: 0 to 100.
        count: number of values.
        order: the values at the ranks of :func:`ranks_of`.
    """
    if count == 0:
        return [None] * len(percentages)
    found: list[float | None] = []
    for lower, upper, fraction in _between(percentages, count)[1]:
        low, high = order[lower], order[upper]
        span = high - low
        found.append(high - span * (1 - fraction) if fraction >= 0.5 else low + span * fraction)
    return found


@dataclass
class Interval:
    """Patterns above ``base`` up to ``base + 2**shift``, in which ranks lie.

    Attributes:
        count: how many errors are in it.
        ranks: the ranks, with the place of each among these errors.
    """

    base: int
    shift: int
    count: int
    ranks: dict[int, int]


def intervals_of(histogram: Array, ranks: Iterable[int]) -> list[Interval]:
    """The bins in which ranks lie, from the number of errors per bin; that of zeros needs no search."""
    return _divide(histogram, 0, SHIFT, {rank: rank for rank in ranks if rank >= histogram[0]})


def _divide(counts: Array, base: int, shift: int, ranks: Mapping[int, int]) -> list[Interval]:
    if not ranks:
        return []
    filled = np.flatnonzero(counts > 0)
    ends = np.cumsum(counts[filled])
    found: dict[int, Interval] = {}
    for rank, place in ranks.items():
        which = int(np.searchsorted(ends, place, side="right"))
        part, count = int(filled[which]), int(counts[filled[which]])
        interval = found.setdefault(part, Interval(base + ((part - 1) << shift), shift, count, {}))
        interval.ranks[rank] = place - (int(ends[which]) - count)
    return list(found.values())


class Wanted:
    """What a pass over the errors is to find out about some intervals, and finds.

    The errors of small intervals are kept. Large ones are counted by their next 15 bits, which is the end of it where
    the error has no further ones: that of two float32 close to each other is itself a float32. Arrays are by slot, the
    place of the interval and one, because 0 is none.

    Args:
        intervals: what to look for.
        room: how many errors may be kept.

    Attributes:
        first: slot of the first interval of each bin of :mod:`.patterns`.
        next: another interval of the same bin.
        base: see :class:`Interval`.
        top: the last pattern of the interval.
        finer: how many bits are left after those counted.
        row: row in ``counts``, or -1 where errors are kept.
        low: smallest pattern seen.
        high: largest.
        tail: the bits left over after those counted, of all errors together.
        counts: errors by their next bits, ``[large intervals, 2**15 + 1]``.
        kept: patterns of the small intervals.
    """

    def __init__(self, intervals: Sequence[Interval], room: int = KEPT) -> None:
        self.intervals = intervals
        self._room = room
        size = len(intervals) + 1
        self.first: dict[int, int] = {}
        self.next = np.zeros(size, np.int16)
        self.base, self.top = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.finer, self.row = np.zeros(size, np.int64), np.full(size, -1)
        self.low, self.high = np.full(size, INFINITE + 1), np.full(size, -1)
        self.tail = np.zeros(size, np.int64)
        self.kept: list[Array] = []
        for slot, interval in enumerate(intervals, 1):
            self.base[slot], self.top[slot] = interval.base, interval.base + (1 << interval.shift)
            self.finer[slot] = max(interval.shift - DIGIT_BITS, 0)
            place = int(bins_of(self.top[slot]))
            self.next[slot] = self.first.get(place, 0)
            self.first[place] = slot
        large = 0
        for slot in sorted(range(1, size), key=lambda slot: intervals[slot - 1].count):
            room -= intervals[slot - 1].count
            if room < 0:
                self.row[slot], large = large, large + 1
        self.counts = np.zeros((large, (1 << DIGIT_BITS) + 1), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of what is counted."""
        return self.counts.nbytes

    def part(self) -> Wanted:
        """An empty one for another thread."""
        return Wanted(self.intervals, self._room)

    def add_part(self, other: Wanted) -> None:
        """Take in what another thread found in its part of the errors."""
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.tail |= other.tail
        self.counts += other.counts
        self.kept += other.kept

    def close(self) -> tuple[dict[int, float], list[Interval]]:
        """After a pass: the errors at the ranks that are known now, and the intervals to look at in another pass."""
        kept = np.sort(np.concatenate([np.empty(0, np.int64), *self.kept]))
        order: dict[int, float] = {}
        deeper: list[Interval] = []
        for slot, interval in enumerate(self.intervals, 1):
            low, row, finer = int(self.low[slot]), int(self.row[slot]), int(self.finer[slot])
            if low == self.high[slot]:
                order.update(dict.fromkeys(interval.ranks, _value(low)))
            elif row < 0:
                first = int(np.searchsorted(kept, low))
                order.update({rank: _value(int(kept[first + place])) for rank, place in interval.ranks.items()})
            else:
                parts = _divide(self.counts[row], interval.base, finer, interval.ranks)
                if self.tail[slot]:
                    deeper += parts
                else:
                    order.update({rank: _value(p.base + (1 << finer)) for p in parts for rank in p.ranks})
        return order, deeper


def _value(pattern: int) -> float:
    return float(np.array(pattern, np.int64).view(np.float64))
