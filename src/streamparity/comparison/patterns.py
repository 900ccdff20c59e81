"""Errors by their bit pattern: that of a float64 which is not negative orders like the number.

A *bin* holds the errors that share the leading 20 bits: sign, exponent and 8 bits of mantissa, 256 bins an octave. It
is open below and closed above, so that zero, which a good port has many of, has a bin of its own. A *decade* is the
errors from one power of ten up to the next; the few bins that contain a power of ten belong to two of them.
"""

from __future__ import annotations

import numpy as np

from ..tensors import Array

SHIFT = 44
ROUND_UP = (1 << SHIFT) - 1
INFINITE = 0x7FF0000000000000
BINS = (INFINITE >> SHIFT) + 1

LOWEST_EXPONENT = -323  # of a power of ten that float64 has
DECADE_EDGES = np.array([float(f"1e{exponent}") for exponent in range(LOWEST_EXPONENT, 309)]).view(np.int64)
DECADES = DECADE_EDGES.size + 1
UNDECIDED = -1


def bins_of(patterns: Array) -> Array:
    """The bin of each pattern (int64)."""
    found: Array = (patterns + ROUND_UP) >> SHIFT
    return found


def decades_of(patterns: Array) -> Array:
    """How many powers of ten are not above each pattern: its decade's place in a count of :data:`DECADES`."""
    found: Array = np.searchsorted(DECADE_EDGES, patterns, side="right")
    return found


def exponent_of(decade: int) -> int:
    """The power of ten at which a decade begins."""
    return decade + LOWEST_EXPONENT - 1


def _decade_of_bin() -> Array:
    edges = bins_of(DECADE_EDGES)
    decade = np.cumsum(np.bincount(edges, minlength=BINS), dtype=np.int16)
    decade[edges] = UNDECIDED
    return decade


DECADE_OF_BIN = _decade_of_bin()


def decades_of_bins(counts: Array) -> Array:
    """Errors per decade from errors per bin ``[BINS]``, without zeros and without bins that lie in two decades."""
    filled = np.flatnonzero(counts > 0)
    filled = filled[(filled > 0) & (DECADE_OF_BIN[filled] != UNDECIDED)]
    decades = np.zeros(DECADES, np.int64)
    np.add.at(decades, DECADE_OF_BIN[filled], counts[filled])
    return decades
