"""The tolerance that a noise floor gives a tensor."""

from __future__ import annotations

from ..dump.noise_floor import NoiseFloor

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
# A floor is one sample of rounding errors, and both sides have such errors. Other kernels add in another order and
# compute exp with other polynomials: eight leaves room for that and is far below what any planted fault does.
MARGIN = 8.0


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
