"""What one pass over a pair of tensors adds up. Tallies of parts make the tally of the whole, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..tensors import Array
from .patterns import BINS, DECADES

# Places in `Tally.counts`.
FINITE, EQUAL, VIOLATIONS, NONFINITE_REFERENCE, NONFINITE_CANDIDATE, NAN_REFERENCE = range(6)
ULP, VARIED_REFERENCE, VARIED_CANDIDATE = range(6, 9)
# Places in `Tally.floats`.
MAX_RELATIVE, FIRST_REFERENCE, FIRST_CANDIDATE = range(3)
# Places in a row of moments: centred ones, because raw ones of values far from zero cancel.
NUMBER, ERROR, ERROR_SQUARE, MEAN_REFERENCE, MEAN_CANDIDATE, SQUARE_REFERENCE, SQUARE_CANDIDATE, PRODUCT = range(8)


def _counts() -> Array:
    return np.zeros(9, np.int64)


def _floats() -> Array:
    return np.array([-1.0, np.nan, np.nan])


@dataclass
class Tally:
    """Accumulators of a pass, updated in place by :mod:`.kernels` and :mod:`.plain`.

    Attributes:
        worst_pattern: bit patterns of the largest errors, descending, ``[K]``; infinity where a side is not finite.
        worst_position: where they are in the region.
        counts: ``[9]``: values where both sides are finite, equal values, values past tolerance, values that are not
            finite by side, NaN in the reference, units in the last place (a maximum), whether each side varied.
        floats: ``[3]``: the largest relative error, or -1, and each side's first finite value, or NaN.
        rows: moments of each block with the position at which it begins.
        held: errors of each block in order, where they are to be kept.
        histogram: errors per bin, where they are not.
        decades: errors per decade of the bins that lie in two.
    """

    worst_pattern: Array
    worst_position: Array
    counts: Array = field(default_factory=_counts)
    floats: Array = field(default_factory=_floats)
    rows: list[tuple[int, Array]] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)
    histogram: Array | None = None
    decades: Array = field(default_factory=lambda: np.zeros(DECADES, np.int64))

    @classmethod
    def empty(cls, worst: int, hold: bool) -> Tally:
        """Nothing seen yet; ``worst`` of the largest errors will be placed, and all of them held or binned."""
        histogram = None if hold else np.zeros(BINS, np.int64)
        return cls(np.full(worst, -1, np.int64), np.zeros(worst, np.int64), histogram=histogram)

    def add_part(self, other: Tally) -> None:
        """Take in what another thread saw of the same region."""
        varied = self.counts[VARIED_REFERENCE:] | other.counts[VARIED_REFERENCE:]
        ulp = max(self.counts[ULP], other.counts[ULP])
        for place, first in enumerate((FIRST_REFERENCE, FIRST_CANDIDATE)):
            mine, theirs = self.floats[first], other.floats[first]
            if np.isnan(mine):
                self.floats[first] = theirs
            elif not np.isnan(theirs) and mine != theirs:
                varied[place] = 1
        self.counts += other.counts
        self.counts[ULP], self.counts[VARIED_REFERENCE:] = ulp, varied
        self.floats[MAX_RELATIVE] = max(self.floats[MAX_RELATIVE], other.floats[MAX_RELATIVE])
        self.rows += other.rows
        self.held += other.held
        if self.histogram is not None and other.histogram is not None:
            filled = np.flatnonzero(other.histogram > 0)  # the rest of it takes no memory as long as it is not touched
            self.histogram[filled] += other.histogram[filled]
        self.decades += other.decades
        patterns = np.concatenate([self.worst_pattern, other.worst_pattern])
        positions = np.concatenate([self.worst_position, other.worst_position])
        kept = np.lexsort((positions, -patterns))[: self.worst_pattern.size]
        self.worst_pattern, self.worst_position = patterns[kept], positions[kept]


def joined(parts: Sequence[Array]) -> Array:
    """Moments ``[8]`` of the whole from those of its parts (Chan, Golub and LeVeque's pairwise update)."""
    if len(parts) == 1:
        return parts[0]
    rows = np.array(parts).reshape(-1, 8)
    with np.errstate(over="ignore", invalid="ignore"):
        number = rows[:, NUMBER]
        whole: Array = rows.sum(axis=0)
        if whole[NUMBER] == 0:
            return whole
        for mean in (MEAN_REFERENCE, MEAN_CANDIDATE):
            whole[mean] = (number * rows[:, mean]).sum() / whole[NUMBER]
        apart = [rows[:, mean] - whole[mean] for mean in (MEAN_REFERENCE, MEAN_CANDIDATE)]
        whole[SQUARE_REFERENCE] += (number * apart[0] * apart[0]).sum()
        whole[SQUARE_CANDIDATE] += (number * apart[1] * apart[1]).sum()
        whole[PRODUCT] += (number * apart[0] * apart[1]).sum()
    return whole
