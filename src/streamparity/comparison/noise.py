"""The tolerance that a noise floor gives a tensor, and a candidate's errors beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dump.noise_floor import NoiseFloor
from ..tensors import CACHE_FEEDBACK

# Half the distance from 1 to the next number (IEEE 754; TF32 keeps 10 bits of mantissa; int8 steps by 1/127 of the
# largest value).
UNIT_ROUNDOFF: dict[str, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float8_e4m3fn": 2.0**-4,
    "float8_e5m2": 2.0**-3,
    "int8": 0.5 / 127,
}
# A floor is one sample of rounding errors, a candidate's errors are another: other kernels add in another order and
# compute exp with other polynomials. Over contexts, recordings, optimisation levels and threads of the shipped model in
# ONNX Runtime the largest ratio is 2.75 (artifacts/noise-spread.md); eight leaves nearly three times that for kernels
# and machines that were not tried.
MARGIN = 8.0
# What a step is fed of the last one's caches is off by what those were off by.
RETURNED = {f"in/{taken}": given for given, taken in CACHE_FEEDBACK.items()}
# Products in these round their operands; what they return is float32.
RETURNS_FLOAT32 = ("tf32", "int8")


def is_coarse(arithmetic: str | None) -> bool:
    """Whether an arithmetic is known and coarser than float32."""
    return arithmetic is not None and UNIT_ROUNDOFF.get(arithmetic, 0.0) > UNIT_ROUNDOFF["float32"]


def noise_of(floor: NoiseFloor, name: str, arithmetic: str) -> float | None:
    """The error that computing in ``arithmetic`` explains for one tensor; ``None`` where the floor does not know it.

    A run of the reference in that very arithmetic says it best. Else it is float32's, scaled by unit roundoff. Never
    less than what rounding the tensor's own largest value costs, and never less than float32's: the reference is that.
    """
    name = RETURNED.get(name, name)
    measured = floor.errors.get("float32", {}).get(name)
    if measured is None:
        return None
    own = floor.errors.get(arithmetic, {}).get(name)
    roundoff = max(UNIT_ROUNDOFF[arithmetic], UNIT_ROUNDOFF["float32"])
    scaled = measured.max_abs * roundoff / UNIT_ROUNDOFF["float32"] if own is None else own.max_abs
    stored = UNIT_ROUNDOFF["float32"] if own is not None and arithmetic in RETURNS_FLOAT32 else roundoff
    return max(measured.max_abs, scaled, stored * floor.largest.get(name, 0.0))


def noise(
    comparison: Mapping[str, Any], floor: NoiseFloor | None, arithmetic: str | None, against: str
) -> dict[str, Any] | None:
    """The result's ``noise``: per tensor the candidate's error, that of PyTorch in the same arithmetic, and the ratio.

    Args:
        comparison: the comparison's part of the result.
        floor: the dump's.
        arithmetic: what the candidate says it computes in; ``None`` counts as float32.
        against: what the candidate was compared with.
    """
    if floor is None:
        return None
    kind = arithmetic if arithmetic is not None and arithmetic in UNIT_ROUNDOFF else "float32"
    tensors: dict[str, Any] = {}
    for tensor in comparison["tensors"]:
        allowed = noise_of(floor, tensor["name"], kind)
        if allowed is None or tensor["max_abs"] is None or tensor["kind"] == "input":
            continue
        measured = floor.errors.get(kind, {}).get(tensor["name"])
        tensors[tensor["name"]] = {
            "candidate": tensor["max_abs"],
            "pytorch": None if measured is None else measured.max_abs,
            "float32": floor.errors["float32"][tensor["name"]].max_abs,
            "floor": allowed,
            "measured": measured is not None,
            "ratio": tensor["max_abs"] / allowed if allowed else None,
        }
    return {"arithmetic": kind, "against": against, "margin": MARGIN, "tensors": tensors}
