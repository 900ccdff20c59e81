"""The inner loops, compiled by numba: one pass over tiles that stay in the nearest cache.

:mod:`.plain` does the same in numpy. Importing this module costs a quarter of a second and its first call another half
(once per machine some seconds, to compile), which is why :mod:`.engine` decides when to.

Written for the loop vectoriser: a tile is sliced before its loops, each loop does one thing, and maxima are taken over
bit patterns, which it can vectorise and floats not. Sums may be reassociated; products and sums are never fused, so
that no value is judged differently than by numpy.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from ..tensors import Array
from . import plain
from .blocks import Block
from .patterns import BINS, DECADE_EDGES, DECADE_OF_BIN, DECADES, INFINITE, ROUND_UP, SHIFT, UNDECIDED
from .percentiles import Wanted
from .tally import (
    EQUAL,
    ERROR,
    ERROR_SQUARE,
    FINITE,
    FIRST_CANDIDATE,
    FIRST_REFERENCE,
    MAX_RELATIVE,
    MEAN_CANDIDATE,
    MEAN_REFERENCE,
    NUMBER,
    PRODUCT,
    SQUARE_CANDIDATE,
    SQUARE_REFERENCE,
    ULP,
    VARIED_CANDIDATE,
    VARIED_REFERENCE,
    VIOLATIONS,
    Tally,
)

TILE = 2048
LOWEST_INT32 = -(1 << 31)
REASSOCIATED = {"reassoc", "nsz"}


@njit(fastmath=REASSOCIATED)
def _errors(reference, candidate, errors):
    """Errors; both sums, which say whether a side has a value that is not finite."""
    sum_r, sum_c = 0.0, 0.0
    for i in range(reference.size):
        r, c = np.float64(reference[i]), np.float64(candidate[i])
        errors[i] = abs(c - r)
        sum_r += r
        sum_c += c
    return sum_r, sum_c


@njit(fastmath=REASSOCIATED)
def _judged_errors(reference, candidate, errors, atol, rtol, relative):
    """As :func:`_errors`, with sums of the errors, and how many are zero, past tolerance, and relatively larger."""
    sum_r, sum_c, total, square = 0.0, 0.0, 0.0, 0.0
    equal, violations, larger = 0, 0, 0
    for i in range(reference.size):
        r, c = np.float64(reference[i]), np.float64(candidate[i])
        error, magnitude = abs(c - r), abs(r)
        errors[i] = error
        sum_r += r
        sum_c += c
        total += error
        square += error * error
        equal += error == 0.0
        violations += error > atol + rtol * magnitude
        larger += (error >= relative * magnitude) & (magnitude > 0.0)
    return sum_r, sum_c, total, square, equal, violations, larger


@njit(fastmath=REASSOCIATED)
def _moments(reference, candidate, mean_reference, mean_candidate):
    reference_square, candidate_square, product = 0.0, 0.0, 0.0
    for i in range(reference.size):
        r, c = np.float64(reference[i]) - mean_reference, np.float64(candidate[i]) - mean_candidate
        reference_square += r * r
        candidate_square += c * c
        product += r * c
    return reference_square, candidate_square, product


@njit
def _largest(patterns):
    largest = np.int64(0)
    for i in range(patterns.size):
        largest = max(largest, patterns[i])
    return largest


@njit(error_model="numpy")
def _relative(reference, errors, ratios):
    for i in range(errors.size):
        magnitude = abs(np.float64(reference[i]))
        ratios[i] = errors[i] / magnitude if magnitude > 0.0 else 0.0


@njit
def _as_float(pattern):
    return np.array([pattern]).view(np.float64)[0]


@njit
def _units_32(reference, candidate):
    largest = np.int64(0)
    for i in range(reference.size):
        r, c = np.int64(reference[i]), np.int64(candidate[i])
        r = r if r >= 0 else LOWEST_INT32 - r
        c = c if c >= 0 else LOWEST_INT32 - c
        largest = max(largest, abs(r - c))
    return largest


@njit
def _units_64(reference, candidate):
    largest, half = np.uint64(0), np.uint64(1 << 63)
    for i in range(reference.size):
        r, c = np.uint64(reference[i]), np.uint64(candidate[i])
        r = ~r + np.uint64(1) if r >= half else r + half
        c = ~c + np.uint64(1) if c >= half else c + half
        largest = max(largest, r - c if r > c else c - r)
    return np.int64(min(largest, half - np.uint64(1)))


@njit
def _differs(values, first):
    for i in range(values.size):
        if values[i] != first:
            return True
    return False


@njit
def _keep_worst(errors, start, worst_pattern, worst_position):
    last = worst_pattern.size - 1
    for i in range(errors.size):
        if errors[i] > worst_pattern[last]:
            place = last
            while place > 0 and errors[i] > worst_pattern[place - 1]:
                worst_pattern[place] = worst_pattern[place - 1]
                worst_position[place] = worst_position[place - 1]
                place -= 1
            worst_pattern[place] = errors[i]
            worst_position[place] = start + i


@njit
def _join(row, number, total, square, mean_r, mean_c, square_r, square_c, product):
    whole = row[NUMBER] + number
    apart_r, apart_c = mean_r - row[MEAN_REFERENCE], mean_c - row[MEAN_CANDIDATE]
    weight = row[NUMBER] * number / whole
    row[ERROR] += total
    row[ERROR_SQUARE] += square
    row[SQUARE_REFERENCE] += square_r + apart_r * apart_r * weight
    row[SQUARE_CANDIDATE] += square_c + apart_c * apart_c * weight
    row[PRODUCT] += product + apart_r * apart_c * weight
    row[MEAN_REFERENCE] += apart_r * (number / whole)
    row[MEAN_CANDIDATE] += apart_c * (number / whole)
    row[NUMBER] = whole


@njit
def _bin(pattern):
    return np.uint64(pattern + ROUND_UP) >> np.uint64(SHIFT)


@njit
def _scatter(patterns, histogram, decades, decade_of_bin, edges):
    for i in range(patterns.size):
        place = _bin(patterns[i])
        histogram[place] += 1
        if decade_of_bin[place] == UNDECIDED:
            decades[np.searchsorted(edges, patterns[i], side="right")] += 1


@njit(nogil=True, cache=True)
def _accumulate(
    reference, candidate, reference_bits, candidate_bits, atol, rtol, start,
    counts, floats, row, worst_pattern, worst_position,
    errors, patterns, hold, histogram, decades, decade_of_bin, edges,
):  # fmt: skip
    """Up to the first tile that is not finite throughout; how many values were taken in."""
    for begin in range(0, reference.size, TILE):
        end = min(begin + TILE, reference.size)
        size = end - begin
        r, c = reference[begin:end], candidate[begin:end]
        place = begin if hold else 0
        e, p = errors[place : place + size], patterns[place : place + size]
        relative = max(floats[MAX_RELATIVE], 0.0) * (1 - 1e-15)
        sum_r, sum_c, total, square, equal, violations, larger = _judged_errors(r, c, e, atol, rtol, relative)
        if not (np.isfinite(sum_r) and np.isfinite(sum_c) and np.isfinite(total)):
            return begin
        counts[FINITE] += size
        counts[EQUAL] += equal
        counts[VIOLATIONS] += violations
        if larger and (equal < size or floats[MAX_RELATIVE] < 0):
            ratios = np.empty(size)
            _relative(r, e, ratios)
            floats[MAX_RELATIVE] = max(floats[MAX_RELATIVE], _as_float(_largest(ratios.view(np.int64))))
        mean_r, mean_c = sum_r / size, sum_c / size
        square_r, square_c, product = _moments(r, c, mean_r, mean_c)
        _join(row, size, total, square, mean_r, mean_c, square_r, square_c, product)
        if np.isnan(floats[FIRST_REFERENCE]):
            floats[FIRST_REFERENCE], floats[FIRST_CANDIDATE] = r[0], c[0]
        if not counts[VARIED_REFERENCE]:
            counts[VARIED_REFERENCE] = _differs(r, floats[FIRST_REFERENCE])
        if not counts[VARIED_CANDIDATE]:
            counts[VARIED_CANDIDATE] = _differs(c, floats[FIRST_CANDIDATE])
        if equal < size:
            if reference_bits.itemsize == 4:
                units = _units_32(reference_bits[begin:end], candidate_bits[begin:end])
            else:
                units = _units_64(reference_bits[begin:end], candidate_bits[begin:end])
            counts[ULP] = max(counts[ULP], units)
        if _largest(p) > worst_pattern[-1]:
            _keep_worst(p, start + begin, worst_pattern, worst_position)
        if not hold:
            if equal < size:
                _scatter(p, histogram, decades, decade_of_bin, edges)
            else:
                histogram[0] += size
    return reference.size


class _Scratch(threading.local):
    """Tables, all zero between calls, and a buffer; kept because to make them costs more than a small array's work."""

    def __init__(self) -> None:
        self.histogram = np.zeros(BINS, np.int64)
        self.slots = np.zeros(BINS, np.int16)
        self._patterns = np.empty(0, np.int64)

    def patterns(self, size: int) -> Array:
        if self._patterns.size < size:
            self._patterns = np.empty(size, np.int64)
        return self._patterns


