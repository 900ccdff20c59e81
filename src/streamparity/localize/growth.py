"""How an error grows over the chunks of a closed loop: flat, linear or exponential, at which rate, and how far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..tensors import Array

FEWEST = 8  # chunks; three curves cannot be told apart on less
MARKED = 4.0  # times larger at the end of the fit than at its beginning, for a growth to be called one


@dataclass(frozen=True)
class Growth:
    """The curve that fits best.

    Attributes:
        shape: ``flat``, ``linear`` or ``exponential``.
        rate: per chunk; absolute for linear, the factor less one for exponential, 0 for flat.
        residual: root mean square of what the fit leaves, in natural logarithms.
        chunks_to_tolerance: chunks after which the fit crosses the tolerance, ``None`` where it never does.
    """

    shape: Literal["flat", "linear", "exponential"]
    rate: float
    residual: float
    chunks_to_tolerance: int | None

    def to_json(self) -> dict[str, object]:
        """For evidence."""
        return {
            "shape": self.shape,
            "rate": self.rate,
            "residual": self.residual,
            "chunks_to_tolerance": self.chunks_to_tolerance,
        }


def growth(per_chunk: Sequence[float | None], tolerance: float) -> Growth | None:
    """Fit the largest error of each chunk.

    Args:
        per_chunk: ``per_chunk_max_abs`` of a tensor; chunks without a figure are left out.
        tolerance: its absolute tolerance.

    Returns:
        The best of three curves, fitted to the logarithms; ``None`` with too few chunks.
    """
    points = [(i, e) for i, e in enumerate(per_chunk) if e is not None and e > 0]
    if len(points) < FEWEST:
        return None
    chunk = np.array([i for i, _ in points], np.float64)
    log_error = np.log([e for _, e in points])
    flat = float(np.median(log_error))
    slope, start = (float(v) for v in np.polyfit(chunk, log_error, 1))
    linear_rate = float(np.exp(np.mean(log_error - np.log(chunk + 1))))
    residuals = {
        "flat": _rms(log_error - flat),
        "linear": _rms(log_error - np.log(linear_rate * (chunk + 1))),
        "exponential": _rms(log_error - (slope * chunk + start)),
    }
    span = float(chunk[-1] - chunk[0])
    if slope <= 0 or math.exp(min(slope * span, 700.0)) < MARKED:
        return Growth("flat", 0.0, residuals["flat"], None)
    if residuals["exponential"] < 0.7 * residuals["linear"]:
        crossing = (math.log(tolerance) - start) / slope if tolerance > 0 else 0.0
        return Growth("exponential", math.expm1(slope), residuals["exponential"], max(0, math.ceil(crossing)))
    return Growth("linear", linear_rate, residuals["linear"], max(0, math.ceil(tolerance / linear_rate) - 1))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
