"""The inner loops in numpy: for small jobs, for machines without numba, and for blocks that are not finite.

The two modules give the same numbers: to the last bit, but for sums, which differ by the order of their terms.
"""

from __future__ import annotations

import numpy as np

from ..tensors import Array
from .blocks import Block
from .patterns import DECADE_OF_BIN, DECADES, UNDECIDED, bins_of, decades_of
from .percentiles import Wanted
from .tally import (
    EQUAL,
    FINITE,
    FIRST_CANDIDATE,
    FIRST_REFERENCE,
    MAX_RELATIVE,
    NAN_REFERENCE,
    NONFINITE_CANDIDATE,
    NONFINITE_REFERENCE,
    ULP,
    VARIED_CANDIDATE,
    VARIED_REFERENCE,
    VIOLATIONS,
    Tally,
)


def accumulate(block: Block, atol: float, rtol: float, start: int, tally: Tally) -> None:
    """Take a block in.

    Args:
        block: the values.
        atol: absolute tolerance.
        rtol: relative tolerance.
        start: where the block begins in its region.
        tally: what is updated.
    """
    if block.reference.size == 0:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(block.reference) & np.isfinite(block.candidate)
        if finite.all():
            errors = _errors(block)
            _take(block, errors, atol, rtol, start, tally)
            _keep_worst(errors.view(np.int64), start, tally)
            return
        tally.counts[NONFINITE_REFERENCE] += np.count_nonzero(~np.isfinite(block.reference))
        tally.counts[NONFINITE_CANDIDATE] += np.count_nonzero(~np.isfinite(block.candidate))
        tally.counts[NAN_REFERENCE] += np.count_nonzero(np.isnan(block.reference))
        tally.counts[EQUAL] += np.count_nonzero((block.reference == block.candidate) & ~finite)
        tally.counts[VIOLATIONS] += np.count_nonzero(~finite)
        patterns = np.where(finite, _errors(block), np.inf).view(np.int64)
        kept = block.part(finite)
        if kept.reference.size:
            _take(kept, _errors(kept), atol, rtol, start, tally)
        _keep_worst(patterns, start, tally)


def _errors(block: Block) -> Array:
    if block.error is not None:
        return block.error
    errors: Array = np.abs(block.candidate.astype(np.float64) - block.reference.astype(np.float64))
    return errors


def _take(block: Block, errors: Array, atol: float, rtol: float, start: int, tally: Tally) -> None:
    """Take in values that are all finite."""
    reference, candidate = block.reference.astype(np.float64), block.candidate.astype(np.float64)
    magnitude = np.abs(reference)
    counts, floats = tally.counts, tally.floats
    counts[FINITE] += errors.size
    counts[EQUAL] += np.count_nonzero(errors == 0)
    counts[VIOLATIONS] += np.count_nonzero((errors > atol + rtol * magnitude) | np.isinf(errors))
    nonzero = magnitude > 0
    if nonzero.any():
        floats[MAX_RELATIVE] = max(floats[MAX_RELATIVE], np.max(errors[nonzero] / magnitude[nonzero]))
    if np.isnan(floats[FIRST_REFERENCE]):
        floats[FIRST_REFERENCE], floats[FIRST_CANDIDATE] = reference[0], candidate[0]
    counts[VARIED_REFERENCE] |= np.any(reference != floats[FIRST_REFERENCE])
    counts[VARIED_CANDIDATE] |= np.any(candidate != floats[FIRST_CANDIDATE])
    counts[ULP] = max(counts[ULP], _units(block.reference_bits, block.candidate_bits))
    means = reference.mean(), candidate.mean()
    reference, candidate = reference - means[0], candidate - means[1]
    centred = np.square(reference).sum(), np.square(candidate).sum(), (reference * candidate).sum()
    tally.rows.append((start, np.array([errors.size, errors.sum(), np.square(errors).sum(), *means, *centred])))
    if tally.histogram is None:
        tally.held.append(errors)
    else:
        bin_errors(errors.view(np.int64), tally)


