"""A candidate's errors beside what arithmetic alone costs: its own, plain PyTorch's, and float32's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..comparison.noise import MARGIN, UNIT_ROUNDOFF, noise_of
from ..dump.noise_floor import NoiseFloor


def noise(comparison: Mapping[str, Any], floor: NoiseFloor | None, arithmetic: str | None) -> dict[str, Any] | None:
    """The result's ``noise``: per tensor the candidate's error, that of PyTorch in the same arithmetic, and the ratio.

    Candidate and PyTorch are both held against the dump, which is float32 and itself off float64 by the ``float32``
    figure: for a smaller format, where that is orders less, the two are errors against float64.

    Args:
        comparison: the comparison's part of the result.
        floor: the dump's.
        arithmetic: what the candidate says it computes in; ``None`` counts as float32.
    """
    if floor is None:
        return None
    kind = arithmetic if arithmetic in UNIT_ROUNDOFF else "float32"
    tensors: dict[str, Any] = {}
    for tensor in comparison["tensors"]:
        allowed = noise_of(floor, tensor["name"], str(kind))
        if allowed is None or tensor["max_abs"] is None:
            continue
        measured = floor.errors.get(str(kind), {}).get(tensor["name"])
        tensors[tensor["name"]] = {
            "candidate": tensor["max_abs"],
            "pytorch": None if measured is None else measured.max_abs,
            "float32": floor.errors["float32"][tensor["name"]].max_abs,
            "floor": allowed,
            "ratio": tensor["max_abs"] / allowed if allowed else None,
        }
    return {"arithmetic": kind, "margin": MARGIN, "tensors": tensors}
