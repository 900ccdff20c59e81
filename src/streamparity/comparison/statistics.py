"""Error statistics of one tensor over a run, accumulated chunk by chunk in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..tensors import Array
from .spool import Spool
from .tolerance import Tolerance

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
BLOCK = 1 << 20


class Statistics:
    """Everything the result says about one tensor's numbers.

    Args:
        tolerance: the pass rule.
    """

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.elements = 0
        self.violations = 0
        self.nonfinite = {"reference": 0, "candidate": 0}
        self.per_chunk_max_abs: dict[int, float | None] = {}
        self.first_failed_chunk: int | None = None
        self.worst: dict[str, Any] | None = None
        self._equal = 0
        self._max_abs = -1.0
        self._max_rel: float | None = None
        self._sums = dict.fromkeys(("abs", "square", "reference", "candidate", "product"), 0.0)
        self._range = {side: [math.inf, -math.inf] for side in ("reference", "candidate")}
        self._spool = Spool()

    @property
    def constant(self) -> bool:
        """Both sides hold one and the same value throughout: nothing could have differed."""
        ranges = list(self._range.values())
        one_value = ranges[0] == ranges[1] and ranges[0][0] == ranges[0][1]
        return one_value and (self.elements > 1 or ranges[0][0] == 0)

    @property
    def not_finite(self) -> str | None:
        """How many values are NaN or infinite, where any is: that makes the tensor fail."""
        counts = self.nonfinite
        if not any(counts.values()):
            return None
        return f"not finite: {counts['reference']} values of the reference, {counts['candidate']} of the candidate"

    def add(self, chunk: int, pairs: Sequence[tuple[Array, Array]], origins: Sequence[tuple[slice | int, ...]]) -> bool:
        """Add one chunk.

        Args:
            chunk: its index.
            pairs: equally shaped (reference, candidate) regions, one per batch item.
            origins: where each region lies in the whole tensor.

        Returns:
            Whether every value of the chunk is within tolerance.
        """
        violations_before, chunk_max = self.violations, None
        for (reference, candidate), origin in zip(pairs, origins, strict=True):
            for start, ref, cand in _blocks(reference, candidate):
                worst = self._add_block(ref, cand)
                if worst is None:
                    continue
                position, error = worst
                chunk_max = error if chunk_max is None or not chunk_max >= error else chunk_max
                if not self._max_abs >= error:
                    self._max_abs = error
                    index = np.unravel_index(start + position, reference.shape) if reference.shape else ()
                    self.worst = {
                        "chunk": chunk,
                        "index": _absolute(index, origin),
                        "reference": _number(ref[position]),
                        "candidate": _number(cand[position]),
                    }
        self.per_chunk_max_abs[chunk] = _number(chunk_max)
        passed = self.violations == violations_before
        if not passed and self.first_failed_chunk is None:
            self.first_failed_chunk = chunk
        return passed

    def _add_block(self, reference: Array, candidate: Array) -> tuple[int, float] | None:
        """Accumulate flat arrays; the position and size of the largest error, infinite where either is not finite."""
        if reference.size == 0:
            return None
        self.elements += reference.size
        equal = int(np.count_nonzero(reference == candidate))
        self._equal += equal
        ref, cand = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(ref) & np.isfinite(cand)
        all_finite = bool(finite.all())
        if self.tolerance.source == "exact":
            self.violations += reference.size - equal
        elif not all_finite:
            self.violations += int(np.count_nonzero(~finite))
        if not all_finite:
            self.nonfinite["reference"] += int(np.count_nonzero(~np.isfinite(ref)))
            self.nonfinite["candidate"] += int(np.count_nonzero(~np.isfinite(cand)))
        with np.errstate(over="ignore", invalid="ignore"):
            error = _absolute_difference(reference, candidate, ref, cand)
            if all_finite:
                self._accumulate(ref, cand, error)
            elif finite.any():
                self._accumulate(ref[finite], cand[finite], error[finite])
        if not all_finite:
            return int(np.argmin(finite)), math.inf
        position = int(np.argmax(error))
        return position, float(error[position])

    def _accumulate(self, reference: Array, candidate: Array, error: Array) -> None:
        magnitude = np.abs(reference)
        if self.tolerance.source != "exact":
            within = error <= self.tolerance.atol + self.tolerance.rtol * magnitude
            self.violations += error.size - int(np.count_nonzero(within))
        sums = self._sums
        sums["abs"] += float(error.sum())
        sums["square"] += float(np.square(error).sum())
        sums["reference"] += float(np.square(reference).sum())
        sums["candidate"] += float(np.square(candidate).sum())
        sums["product"] += float((reference * candidate).sum())
        for side, values in (("reference", reference), ("candidate", candidate)):
            low, high = self._range[side]
            self._range[side] = [min(low, float(values.min())), max(high, float(values.max()))]
        nonzero = magnitude > 0
        if nonzero.any():
            largest = float(np.max(error[nonzero] / magnitude[nonzero]))
            self._max_rel = largest if self._max_rel is None else max(self._max_rel, largest)
        self._spool.add(error)

    def to_json(self, percentiles: Sequence[float] = PERCENTILES) -> dict[str, Any]:
        """One entry of the result's ``tensors`` (docs/result.md); ``None`` where a figure is undefined."""
        finite, sums = self._spool.count, self._sums
        norms = math.sqrt(sums["reference"]) * math.sqrt(sums["candidate"])
        return {
            "elements": self.elements,
            "max_abs": _number(self._max_abs) if self.elements else None,
            "mean_abs": _number(sums["abs"] / finite) if finite else None,
            "rmse": _number(math.sqrt(sums["square"] / finite)) if finite else None,
            "max_rel": _number(self._max_rel),
            "cosine": _cosine(sums["product"], norms),
            "snr_db": _decibels(sums["reference"], sums["square"]),
            "exact_fraction": self._equal / self.elements if self.elements else None,
            "nonfinite": dict(self.nonfinite),
            "violations": self.violations,
            "percentiles": {
                f"p{percentage:g}": _number(value)
                for percentage, value in zip(percentiles, self._spool.percentiles(percentiles), strict=True)
            },
            "worst": self.worst,
        }


