"""Biases, gains and small matrices under names that tell nothing, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...tensors import Array
from .repair import Edit, Repair, described, find, hold, put_behind

LINEAR = ("MatMul", "Gemm")


def vectors(proto: Any, nodes: Sequence[Any], known: Mapping[str, Array]) -> Iterator[Repair]:
    """The reference's parameters in place of the graph's own, and biases where the graph has none.

    Args:
        proto: the piece.
        nodes: nodes that may be changed.
        known: the reference's parameters by name.
    """
    held = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in nodes:
        for position, name in enumerate(node.input):
            for parameter, values in known.items():
                fitting = _as_held(values, held[name]) if name in held else None
                if fitting is not None and not _is(parameter, name):
                    # Where the graph holds a right parameter, and takes it for another, it is wired wrongly.
                    kind = "order" if any(_is(other, name) for other in known) else "weight"
                    text = f"{described(node)} takes {parameter} as its operand {position}"
                    edit = _takes(node.output[0], position, fitting)
                    yield Repair(kind, node, text, edit, parameter=parameter)
        if node.op_type in LINEAR and held.get(node.input[1]):
            for parameter, values in known.items():
                if parameter.endswith("bias") and values.size in held[node.input[1]]:
                    text = f"{parameter} is added to what {described(node)} makes"
                    yield Repair("weight", node, text, _biased(node.output[0], values), parameter=parameter)


def _is(parameter: str, name: str) -> bool:
    """Whether a graph's name is a parameter's own, but for what comes before the graph's part of the model."""
    return parameter == name or ("." in name and parameter.endswith(f".{name}"))


def _as_held(values: Array, shape: tuple[int, ...]) -> Array | None:
    """A parameter in the shape in which a graph holds it: a vector among extents of 1, a matrix for rows or columns."""
    if values.shape == shape or (values.ndim == 1 and values.size == int(np.prod(shape)) == max(shape, default=0)):
        return values.reshape(shape)
    return values.T if values.ndim == 2 and values.T.shape == shape else None


def _takes(made: str, position: int, values: Array) -> Edit:
    def edit(proto: Any) -> None:
        held = hold(proto, f"{made}:reference_{position}", np.asarray(values, np.float32))
        find(proto, made).input[position] = held

    return edit


def _biased(made: str, values: Array) -> Edit:
    def edit(proto: Any) -> None:
        put_behind(proto, made, "Add", [hold(proto, f"{made}:bias", np.asarray(values, np.float32))])

    return edit
