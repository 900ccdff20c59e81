"""How far a value may be from its reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import StreamparityError

Source = Literal["flag", "dtype-default", "exact"]

# (rtol, atol) by dtype. float32 has Polygraphy's defaults for two runtimes. torch.testing's (1.3e-6, 1e-5) are for one
# operator: what float32 alone costs the demo model's joint is past 1e-5 already, as `run --backend torch -o
# dtype=float64` shows. The other dtypes have torch.testing.assert_close's (torch/testing/_comparison.py).
DTYPE_DEFAULTS: dict[str, tuple[float, float]] = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1e-5, 1e-5),
    "float64": (1e-7, 1e-7),
}


@dataclass(frozen=True)
class Tolerance:
    """A value passes when ``|candidate - reference| <= atol + rtol * |reference|``."""

    atol: float
    rtol: float
    source: Source


@dataclass(frozen=True)
class TolerancePolicy:
    """Chooses the tolerance of a tensor: what the user gave, else the default of the coarser dtype.

    Attributes:
        atol: absolute tolerance from the command line; alone it makes ``rtol`` 0.
        rtol: relative tolerance from the command line; alone it makes ``atol`` 0.
        arithmetic: dtype in which the candidate computes, where its arrays do not say (bfloat16 arrives as float32).

    Raises:
        StreamparityError: a tolerance that is negative or not finite.
    """

    atol: float | None = None
    rtol: float | None = None
    arithmetic: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise StreamparityError(f"{name} is {value}", "give a number that is finite and not negative")

    def tolerance(self, reference: np.dtype[np.generic], candidate: np.dtype[np.generic]) -> Tolerance:
        """Tolerance for a pair of dtypes; integers and booleans must be equal."""
        names = [reference.name, candidate.name]
        if any(name not in DTYPE_DEFAULTS for name in names):
            return Tolerance(0.0, 0.0, "exact")
        if self.arithmetic in DTYPE_DEFAULTS:
            names.append(str(self.arithmetic))
        if self.atol is not None or self.rtol is not None:
            return Tolerance(self.atol or 0.0, self.rtol or 0.0, "flag")
        coarsest = max(names, key=lambda name: DTYPE_DEFAULTS[name])
        rtol, atol = DTYPE_DEFAULTS[coarsest]
        return Tolerance(atol, rtol, "dtype-default")