_scratch = _Scratch()
NO_HISTOGRAM = np.zeros(0, np.int64)


def accumulate(block: Block, atol: float, rtol: float, start: int, tally: Tally) -> None:
    """Take a block in; a part of it that is not finite is left to numpy (see :func:`.plain.accumulate`)."""
    if block.error is not None:
        return plain.accumulate(block, atol, rtol, start, tally)
    hold = tally.histogram is None
    errors = np.empty(block.reference.size if hold else TILE)
    row = np.zeros(8)
    done = _accumulate(
        block.reference, block.candidate, block.reference_bits, block.candidate_bits, atol, rtol, start,
        tally.counts, tally.floats, row, tally.worst_pattern, tally.worst_position,
        errors, errors.view(np.int64), hold, NO_HISTOGRAM if hold else tally.histogram, tally.decades,
        DECADE_OF_BIN, DECADE_EDGES,
    )  # fmt: skip
    tally.rows.append((start, row))
    if hold:
        tally.held.append(errors[:done])
    if done < block.reference.size:
        plain.accumulate(block.after(done), atol, rtol, start + done, tally)
    return None


@njit
def _hits(patterns, slots, hits):
    number = 0
    for i in range(patterns.size):
        if slots[_bin(patterns[i])]:
            hits[number] = patterns[i]
            number += 1
    return number


