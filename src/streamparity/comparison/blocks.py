"""Equal stretches of two tensors, in the types in which they are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..dtypes import DType, family, name_of
from ..tensors import Array

SIGN_32 = -(1 << 31)
EXACT_IN_DOUBLES = 1 << 53


class Block(NamedTuple):
    """Flat, contiguous and equally long.

    Attributes:
        reference: float32 or float64, exactly the values of the reference.
        candidate: the same type.
        reference_bits: integers as wide, whose distance is that in units of the last place of the type compared; zeros
            in all places where that means nothing.
        candidate_bits: the same.
        error: the absolute difference in float64, where it cannot be taken from the other two: whole numbers beyond
            2**53.
    """

    reference: Array
    candidate: Array
    reference_bits: Array
    candidate_bits: Array
    error: Array | None = None

    def after(self, position: int) -> Block:
        """The rest of it."""
        return self.part(slice(position, None))

    def part(self, places: slice | Array) -> Block:
        """Some of it, by a slice or a mask."""
        r, c, r_bits, c_bits, error = self
        return Block(r[places], c[places], r_bits[places], c_bits[places], None if error is None else error[places])


def has_units(reference: DType, candidate: DType) -> bool:
    """Whether a distance in units of the last place means something: one float type on both sides."""
    return family(reference) == "float" and name_of(reference) == name_of(candidate)


def block_of(reference: Array, candidate: Array) -> Block:
    """Bring two flat contiguous arrays of any types that hold real numbers into the form above.

    Raises:
        ValueError: they are not equally long, which what is compiled does not check.
    """
    if reference.size != candidate.size:
        raise ValueError(f"a block of {reference.size} and {candidate.size} values")
    # What is compiled takes aligned arrays that may be written to, as nearly all are; others would be compiled again.
    reference, candidate = (side if side.flags.behaved else side.copy() for side in (reference, candidate))
    if reference.dtype == candidate.dtype:
        if reference.dtype == np.float32:
            return Block(reference, candidate, reference.view(np.int32), candidate.view(np.int32))
        if reference.dtype == np.float64:
            return Block(reference, candidate, reference.view(np.int64), candidate.view(np.int64))
    sides = [_native(side) for side in (reference, candidate)]
    families = [family(side.dtype) for side in sides]
    if families == ["float", "float"]:
        return _floats(*sides)
    if any(side.dtype.itemsize == 8 and families[0] != "bool" for side in sides) and not all(map(_small, sides)):
        return _whole_numbers(*sides)
    return _without_units(*(side.astype(np.float64) for side in sides))


def _floats(reference: Array, candidate: Array) -> Block:
    if reference.dtype != candidate.dtype:
        wide = np.float64 if np.float64 in (reference.dtype, candidate.dtype) else np.float32
        return _without_units(reference.astype(wide), candidate.astype(wide))
    if reference.dtype.itemsize >= 4:
        return block_of(reference, candidate)
    sides = [side.astype(np.float32) for side in (reference, candidate)]
    return Block(*sides, *(_narrow_bits(side) for side in (reference, candidate)))


def _narrow_bits(values: Array) -> Array:
    """Sign and magnitude of 8 or 16 bits as those of 32."""
    width = values.dtype.itemsize * 8
    signed = values.view(np.int16 if width == 16 else np.int8).astype(np.int32)
    bits: Array = np.where(signed < 0, (signed & ((1 << (width - 1)) - 1)) + SIGN_32, signed).astype(np.int32)
    return bits


def _without_units(reference: Array, candidate: Array) -> Block:
    no_bits = np.zeros(reference.size, np.int32 if reference.dtype == np.float32 else np.int64)
    return Block(reference, candidate, no_bits, no_bits)


def _whole_numbers(reference: Array, candidate: Array) -> Block:
    """Subtracted as whole numbers, which float64 cannot all hold."""
    negative = [side < 0 for side in (reference, candidate)]
    bits = [side.astype(np.uint64) for side in (reference, candidate)]
    sizes = [np.where(below, ~side + np.uint64(1), side) for below, side in zip(negative, bits, strict=True)]
    apart, together = np.maximum(*sizes) - np.minimum(*sizes), sizes[0] + sizes[1]
    error = np.where(negative[0] == negative[1], apart, together).astype(np.float64)
    for place in np.flatnonzero((negative[0] != negative[1]) & (together < sizes[0])):  # past 2**64
        error[place] = float(int(sizes[0][place]) + int(sizes[1][place]))
    plain = _without_units(reference.astype(np.float64), candidate.astype(np.float64))
    return plain._replace(error=error)


def _small(values: Array) -> bool:
    return values.size == 0 or (
        values.dtype.itemsize < 8
        or bool(values.max() <= EXACT_IN_DOUBLES and (values.dtype.kind == "u" or values.min() >= -EXACT_IN_DOUBLES))
    )


def _native(values: Array) -> Array:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
