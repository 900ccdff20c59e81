"""How far a value may be from its reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..dump.noise_floor import NoiseFloor
from ..errors import StreamparityError

Source = Literal["flag", "noise-floor", "dtype-default", "exact"]

# (rtol, atol) by dtype. float32 has Polygraphy's defaults for two runtimes. torch.testing's (1.3e-6, 1e-5) are for one
# operator: what float32 alone costs the demo model's joint is past 1e-5 already, as `run --backend torch -o
# dtype=float64` shows. The other dtypes have torch.testing.assert_close's (torch/testing/_comparison.py).
DTYPE_DEFAULTS: dict[str, tuple[float, float]] = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1e-5, 1e-5),
    "float64": (1e-7, 1e-7),
}
# Half the distance from 1 to the next number (IEEE 754; TF32 keeps 10 bits of mantissa; int8 steps by 1/127 of the
# largest value).
UNIT_ROUNDOFF: dict[str, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "int8": 0.5 / 127,
}
# A floor is one sample of rounding errors, and both sides have such errors. Other kernels add in another order and
# compute exp with other polynomials: eight leaves room for that and is far below what any planted fault does.
MARGIN = 8.0


@dataclass(frozen=True)
class Tolerance:
    """A value passes when ``|candidate - reference| <= atol + rtol * |reference|``."""

    atol: float
    rtol: float
    source: Source


@dataclass(frozen=True)
class TolerancePolicy:
    """Chooses the tolerance of a tensor: what the user gave, else the noise floor, else the coarser dtype's default.

    Attributes:
        atol: absolute tolerance from the command line; alone it makes ``rtol`` 0.
        rtol: relative tolerance from the command line; alone it makes ``atol`` 0.
        arithmetic: dtype in which the candidate computes, where its arrays do not say (bfloat16 arrives as float32).
        floor: what arithmetic alone costs the reference, where it is known.

    Raises:
        StreamparityError: a tolerance that is negative or not finite.
    """

    atol: float | None = None
    rtol: float | None = None
    arithmetic: str | None = None
    floor: NoiseFloor | None = None

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise StreamparityError(f"{name} is {value}", "give a number that is finite and not negative")

    def tolerance(self, name: str, reference: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> Tolerance:
        """Tolerance of the tensor labelled ``name`` for a pair of dtypes; integers and booleans must be equal."""
        kinds = [reference.name, candidate.name]
        if any(kind not in DTYPE_DEFAULTS for kind in kinds):
            return Tolerance(0.0, 0.0, "exact")
        if self.atol is not None or self.rtol is not None:
            return Tolerance(self.atol or 0.0, self.rtol or 0.0, "flag")
        if self.arithmetic in UNIT_ROUNDOFF:
            kinds.append(str(self.arithmetic))
        noise = None if self.floor is None else noise_of(self.floor, name, max(kinds, key=UNIT_ROUNDOFF.__getitem__))
        if noise is not None:
            return Tolerance(MARGIN * noise, 0.0, "noise-floor")
        coarsest = max((kind for kind in kinds if kind in DTYPE_DEFAULTS), key=lambda kind: DTYPE_DEFAULTS[kind])
        rtol, atol = DTYPE_DEFAULTS[coarsest]
        return Tolerance(atol, rtol, "dtype-default")


def noise_of(floor: NoiseFloor, name: str, arithmetic: str) -> float | None:
    """The error that computing in ``arithmetic`` explains for one tensor; ``None`` where the floor does not know it.

    A run of the reference in that very arithmetic says it best. Else it is float32's, scaled by unit roundoff. Never
    less than what rounding the tensor's own largest value costs, and never less than float32's: the reference is that.
    """
    measured = floor.errors.get("float32", {}).get(name)
    if measured is None:
        return None
    roundoff = max(UNIT_ROUNDOFF[arithmetic], UNIT_ROUNDOFF["float32"])
    own = floor.errors.get(arithmetic, {}).get(name)
    scaled = measured.max_abs * roundoff / UNIT_ROUNDOFF["float32"] if own is None else own.max_abs
    return max(measured.max_abs, scaled, roundoff * floor.largest.get(name, 0.0))
