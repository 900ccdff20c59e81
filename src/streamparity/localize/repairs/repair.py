"""One edit of a graph, and what edits are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tensors import Array

Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Repair:
    """An edit that might mend a graph.

    Attributes:
        kind: ``extra``, ``precision``, ``order``, ``place``, ``operator``, ``weight``, ``addend``, ``constant`` or
            ``scale``.
        node: the node that is wrong (``onnx.NodeProto`` of the unedited graph).
        text: what is done to it; follows "is right once".
        edit: changes a copy of the graph.
        alike: what other edits are the same at another node; empty where an edit stands alone.
        parameter: the reference's parameter that it brings in.
    """

    kind: str
    node: Any
    text: str
    edit: Edit
    alike: str = ""
    parameter: str | None = None


def together(repairs: Iterable[Repair]) -> Iterator[Repair]:
    """Edits that are alike, all at once: a mistake in the code of a layer is made wherever that code is used."""
    groups: dict[str, list[Repair]] = {}
    for repair in repairs:
        if repair.alike:
            groups.setdefault(f"{repair.kind} {repair.alike}", []).append(repair)
    for group in groups.values():
        if len({repair.node.output[0] for repair in group}) == len(group) > 1:
            first, edits = group[0], [repair.edit for repair in group]
            text = f"{first.text}, and {len(group) - 1} more are changed alike"
            yield Repair(first.kind, first.node, text, _all(edits))


def _all(edits: Sequence[Edit]) -> Edit:
    def edit(proto: Any) -> None:
        for one in edits:
            one(proto)

    return edit


def described(node: Any) -> str:
    """A node by its name, or by the tensor that it makes where it has none, and its operator."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def constants(proto: Any) -> dict[str, Any]:
    """What a graph holds as constants (``onnx.TensorProto``), by tensor name; not those kept in other files."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if not tensor.external_data}
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    return tensors


def find(proto: Any, made: str) -> Any:
    """The node of an edited graph whose first output has a name."""
    return next(node for node in proto.graph.node if node.output[0] == made)


def put_before(proto: Any, node: Any, op: str, inputs: Sequence[str], output: str) -> str:
    """Insert a node in front of another; returns what it makes."""
    import onnx

    place = next(i for i, other in enumerate(proto.graph.node) if other.output[0] == node.output[0])
    proto.graph.node.insert(place, onnx.helper.make_node(op, list(inputs), [output]))
    return output


def put_behind(proto: Any, made: str, op: str, others: Sequence[str]) -> None:
    """Insert ``op(made, *others)`` behind a node: what it makes takes the name ``made``."""
    import onnx

    place = next(i for i, other in enumerate(proto.graph.node) if other.output[0] == made)
    proto.graph.node[place].output[0] = f"{made}:before"
    proto.graph.node.insert(place + 1, onnx.helper.make_node(op, [f"{made}:before", *others], [made]))


def hold(proto: Any, name: str, value: Array) -> str:
    """Add a constant; returns its name."""
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def float_constant(proto: Any, name: str, value: float) -> str:
    """Add a float32 scalar; returns its name."""
    return hold(proto, name, np.array(value, np.float32))
