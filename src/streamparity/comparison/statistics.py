"""What the result says about one tensor's numbers, accumulated chunk by chunk in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ..dump.stored import Tensor
from ..tensors import Array, Origin
from . import plain
from .blocks import has_units
from .engine import Loops, Region, accumulate, collect, values_at
from .patterns import BINS, decades_of_bins, exponent_of
from .percentiles import Interval, Wanted, interpolated, intervals_of, ranks_of
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
    NAN_REFERENCE,
    NONFINITE_CANDIDATE,
    NONFINITE_REFERENCE,
    NUMBER,
    PRODUCT,
    SQUARE_CANDIDATE,
    SQUARE_REFERENCE,
    ULP,
    VARIED_CANDIDATE,
    VARIED_REFERENCE,
    VIOLATIONS,
    Tally,
    joined,
)
from .tolerance import Tolerance

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
# Errors of a tensor that are held in memory; beyond, they are binned, and percentiles take a second pass.
HELD = 1 << 15
ROWS = 1 << 10
NEIGHBOURS = 3
WORST = 5  # errors that a report shows of each tensor


class Statistics:
    """Everything the result says about one tensor's numbers.

    Args:
        tolerance: the pass rule, which the result shows.
        loops: the inner loops to use.
        percentiles: percentages to report.
        worst: how many of the largest errors to show with what is around them; one is always placed.
    """

    def __init__(
        self,
        tolerance: Tolerance,
        loops: Loops = plain,
        percentiles: Sequence[float] = PERCENTILES,
        worst: int = 0,
    ) -> None:
        self.tolerance = tolerance
        self.elements = 0
        self.per_chunk_max_abs: dict[int, float | None] = {}
        self.first_failed_chunk: int | None = None
        self.worst: list[dict[str, Any]] = []
        self._worst_patterns: list[int] = []
        self._max_pattern = -1
        self._loops = loops
        self._percentiles = tuple(percentiles)
        self._neighbourhoods = worst
        self._tally = Tally.empty(max(worst, 1), hold=True)
        self._units = True
        self._order: dict[int, float] | None = None
        self._intervals: list[Interval] = []
        self._wanted: Wanted | None = None

    @property
    def violations(self) -> int:
        """How many values are past tolerance."""
        return int(self._tally.counts[VIOLATIONS])

    @property
    def nonfinite(self) -> dict[str, int]:
        """Values that are NaN or infinite, by side."""
        counts = self._tally.counts
        return {"reference": int(counts[NONFINITE_REFERENCE]), "candidate": int(counts[NONFINITE_CANDIDATE])}

    @property
    def constant(self) -> bool:
        """Each side holds one value throughout: a mistake in any place but all of them could not have shown."""
        counts, floats = self._tally.counts, self._tally.floats
        both_zero = floats[FIRST_REFERENCE] == floats[FIRST_CANDIDATE] == 0
        varied = counts[VARIED_REFERENCE] or counts[VARIED_CANDIDATE]
        return bool(not varied and (self.elements > 1 or both_zero))

    @property
    def not_finite(self) -> str | None:
        """How many values are NaN or infinite, where any is: that makes the tensor fail."""
        counts = self.nonfinite
        if not any(counts.values()):
            return None
        return f"not finite: {counts['reference']} values of the reference, {counts['candidate']} of the candidate"

    def add(self, chunk: int, regions: Iterable[Region], tolerance: Tolerance | None = None) -> bool:
        """Take in one chunk.

        Args:
            chunk: its index.
            regions: equally shaped parts of reference and candidate, one per batch item, and where each lies in the
                whole tensor.
            tolerance: the chunk's own, where its types may be others than those of chunks before.

        Returns:
            Whether the chunk is within tolerance: no value past it, or only an allowed fraction, and all finite.
        """
        tolerance = tolerance or self.tolerance
        before, elements_before, chunk_max = self._tally.counts.tolist(), self.elements, -1
        for reference, candidate, origin in regions:
            if reference.size == 0:
                continue
            self.elements += reference.size
            self._units &= has_units(reference.dtype, candidate.dtype)
            self._make_room()
            self._tally.worst_pattern.fill(-1)
            accumulate(self._loops, reference, candidate, tolerance.atol, tolerance.rtol, self._tally)
            chunk_max = max(chunk_max, int(self._tally.worst_pattern[0]))
            self._place_worst(chunk, reference, candidate, origin)
        self.per_chunk_max_abs[chunk] = None if chunk_max < 0 else _number(_float(chunk_max))
        after = self._tally.counts.tolist()
        finite = all(after[side] == before[side] for side in (NONFINITE_REFERENCE, NONFINITE_CANDIDATE))
        allowed = tolerance.outliers * (self.elements - elements_before) if finite else 0
        passed = bool(after[VIOLATIONS] - before[VIOLATIONS] <= allowed)
        if not passed and self.first_failed_chunk is None:
            self.first_failed_chunk = chunk
        return passed

    def _make_room(self) -> None:
        """Go over from holding errors to binning them where they become too many to hold."""
        tally = self._tally
        if tally.histogram is None and self.elements > HELD:
            tally.histogram = np.zeros(BINS, np.int64)
            for errors in tally.held:
                plain.bin_errors(errors.view(np.int64), tally)
            tally.held = []
        if len(tally.rows) > ROWS:
            tally.rows = [(-1, self._moments())]

    def _moments(self) -> Array:
        """Moments of all blocks, joined in an order that does not depend on which thread was faster."""
        rows = sorted(self._tally.rows, key=itemgetter(0))
        return joined([row for _, row in rows])

    def _place_worst(self, chunk: int, reference: Tensor, candidate: Tensor, origin: Origin) -> None:
        """Merge the region's largest errors into the run's, the earlier one first where two are equal."""
        wanted = self._tally.worst_pattern.size
        for pattern, position in zip(
            self._tally.worst_pattern.tolist(), self._tally.worst_position.tolist(), strict=True
        ):
            if pattern < 0 or (len(self.worst) == wanted and pattern <= self._worst_patterns[-1]):
                return
            place = sum(pattern <= other for other in self._worst_patterns)
            self._worst_patterns.insert(place, pattern)
            self.worst.insert(place, self._element(chunk, position, reference, candidate, origin))
            del self._worst_patterns[wanted:], self.worst[wanted:]

    def _element(
        self, chunk: int, position: int, reference: Tensor, candidate: Tensor, origin: Origin
    ) -> dict[str, Any]:
        """An element as the result shows it, with its neighbours along the last axis where they are asked for."""
        index = _unravel(position, reference.shape)
        before = min(NEIGHBOURS, index[-1]) if index and self._neighbourhoods else 0
        after = min(NEIGHBOURS, reference.shape[-1] - 1 - index[-1]) if index and self._neighbourhoods else 0
        sides = [
            [_value(value) for value in values_at(side, position - before, position + after + 1)]
            for side in (reference, candidate)
        ]
        element = {
            "chunk": chunk,
            "index": _absolute(index, origin),
            "reference": sides[0][before],
            "candidate": sides[1][before],
        }
        if self._neighbourhoods:
            element["neighbourhood"] = {"at": before, "reference": sides[0], "candidate": sides[1]}
        return element

    @property
    def unresolved(self) -> bool:
        """Whether percentiles need a pass more: :meth:`begin_pass`, :meth:`revisit` each chunk, :meth:`end_pass`."""
        tally = self._tally
        if self._order is None and tally.histogram is not None:
            ranks = ranks_of(self._percentiles, int(tally.counts[FINITE])).tolist()
            self._order = {rank: 0.0 for rank in ranks if rank < tally.histogram[0]}
            self._intervals = intervals_of(tally.histogram, ranks)
        return bool(self._intervals)

    def begin_pass(self, kept: int) -> int:
        """Prepare to see the chunks again, with room to keep so many errors; how many bytes of tables that takes."""
        self._wanted = Wanted(self._intervals, kept)
        return self._wanted.nbytes

    def revisit(self, regions: Iterable[Region]) -> None:
        """Show a chunk again, as it was shown to :meth:`add`."""
        if self._wanted is None:
            return
        for reference, candidate, _ in regions:
            collect(self._loops, reference, candidate, self._wanted)

    def end_pass(self) -> None:
        """All chunks were shown again."""
        if self._wanted is not None and self._order is not None:
            found, self._intervals = self._wanted.close()
            self._order.update(found)
            self._wanted = None

    def _errors_by_rank(self) -> tuple[dict[int, float], Array]:
        """Errors at the ranks that percentiles need, and errors by decade."""
        tally = self._tally
        if tally.histogram is not None:
            return self._order or {}, tally.decades + decades_of_bins(tally.histogram)
        errors = tally.held[0] if len(tally.held) == 1 else np.concatenate([np.empty(0), *tally.held])
        ranks = ranks_of(self._percentiles, errors.size)
        values, decades = self._loops.select(errors, ranks)
        return dict(zip(ranks.tolist(), values.tolist(), strict=True)), decades

    def to_json(self) -> dict[str, Any]:
        """One entry of the result's ``tensors`` (docs/result.md); ``None`` where a figure is undefined."""
        counts, moments = self._tally.counts.tolist(), self._moments().tolist()
        finite, number = counts[FINITE], moments[NUMBER]
        signal, other = (
            moments[square] + number * moments[mean] * moments[mean]
            for square, mean in ((SQUARE_REFERENCE, MEAN_REFERENCE), (SQUARE_CANDIDATE, MEAN_CANDIDATE))
        )
        product = moments[PRODUCT] + number * moments[MEAN_REFERENCE] * moments[MEAN_CANDIDATE]
        varied = counts[VARIED_REFERENCE] and counts[VARIED_CANDIDATE]
        known = not self.unresolved
        order, decades = self._errors_by_rank()
        filled = np.flatnonzero(decades).tolist()
        by_decade = {str(exponent_of(place)): int(decades[place]) for place in filled}
        max_relative = float(self._tally.floats[MAX_RELATIVE])
        percentiles = interpolated(self._percentiles, finite, order) if known else [None] * len(self._percentiles)
        return {
            "elements": self.elements,
            "max_abs": _number(_float(self._worst_patterns[0])) if self._worst_patterns else None,
            "mean_abs": _number(moments[ERROR] / finite) if finite else None,
            "rmse": _number(math.sqrt(moments[ERROR_SQUARE] / finite)) if finite else None,
            "max_rel": _number(max_relative) if max_relative >= 0 else None,
            "cosine": _ratio(product, signal, other),
            "pearson": _ratio(moments[PRODUCT], moments[SQUARE_REFERENCE], moments[SQUARE_CANDIDATE])
            if varied
            else None,
            "snr_db": _decibels(signal, moments[ERROR_SQUARE]),
            "max_ulp": counts[ULP] if self._units and finite else None,
            "exact_fraction": counts[EQUAL] / self.elements if self.elements else None,
            "nonfinite": self.nonfinite,
            "nan_reference": counts[NAN_REFERENCE],
            "violations": counts[VIOLATIONS],
            "percentiles": {
                f"p{percentage:.12g}": _number(value)
                for percentage, value in zip(self._percentiles, percentiles, strict=True)
            },
            "histogram": {
                "zero": finite - sum(by_decade.values()),
                "decades": by_decade,
            },
            "worst": {key: self.worst[0][key] for key in ("chunk", "index", "reference", "candidate")}
            if self.worst
            else None,
            "worst_elements": self.worst[: self._neighbourhoods],
        }


