"""Grafts onto exported graphs whose names look like an exporter's, or like a converter's, or are none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from streamparity.graph.onnx_graph import module_path

EXPORTER, ANONYMOUS, NONE = "exporter", "anonymous", "none"


class Graft:
    """Builds nodes and puts them into a graph.

    Args:
        model: the graph.
        scope: node names' scope, such as ``/layers.1/self_attn``; empty for the encoder itself.
        style: ``exporter`` for ``/layers.1/self_attn/Mul_3``, ``anonymous`` for ``Mul_1803``, ``none`` for no name.
    """

    def __init__(self, model: onnx.ModelProto, scope: str = "", style: str = EXPORTER) -> None:
        self.model, self.scope, self.style = model, scope, style
        self._names = {node.name for node in model.graph.node}
        self._tensors = {name for node in model.graph.node for name in node.output}
        self._tensors |= {tensor.name for tensor in model.graph.initializer}
        self._new: list[onnx.NodeProto] = []
        self._count = 2000

    def const(self, value, op: str = "Constant") -> str:
        """An initialiser under the kind of name that torch's exporter gives folded constants."""
        name = next(n for n in self._numbered(f"onnx::{op}_") if n not in self._tensors)
        self._tensors.add(name)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def floats(self, value, op: str = "Mul") -> str:
        return self.const(np.asarray(value, np.float32), op)

    def __call__(self, op: str, *inputs: str, **attributes) -> str:
        """A node; its first output."""
        name = self._name(op)
        numbers = (number for number in self._numbered("") if number not in self._tensors)
        out = f"{name}_output_0" if self.style == EXPORTER else next(numbers)
        self._names.add(name)
        self._tensors.add(out)
        self._new.append(helper.make_node(op, list(inputs), [out], name=name, **attributes))
        return out

    def after(self, tensor: str, build: Callable[[str], str]) -> None:
        """Let all that use ``tensor`` use ``build(tensor)``."""
        users = [node for node in self.model.graph.node if tensor in node.input]
        place = next((i for i, n in enumerate(self.model.graph.node) if tensor in n.output), -1) + 1
        if tensor in {value.name for value in self.model.graph.output}:
            node = self.model.graph.node[place - 1]
            old = next(name for name in self._numbered("onnx::Output_") if name not in self._tensors)
            node.output[list(node.output).index(tensor)] = old
            _rewire(users, tensor, old)
            build(old)
            self._new[-1].output[0] = tensor
        else:
            _rewire(users, tensor, build(tensor))
        self._insert(place)

    def before(self, node: onnx.NodeProto, position: int, build: Callable[[str], str]) -> None:
        """Let one input of a node be ``build(that input)``."""
        node.input[position] = build(node.input[position])
        self._insert(place_of(self.model, node))

    def instead(self, node: onnx.NodeProto, build: Callable[..., str]) -> None:
        """Compute a node's first output by other nodes."""
        place = place_of(self.model, node)
        build(*node.input)
        self._new[-1].output[0] = node.output[0]
        del self.model.graph.node[place]
        self._insert(place)

    def _insert(self, place: int) -> None:
        for offset, node in enumerate(self._new):
            self.model.graph.node.insert(place + offset, node)
        self._new = []

    def _name(self, op: str) -> str:
        if self.style == NONE:
            return ""
        first = f"{self.scope}/{op}"
        stem = f"{op}_" if self.style == ANONYMOUS else f"{first}_"
        if self.style == EXPORTER and self._free(first):
            return first
        start = 2000 if self.style == ANONYMOUS else 1
        return next(f"{stem}{n}" for n in range(start, 99999) if self._free(f"{stem}{n}"))

    def _free(self, name: str) -> bool:
        return name not in self._names and f"{name}_output_0" not in self._tensors

    def _numbered(self, stem: str) -> Iterator[str]:
        while True:
            self._count += 1
            yield f"{stem}{self._count}"


def place_of(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    return next(index for index, other in enumerate(model.graph.node) if other.output[0] == node.output[0])


def _rewire(users, old: str, new: str) -> None:
    for node in users:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new


def bypass(model: onnx.ModelProto, node: onnx.NodeProto, kept: str) -> None:
    """Take a node out; what used it uses one of its inputs."""
    _rewire(list(model.graph.node), node.output[0], kept)
    del model.graph.node[place_of(model, node)]


def nodes(model: onnx.ModelProto, op: str, path: str) -> list[onnx.NodeProto]:
    """Nodes of an operator whose module path ends so, in graph order."""
    return [n for n in model.graph.node if n.op_type == op and (module_path(n.name) + "|").endswith(f"{path}|")]


def sorted_by_need(model: onnx.ModelProto) -> None:
    """Put nodes back into an order in which each comes after what it takes."""
    waiting = list(model.graph.node)
    ready = {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready for name in node.input):
                ordered.append(node)
                ready |= set(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError("the edited graph has a cycle")
        waiting = later
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def without_names(model: onnx.ModelProto) -> None:
    """No node has a name, tensors are numbers; initialisers that have NeMo's names keep them."""
    ports = {value.name for value in [*model.graph.input, *model.graph.output]}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        node.name = ""
        for position, name in enumerate(node.output):
            if name and name not in ports:
                renamed[name] = f"t{len(renamed)}"
                node.output[position] = renamed[name]
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)


def rename_initializer(model: onnx.ModelProto, old: str, new: str) -> None:
    next(t for t in model.graph.initializer if t.name == old).name = new
    _rewire(list(model.graph.node), old, new)
