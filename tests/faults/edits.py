"""Small edits of an exported graph, the tools that faults are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from streamparity.graph.onnx_graph import module_path

Edit = Callable[[onnx.ModelProto], None]


def find(model: onnx.ModelProto, path: str, op: str, position: int = 0) -> onnx.NodeProto:
    """A node by module path and operator; ``position`` where a module has several."""
    return [n for n in model.graph.node if n.op_type == op and module_path(n.name) == path][position]


def named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def producer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if tensor in n.output)


def constant(model: onnx.ModelProto, name: str, value) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def value_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    return numpy_helper.to_array(producer(model, name).attribute[0].t)


def rewrite(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a weight in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(changed, name))


def after(model: onnx.ModelProto, tensor: str, build: Callable[[str, str], Sequence[onnx.NodeProto]]) -> None:
    """Put nodes behind a tensor: ``build(old, new)`` computes ``new``, which takes its name, from ``old``."""
    node, old = producer(model, tensor), f"{tensor}_before"
    node.output[list(node.output).index(tensor)] = old
    place = list(model.graph.node).index(node) + 1
    for offset, extra in enumerate(build(old, tensor)):
        model.graph.node.insert(place + offset, extra)


def before(model: onnx.ModelProto, node: onnx.NodeProto, position: int, build) -> None:
    """Put nodes in front of one input of a node; ``build(old, new)`` as for :func:`after`."""
    old, new = node.input[position], f"{node.input[position]}_for_{node.name.replace('/', '_')}"
    place = list(model.graph.node).index(node)
    for offset, extra in enumerate(build(old, new)):
        model.graph.node.insert(place + offset, extra)
    node.input[position] = new


def at_input(model: onnx.ModelProto, port: str, build) -> None:
    """Put nodes between an input of the graph and all that use it."""
    users = [n for n in model.graph.node if port in n.input]
    changed = f"{port}_changed"
    for node in users:
        for position, name in enumerate(node.input):
            if name == port:
                node.input[position] = changed
    for offset, extra in enumerate(build(port, changed)):
        model.graph.node.insert(offset, extra)


def multiply(model: onnx.ModelProto, factor, name: str = "planted_factor"):
    constant(model, name, np.asarray(factor, np.float32))
    return lambda old, new: [helper.make_node("Mul", [old, name], [new], name=f"/planted/Mul_{name}")]


def cast_through(kind: int):
    """Round by casting to a format and back."""
    return lambda old, new: [
        helper.make_node("Cast", [old], [f"{new}_low"], to=kind, name=f"/planted/Cast_{new.replace('/', '_')}"),
        helper.make_node("Cast", [f"{new}_low"], [new], to=1, name=f"/planted/Cast_up_{new.replace('/', '_')}"),
    ]


def roll(model: onnx.ModelProto, shift: int, axis: int, name: str = "planted"):
    """Turn a tensor along an axis: its last ``shift`` entries come first."""
    for part, value in (("from", -shift), ("end", np.iinfo(np.int64).max), ("zero", 0), ("axis", axis)):
        constant(model, f"{name}_{part}", np.array([value], np.int64))

    def build(old: str, new: str):
        head = helper.make_node(
            "Slice", [old, f"{name}_from", f"{name}_end", f"{name}_axis"], [f"{new}_head"], name="/planted/Slice"
        )
        tail = helper.make_node(
            "Slice", [old, f"{name}_zero", f"{name}_from", f"{name}_axis"], [f"{new}_tail"], name="/planted/Slice_1"
        )
        joined = helper.make_node("Concat", [f"{new}_head", f"{new}_tail"], [new], axis=axis, name="/planted/Concat")
        return [head, tail, joined]

    return build


def matmul_weight(model: onnx.ModelProto, path: str) -> str:
    return find(model, path, "MatMul").input[1]