@njit(nogil=True, cache=True)
def _collect(
    reference, candidate, errors, patterns, hits, slots, following, base, top, finer, row, low, high, tail, counts, kept
):
    """Up to the first tile that is not finite throughout; how many values were looked at, how many errors kept."""
    number = 0
    for begin in range(0, reference.size, TILE):
        end = min(begin + TILE, reference.size)
        r, c, p = reference[begin:end], candidate[begin:end], patterns[: end - begin]
        sum_r, sum_c = _errors(r, c, errors[: end - begin])
        if not (np.isfinite(sum_r) and np.isfinite(sum_c)):
            return begin, number
        for pattern in hits[: _hits(p, slots, hits)]:
            slot = slots[_bin(pattern)]
            while slot:
                if base[slot] < pattern <= top[slot]:
                    low[slot], high[slot] = min(low[slot], pattern), max(high[slot], pattern)
                    if row[slot] < 0:
                        kept[number] = pattern
                        number += 1
                    else:
                        unit = np.int64(1) << finer[slot]
                        tail[slot] |= pattern & (unit - 1)
                        counts[row[slot], (pattern - base[slot] + unit - 1) >> finer[slot]] += 1
                slot = following[slot]
    return reference.size, number


def collect(block: Block, wanted: Wanted) -> None:
    """Note the errors of a block that are wanted (see :func:`.plain.collect`)."""
    if block.error is not None:
        return plain.collect(block, wanted)
    size = block.reference.size
    errors, hits, kept, slots = np.empty(TILE), np.empty(TILE, np.int64), _scratch.patterns(size), _scratch.slots
    bins = list(wanted.first)
    slots[bins] = list(wanted.first.values())
    done, number = _collect(
        block.reference, block.candidate, errors, errors.view(np.int64), hits,
        slots, wanted.next, wanted.base, wanted.top, wanted.finer, wanted.row,
        wanted.low, wanted.high, wanted.tail, wanted.counts, kept,
    )  # fmt: skip
    slots[bins] = 0
    wanted.kept.append(kept[:number].copy())
    if done < size:
        plain.collect(block.after(done), wanted)
    return None