def _unravel(position: int, shape: Sequence[int]) -> list[int]:
    index = []
    for extent in reversed(shape):
        position, along = divmod(position, extent)
        index.append(along)
    return index[::-1]


def _absolute(index: Sequence[int], origin: Origin) -> list[int]:
    """Index in the whole tensor of an index in a region of it."""
    remaining = iter(index)
    return [part if isinstance(part, int) else next(remaining) + (part.start or 0) for part in origin]


def _ratio(product: float, first: float, second: float) -> float | None:
    """A cosine, clamped against rounding; ``None`` where a norm is zero or overflowed."""
    norms = math.sqrt(first) * math.sqrt(second) if first >= 0 and second >= 0 else math.nan
    if not (0 < norms < math.inf and math.isfinite(product)):
        return None
    return min(1.0, max(-1.0, product / norms))


def _decibels(signal: float, noise: float) -> float | None:
    """``None`` where there is no signal, no noise, or either overflowed."""
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))


def _float(pattern: int) -> float:
    return float(np.array(pattern, np.int64).view(np.float64))


def _number(value: float | None) -> float | None:
    """A JSON number, or ``None`` for none, NaN and infinity (JSON has neither)."""
    return None if value is None or not math.isfinite(value) else value


def _value(value: Any) -> float | None:
    return _number(float(value))