def bin_errors(patterns: Array, tally: Tally) -> None:
    """Count errors by bin, and by decade those whose bin lies in two."""
    bins = bins_of(patterns)
    if tally.histogram is None or bins.size == 0:
        return
    zeros = int(np.count_nonzero(bins == 0))
    tally.histogram[0] += zeros
    if zeros < bins.size:
        low = int(bins[bins > 0].min()) if zeros else int(bins.min())
        counts = np.bincount(bins[bins > 0] - low if zeros else bins - low)
        tally.histogram[low : low + counts.size] += counts
    undecided = patterns[DECADE_OF_BIN[bins] == UNDECIDED]
    tally.decades += np.bincount(decades_of(undecided), minlength=DECADES)


def _units(reference: Array, candidate: Array) -> int:
    """Largest distance in units of the last place: integers that order like the floats, subtracted without overflow."""
    if reference.dtype == np.int32:
        sides = [np.where(bits < 0, -(1 << 31) - bits.astype(np.int64), bits) for bits in (reference, candidate)]
        return int(np.abs(sides[0] - sides[1]).max())
    half = np.uint64(1 << 63)
    patterns = [bits.view(np.uint64) for bits in (reference, candidate)]
    ordered = [np.where(bits >= half, ~bits + np.uint64(1), bits + half) for bits in patterns]
    distance = np.maximum(*ordered) - np.minimum(*ordered)
    return min(int(distance.max()), (1 << 63) - 1)


def _keep_worst(patterns: Array, start: int, tally: Tally) -> None:
    """The largest errors so far, the earlier one first where two are equal."""
    wanted = tally.worst_pattern.size
    if wanted == 1:
        candidates = np.array([int(np.argmax(patterns))])
    else:
        threshold = np.partition(patterns, -wanted)[-wanted] if patterns.size > wanted else 0
        above, equal = np.flatnonzero(patterns > threshold), np.flatnonzero(patterns == threshold)
        candidates = np.concatenate([above, equal[: wanted - above.size]])
    candidates = candidates[patterns[candidates] > tally.worst_pattern[-1]]
    if candidates.size:
        every = np.concatenate([tally.worst_pattern, patterns[candidates]])
        positions = np.concatenate([tally.worst_position, start + candidates])
        kept = np.lexsort((positions, -every))[:wanted]
        tally.worst_pattern[:], tally.worst_position[:] = every[kept], positions[kept]


def collect(block: Block, wanted: Wanted) -> None:
    """Note the errors of a block that are wanted.

    Args:
        block: the values.
        wanted: what is updated.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(block.reference) & np.isfinite(block.candidate)
        patterns = _errors(block)[finite].view(np.int64)
    patterns = patterns[np.isin(bins_of(patterns), list(wanted.first))]
    for slot in range(1, len(wanted.intervals) + 1):
        mine = patterns[(patterns > wanted.base[slot]) & (patterns <= wanted.top[slot])]
        if mine.size == 0:
            continue
        wanted.low[slot] = min(wanted.low[slot], mine.min())
        wanted.high[slot] = max(wanted.high[slot], mine.max())
        if wanted.row[slot] < 0:
            wanted.kept.append(mine)
        else:
            unit = 1 << int(wanted.finer[slot])
            wanted.tail[slot] |= np.bitwise_or.reduce(mine & (unit - 1))
            counts = wanted.counts[wanted.row[slot]]
            counts += np.bincount((mine - wanted.base[slot] + unit - 1) >> wanted.finer[slot], minlength=counts.size)


def select(errors: Array, ranks: Array) -> tuple[Array, Array]:
    """Order statistics of held errors, and errors per decade.

    Args:
        errors: float64, not negative, ``[N]``.
        ranks: places in the sorted errors, ascending, ``[K]``.

    Returns:
        The errors at those ranks, ``[K]``, and counts by decade (:mod:`.patterns`).
    """
    counts = np.bincount(decades_of(errors[errors > 0].view(np.int64)), minlength=DECADES)
    return np.partition(errors, ranks)[ranks] if ranks.size else errors[:0], counts
