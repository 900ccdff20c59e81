"""How a wrong tensor is related to the right one: the same numbers elsewhere, scaled, blank, in a smaller format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..tensors import Array

EXPLAINED = 0.01  # share of the deviation's energy that a relation may leave
MOST_SHIFT = 80


@dataclass(frozen=True)
class Relation:
    """What two tensors have to do with each other.

    Attributes:
        kind: ``zero``, ``stale``, ``constant``, ``shifted``, ``turned``, ``reversed``, ``layers``, ``transposed``,
            ``negated``, ``scaled`` or ``added``.
        text: the same, to be read on its own.
        axis: the axis it is along, ``None`` where there is none.
        layer: the first layer that it concerns, where layers were looked at one by one.
    """

    kind: str
    text: str
    axis: int | None = None
    layer: int | None = None


def relation(
    actual: Array, expected: Array, fed: Array | None = None, layer_axis: int | None = None
) -> Relation | None:
    """The first relation that explains ``actual``.

    Args:
        actual: what the candidate has.
        expected: what the reference has.
        fed: the tensor of the same name that the step was fed, where there is one.
        layer_axis: axis that counts layers; if only some of them are wrong, these alone are looked at.
    """
    if not np.isfinite(actual).all():
        return None
    if actual.shape != expected.shape:
        return _other_shape(actual, expected)
    if layer_axis is not None:
        return _of_layers(actual, expected, fed, layer_axis)
    for found, made in _candidates(actual, expected, fed):
        if _explains(made, actual, expected):
            return found
    return None


def _of_layers(actual: Array, expected: Array, fed: Array | None, axis: int) -> Relation | None:
    count = expected.shape[axis]
    parts = [np.take(actual, layer, axis) for layer in range(count)]
    wanted = [np.take(expected, layer, axis) for layer in range(count)]
    scale = float(np.abs(expected).max()) or 1.0
    wrong = [layer for layer in range(count) if float(np.abs(parts[layer] - wanted[layer]).max()) > 1e-4 * scale]
    if not wrong:
        return None
    sources = {}
    for layer in wrong:
        for other in range(count):
            if other != layer and _explains(wanted[other], parts[layer], wanted[layer]) and np.any(parts[layer]):
                sources[layer] = other
    if len(sources) == len(wrong):
        pairs = ", ".join(f"layer {layer} holds layer {other}'s" for layer, other in sources.items())
        return Relation("layers", pairs, axis, wrong[0])
    before = None if fed is None else np.take(fed, wrong, axis)
    inner = relation(np.take(actual, wrong, axis), np.take(expected, wrong, axis), before)
    if inner is None:
        return None
    which = "every layer" if len(wrong) == count else "layer " + ", ".join(map(str, wrong))
    return Relation(inner.kind, f"{inner.text} ({which})", inner.axis, wrong[0])


def _candidates(actual: Array, expected: Array, fed: Array | None) -> Iterator[tuple[Relation, Array]]:
    if not np.any(actual):
        yield Relation("zero", "it is zero throughout"), np.zeros_like(expected)
    if fed is not None and fed.shape == actual.shape:
        yield Relation("stale", "it is what the step was fed, unchanged"), fed
    if actual.size > 1 and np.ptp(actual) == 0:
        yield Relation("constant", f"it is {actual.flat[0]:g} throughout"), np.full_like(expected, actual.flat[0])
    for axis, extent in enumerate(expected.shape):
        for shift in _shifts(extent):
            yield Relation("turned", f"it is turned by {shift} along axis {axis}", axis), np.roll(expected, shift, axis)
            moved: Array = np.roll(expected, shift, axis)
            yield (
                Relation("shifted", f"it is off by {shift} along axis {axis}", axis),
                _patched(moved, actual, shift, axis),
            )
        if extent > 1:
            yield Relation("reversed", f"it is in reverse along axis {axis}", axis), np.flip(expected, axis)
    yield from _transposed(expected)
    size = float(np.vdot(expected, expected))
    factor = float(np.vdot(expected, actual)) / size if size else 0.0
    if factor:
        kind = "negated" if abs(factor + 1) < 1e-3 else "scaled"
        yield Relation(kind, f"it is {factor:.4g} times the right one"), expected * factor
    offset = float(np.mean(actual.astype(np.float64) - expected))
    yield Relation("added", f"it is the right one and {offset:.3g}"), expected + offset


def _shifts(extent: int) -> Sequence[int]:
    near = [s for n in range(1, min(extent, MOST_SHIFT + 1)) for s in (n, -n)] if extent <= 4096 else []
    return [shift for shift in near if abs(shift) < extent and (abs(shift) <= 8 or extent <= MOST_SHIFT)]


def _patched(moved: Array, actual: Array, shift: int, axis: int) -> Array:
    """What came in at the edge cannot be known from the tensor itself: there the candidate's own values stand."""
    if 3 * abs(shift) > moved.shape[axis]:
        return moved
    edge: list[slice] = [slice(None)] * moved.ndim
    edge[axis] = slice(0, shift) if shift > 0 else slice(moved.shape[axis] + shift, None)
    patched: Array = moved.copy()
    patched[tuple(edge)] = actual[tuple(edge)]
    return patched


def _transposed(expected: Array) -> Iterator[tuple[Relation, Array]]:
    for first in range(expected.ndim):
        for second in range(first + 1, expected.ndim):
            if min(expected.shape[first], expected.shape[second]) < 2:
                continue
            swapped = np.ascontiguousarray(expected.swapaxes(first, second))
            text = f"axes {first} and {second} are exchanged"
            yield Relation("transposed", text, second), swapped.reshape(expected.shape)
            shape = list(expected.shape)
            shape[first], shape[second] = shape[second], shape[first]
            back = expected.reshape(shape).swapaxes(first, second)
            yield Relation("transposed", f"{text} the other way", second), np.ascontiguousarray(back)


def _other_shape(actual: Array, expected: Array) -> Relation | None:
    if actual.ndim == expected.ndim:
        for first in range(actual.ndim):
            for second in range(first + 1, actual.ndim):
                turned = expected.swapaxes(first, second)
                if turned.shape == actual.shape and _near(turned, actual):
                    return Relation("transposed", f"axes {first} and {second} are exchanged", second)
    if actual.size == expected.size and _near(actual.reshape(expected.shape), expected):
        return Relation("transposed", f"it has shape {list(actual.shape)} for {list(expected.shape)}")
    return None


def _near(actual: Array, expected: Array) -> bool:
    size = float(np.linalg.norm(expected)) or 1.0
    return float(np.linalg.norm(actual.astype(np.float64) - expected)) < 1e-2 * size


def _explains(made: Array, actual: Array, expected: Array) -> bool:
    deviation = float(np.square(actual.astype(np.float64) - expected).sum())
    left = float(np.square(actual.astype(np.float64) - made).sum())
    return deviation > 0 and left <= EXPLAINED * deviation


def mantissa_bits(values: Array) -> int | None:
    """Explicit mantissa bits that float32 values really use; ``None`` where there are too few to tell."""
    held = values[np.isfinite(values) & (values != 0)].astype(np.float32)
    if held.size < 32:
        return None
    bits = held.view(np.uint32) & np.uint32(0x7FFFFF)
    used = np.bitwise_or.reduce(bits)
    return 23 - _trailing_zeros(int(used)) if used else 0


def _trailing_zeros(value: int) -> int:
    return (value & -value).bit_length() - 1