@njit(cache=True)
def _select(patterns, ranks, places, histogram, slots, decades, decade_of_bin, edges, gathered):
    """Errors per decade; and the errors of the bins that hold the ranks, with each rank's place once they are sorted.

    The errors of bins that lie in two decades are gathered too, to be told apart.

    ``histogram`` and ``slots`` are all zero before and after.
    """
    smallest, largest = np.int64(INFINITE), np.int64(0)
    for i in range(patterns.size):
        smallest = min(smallest, patterns[i] if patterns[i] > 0 else np.int64(INFINITE))
        largest = max(largest, patterns[i])
    for i in range(patterns.size):
        histogram[_bin(patterns[i])] += 1
    seen, room, next_rank, slot = 0, 0, 0, 0
    ends, bins = np.empty(ranks.size + DECADES, np.int64), np.empty(ranks.size + DECADES, np.int64)
    first, last = np.int64(_bin(smallest)) if largest else np.int64(1), np.int64(_bin(largest))
    for step in range(first - 1, last + 1):
        place = 0 if step < first else step
        count = histogram[place]
        if count == 0:
            continue
        histogram[place] = 0
        decade = decade_of_bin[place] if place else 0
        wanted = decade == UNDECIDED
        while next_rank < ranks.size and ranks[next_rank] < seen + count:
            places[next_rank] = room + ranks[next_rank] - seen
            next_rank += 1
            wanted = True
        if wanted:
            ends[slot], bins[slot] = room, place
            slot += 1
            slots[place] = slot
            room += count
        if place and decade != UNDECIDED:
            decades[decade] += count
        seen += count
    for i in range(patterns.size):
        here = slots[_bin(patterns[i])]
        if here:
            gathered[ends[here - 1]] = patterns[i]
            ends[here - 1] += 1
    begin = 0
    for i in range(slot):
        slots[bins[i]] = 0
        if bins[i] and decade_of_bin[bins[i]] == UNDECIDED:
            for pattern in gathered[begin : ends[i]]:
                decades[np.searchsorted(edges, pattern, side="right")] += 1
        begin = ends[i]
    return room


def select(errors: Array, ranks: Array) -> tuple[Array, Array]:
    """Order statistics of held errors, and errors per decade (see :func:`.plain.select`)."""
    places, decades, gathered = np.empty_like(ranks), np.zeros(DECADES, np.int64), _scratch.patterns(errors.size)
    room = _select(
        errors.view(np.int64), ranks, places, _scratch.histogram, _scratch.slots, decades,
        DECADE_OF_BIN, DECADE_EDGES, gathered,
    )  # fmt: skip
    wanted = gathered[:room]
    wanted.sort()
    return wanted[places].view(np.float64), decades
