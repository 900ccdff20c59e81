"""Two tensors of different shapes: how they differ, and whether they hold the same values after all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from operator import itemgetter

import numpy as np

from ..dump.stored import StoredView, Tensor
from ..tensors import Array, Origin
from .engine import Loops, Region, accumulate
from .tally import VIOLATIONS, Tally
from .tolerance import Tolerance

MOST_AXES = 6
SAMPLE = 4096


def overlap(reference: Tensor, candidate: Tensor, origin: Origin, last: bool = False) -> Region:
    """What both have, where they differ in the extent of one axis; else the two as they are.

    Args:
        reference: a region.
        candidate: the same region of the candidate.
        origin: where it lies in the reference.
        last: what both have is at the end of the axis, as in a right-aligned cache.
    """
    axis = longer_axis(reference.shape, candidate.shape)
    if axis is None:
        return reference, candidate, origin
    extent = min(reference.shape[axis], candidate.shape[axis])
    sides = []
    for side in (reference, candidate):
        start = side.shape[axis] - extent if last else 0
        part = (slice(None),) * axis + (slice(start, start + extent),)
        sides.append(side if side.shape[axis] == extent else seen(side, itemgetter(part)))
    moved = reference.shape[axis] - extent if last else 0
    return sides[0], sides[1], _shifted(origin, axis, moved)


def _shifted(origin: Origin, axis: int, by: int) -> Origin:
    """The origin of what is left when a region loses its first places along one of the axes it has."""
    places = [place for place, part in enumerate(origin) if isinstance(part, slice)]
    place = places[axis]
    part = origin[place]
    start = part.start or 0 if isinstance(part, slice) else 0
    return (*origin[:place], slice(start + by, None), *origin[place + 1 :])


def seen(tensor: Tensor, look: Callable[[Array], Array]) -> Tensor:
    """A view of a tensor; of one that is stored, to be taken when it is read."""
    if isinstance(tensor, np.ndarray):
        return look(tensor)
    if isinstance(tensor, StoredView):
        return StoredView(tensor.stored, (*tensor.looks, look))
    return StoredView(tensor, (look,))


def longer_axis(reference: Sequence[int], candidate: Sequence[int]) -> int | None:
    """The one axis along which one side is longer."""
    if len(reference) != len(candidate):
        return None
    unequal = [axis for axis, (r, c) in enumerate(zip(reference, candidate, strict=True)) if r != c]
    return unequal[0] if len(unequal) == 1 else None


def as_array(tensor: Tensor) -> Array:
    """A stored tensor mapped into memory, of which a view reads only what it needs."""
    return tensor if isinstance(tensor, np.ndarray) else tensor.mapped()


def explain(reference: Tensor, candidate: Tensor, tolerance: Tolerance, loops: Loops) -> str:
    """One line on how two unequal shapes are related.

    Tells apart the same elements in another order of axes (with the permutation of the candidate that matches within
    tolerance, where one does), the same elements in the same order, one side longer along one axis, and anything else.
    """
    shapes = f"reference has shape {list(reference.shape)}, candidate {list(candidate.shape)}"
    axis = longer_axis(reference.shape, candidate.shape)
    if axis is not None:
        ours, theirs, _ = overlap(reference, candidate, (slice(None),) * len(reference.shape))
        agree = "agree" if _equal(ours, theirs, tolerance, loops) else "differ"
        longer = "candidate" if candidate.shape[axis] > reference.shape[axis] else "reference"
        extent = ours.shape[axis]
        return f"{shapes}: the {longer} is longer along axis {axis}, the first {extent} {agree} (see --overlap)"
    if reference.size != candidate.size:
        return shapes
    found = matching_permutation(reference, candidate, tolerance, loops)
    if found is not None:
        return f"{shapes}: transposed, --permute {','.join(map(str, found))} of the candidate matches"
    if _equal(reference, candidate, tolerance, loops):
        return f"{shapes}: the same values in the same order, only the shape differs"
    if sorted(reference.shape) == sorted(candidate.shape):
        return f"{shapes}: the extents are permuted, but no permutation of the axes makes the values match"
    return f"{shapes}: as many values, but other ones"


def matching_permutation(
    reference: Tensor, candidate: Tensor, tolerance: Tolerance, loops: Loops
) -> tuple[int, ...] | None:
    """The permutation of the candidate's axes, other than none, that gives the reference's shape and values.

    None is named where values that lie elsewhere would match as well: in constants, or under a loose tolerance.
    """
    if len(reference.shape) != len(candidate.shape) or len(reference.shape) > MOST_AXES or reference.size == 0:
        return None
    expected, actual = as_array(reference), as_array(candidate)
    if _equal(_sample(expected), np.roll(_sample(expected), 1), tolerance, loops):
        return None
    for order in _orders(reference.shape, candidate.shape):
        turned = actual.transpose(order)
        if _equal(_sample(expected), _sample(turned), tolerance, loops) and _equal(expected, turned, tolerance, loops):
            return order
    return None


def _orders(reference: Sequence[int], candidate: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for order in permutations(range(len(candidate))):
        if order != tuple(range(len(candidate))) and [candidate[axis] for axis in order] == list(reference):
            yield order


def _sample(array: Array) -> Array:
    """A few values from everywhere, at the same places for every array of a shape."""
    places = np.unique(np.linspace(0, array.size - 1, SAMPLE).astype(np.int64))
    return array[np.unravel_index(places, array.shape)]


def _equal(reference: Tensor, candidate: Tensor, tolerance: Tolerance, loops: Loops) -> bool:
    """Whether the values of two tensors, in C order, agree as :class:`.statistics.Statistics` would judge."""
    tally = Tally.empty(1, hold=False)
    if math.prod(reference.shape):
        accumulate(loops, reference, candidate, tolerance.atol, tolerance.rtol, tally)
    return bool(tally.counts[VIOLATIONS] <= tolerance.outliers * math.prod(reference.shape))
