"""Slices, gathers and paddings that are off, axes that are others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ...tensors import Array
from .repair import Edit, Repair, constants, described, find, hold, put_before

# Inputs that say where: begin and end of a slice, which entry.
WHERE = {("Slice", 1): "the start", ("Slice", 2): "the end", ("Gather", 1): "the index"}
OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4)
AXES = {"Softmax": "axis", "LogSoftmax": "axis", "Concat": "axis", "Gather": "axis", "Split": "axis", "CumSum": "axis"}
MOST_RANK = 4


def places(proto: Any, nodes: Sequence[Any], inner: Mapping[str, Array]) -> Iterator[Repair]:
    """Each place moved by one or two; padding moved from one side to the other; each axis another.

    Args:
        proto: the piece.
        nodes: nodes that may be changed.
        inner: values of its tensors: paddings are often worked out in the graph.
    """
    held = constants(proto)
    for node in nodes:
        made = node.output[0]
        for offset in OFFSETS:
            for (op, position), what in WHERE.items():
                if op == node.op_type and position < len(node.input):
                    text = f"{what} of {described(node)} is moved by {offset}"
                    yield Repair("place", node, text, _moved(made, [position], offset), f"{op} {position} {offset}")
            if node.op_type == "Slice":
                text = f"what {described(node)} takes is moved by {offset}"
                yield Repair("place", node, text, _moved(made, [1, 2], offset), f"Slice {offset}")
        yield from _padding(node, inner, held)
        yield from _axis(node)


def _padding(node: Any, inner: Mapping[str, Array], held: Mapping[str, Any]) -> Iterator[Repair]:
    """Padding at the other end, of a convolution or by itself."""
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "pads":
            for text, pads in _moved_pads(list(attribute.ints)):
                edit = _attribute(node.output[0], "pads", pads)
                yield Repair("place", node, f"{described(node)} pads {text}", edit, f"{node.op_type} {text}")
    if node.op_type == "Pad" and len(node.input) > 1:
        name = node.input[1]
        given = inner.get(name) if name not in held else numpy_helper.to_array(held[name])
        for text, pads in [] if given is None else _moved_pads([int(value) for value in given.reshape(-1)]):
            edit = _replaced(node.output[0], 1, np.array(pads, np.int64))
            yield Repair("place", node, f"{described(node)} pads {text}", edit, f"Pad {text}")


def _moved_pads(pads: list[int]) -> Iterator[tuple[str, list[int]]]:
    half = len(pads) // 2
    tried = [("the other sides", pads[half:] + pads[:half])]
    for axis in range(half):
        total = pads[axis] + pads[axis + half]
        for front in range(total + 1) if total <= MOST_RANK else (0, total):
            moved = list(pads)
            moved[axis], moved[axis + half] = front, total - front
            tried.append((f"axis {axis} by {front} in front and {total - front} behind", moved))
        for other in range(half):  # time is padded as frequency is, or is not
            moved = list(pads)
            moved[axis], moved[axis + half] = pads[other], pads[other + half]
            if axis > 1:
                tried.append((f"axis {axis} as axis {other}", moved))
    yield from ((text, moved) for text, moved in tried if moved != pads)


def _axis(node: Any) -> Iterator[Repair]:
    name = AXES.get(node.op_type)
    present = {attribute.name: attribute for attribute in node.attribute}
    if name is not None and name in present:
        for axis in range(-MOST_RANK, 0):
            text = f"{described(node)} runs along axis {axis}"
            yield Repair("place", node, text, _attribute(node.output[0], name, axis), f"{node.op_type} axis {axis}")
    if node.op_type == "Transpose" and "perm" in present:
        perm = list(present["perm"].ints)
        for first, second in combinations(range(len(perm)), 2):
            other = list(perm)
            other[first], other[second] = other[second], other[first]
            text = f"{described(node)} has perm {other}"
            yield Repair("place", node, text, _attribute(node.output[0], "perm", other), f"{perm} {other}")


def _moved(made: str, positions: Sequence[int], offset: int) -> Edit:
    def edit(proto: Any) -> None:
        node = find(proto, made)
        for position in positions:
            amount = hold(proto, f"{made}:by_{position}", np.array(offset, np.int64))
            new = f"{made}:moved_{position}"
            node.input[position] = put_before(proto, node, "Add", [node.input[position], amount], new)

    return edit


def _attribute(made: str, name: str, value: Any) -> Edit:
    def edit(proto: Any) -> None:
        import onnx

        node = find(proto, made)
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        changed = onnx.helper.make_attribute(name, value)
        del node.attribute[:]
        node.attribute.extend([*kept, changed])

    return edit


def _replaced(made: str, position: int, value: Array) -> Edit:
    def edit(proto: Any) -> None:
        find(proto, made).input[position] = hold(proto, f"{made}:other_{position}", value)

    return edit