def _blocks(reference: Array, candidate: Array) -> Iterator[tuple[int, Array, Array]]:
    """Flat blocks of two equally shaped arrays, with the flat index at which each begins."""
    flat_reference, flat_candidate = reference.reshape(-1), candidate.reshape(-1)
    for start in range(0, flat_reference.size, BLOCK):
        yield start, flat_reference[start : start + BLOCK], flat_candidate[start : start + BLOCK]


def _absolute(index: Sequence[Any], origin: Sequence[slice | int]) -> list[int]:
    """Index in the whole tensor of an index in a region of it."""
    remaining = iter(index)
    return [o if isinstance(o, int) else int(next(remaining)) + (o.start or 0) for o in origin]


def _absolute_difference(reference: Array, candidate: Array, ref: Array, cand: Array) -> Array:
    """``|candidate - reference|`` in float64; integers are subtracted as integers, which float64 cannot all hold."""
    if reference.dtype.kind in "iu" and candidate.dtype.kind in "iu":
        high, low = np.maximum(reference, candidate), np.minimum(reference, candidate)
        if high.dtype.kind in "iu":
            whole: Array = high.astype(np.uint64) - low.astype(np.uint64)
            return whole.astype(np.float64)
    difference: Array = np.abs(cand - ref)
    return difference


def _cosine(product: float, norms: float) -> float | None:
    """Clamped against rounding; ``None`` where a norm is zero or overflowed."""
    if not (0 < norms < math.inf and math.isfinite(product)):
        return None
    return min(1.0, max(-1.0, product / norms))


def _decibels(signal: float, noise: float) -> float | None:
    """``None`` where there is no signal, no noise, or either overflowed."""
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))


def _number(value: Any) -> float | None:
    """A JSON number, or ``None`` for none, NaN and infinity (JSON has neither)."""
    return None if value is None or not math.isfinite(value) else float(value)
