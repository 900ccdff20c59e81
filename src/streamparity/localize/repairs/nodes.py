"""Nodes too many, and operands and outputs in the wrong order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Any

from .repair import Edit, Repair, described, find

ORDERED = {"Sub", "Div", "Concat", "Where", "MatMul", "Pow", "Greater", "Less"}
NO_BYPASS = {"Constant", "ConstantOfShape", "Shape", "Range", "Identity"}


def extra(nodes: Sequence[Any], floats: Collection[str]) -> Iterator[Repair]:
    """Each node left out: what uses it takes one of its inputs."""
    for node in nodes:
        if node.op_type in NO_BYPASS or node.output[0] not in floats:
            continue
        for position, name in enumerate(node.input):
            if name in floats:
                alike = f"{node.op_type} {position}"
                yield Repair("extra", node, f"{described(node)} is left out", _identity(node.output[0], name), alike)


def order(nodes: Sequence[Any]) -> Iterator[Repair]:
    """Operands or outputs exchanged."""
    for node in nodes:
        pairs = list(combinations(range(min(len(node.input), 4)), 2)) if node.op_type in ORDERED else []
        for first, second in pairs:
            text = f"operands {first} and {second} of {described(node)} are exchanged"
            edit = _exchange(node.output[0], "input", first, second)
            yield Repair("order", node, text, edit, f"operands {node.op_type} {first} {second}")
        for first, second in combinations([i for i, name in enumerate(node.output) if name], 2):
            text = f"outputs {first} and {second} of {described(node)} are exchanged"
            edit = _exchange(node.output[0], "output", first, second)
            yield Repair("order", node, text, edit, f"outputs {node.op_type} {first} {second}")


def _identity(made: str, kept: str) -> Edit:
    def edit(proto: Any) -> None:
        node = find(proto, made)
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:], node.input[:], node.output[1:]
        node.input.append(kept)

    return edit


def _exchange(made: str, side: str, first: int, second: int) -> Edit:
    def edit(proto: Any) -> None:
        names = getattr(find(proto, made), side)
        names[first], names[second] = names[second], names[first]

    return edit
