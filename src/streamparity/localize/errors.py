"""How far each tensor of one chunk is from the reference, in units of its tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..comparison import TolerancePolicy
from ..tensors import Array, TensorSpec, integer_tensors, valid_regions


@dataclass(frozen=True)
class PieceError:
    """Error of one tensor in one chunk.

    Attributes:
        max_abs: largest ``abs(candidate - reference)`` in the valid region; infinite where the two cannot be compared.
        ratio: largest error over tolerance; past 1 the tensor fails.
        finite: whether the candidate holds neither NaN nor infinity.
    """

    max_abs: float
    ratio: float
    finite: bool = True


def errors(
    specs: Iterable[TensorSpec],
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    policy: TolerancePolicy,
) -> dict[str, PieceError]:
    """Errors by label, in forward order, of the tensors that both sides have."""
    counts = integer_tensors(reference)
    return {
        spec.label: _error(spec, reference[spec.name], candidate[spec.name], counts, policy)
        for spec in specs
        if spec.name in reference and spec.name in candidate
    }


def _error(
    spec: TensorSpec, reference: Array, candidate: Array, counts: Mapping[str, Array], policy: TolerancePolicy
) -> PieceError:
    finite = bool(np.isfinite(candidate).all()) if candidate.dtype.kind == "f" else True
    if reference.shape != candidate.shape:
        return PieceError(math.inf, math.inf, finite)
    tolerance = policy.tolerance(spec.label, reference.dtype, candidate.dtype)
    max_abs, ratio = 0.0, 0.0
    for region in valid_regions(spec, reference.shape, counts):
        expected, actual = reference[region].astype(np.float64), candidate[region].astype(np.float64)
        if not expected.size:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.abs(actual - expected)
            allowed = tolerance.atol + tolerance.rtol * np.abs(expected)
            ratios = np.where(error == 0, 0.0, error / allowed)
        if not np.isfinite(error).all():
            return PieceError(math.inf, math.inf, finite)
        max_abs, ratio = max(max_abs, float(error.max())), max(ratio, float(ratios.max()))
    return PieceError(max_abs, ratio, finite)
