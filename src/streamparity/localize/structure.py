"""An exported graph held against what it should be: the epsilons of its norms, and its layers against one another.

The layers of an encoder are the same graph with other weights. A node that one layer has and no other, lacks where all
others have it, or has with another attribute, constant or wiring, was not put there by the exporter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dump.anatomy import Anatomy
from ..graph.onnx_graph import FLOATS, OnnxGraph, module_path
from ..graph.onnx_weights import Constants

LAYER = re.compile(r"(?<![\w])layers\.(\d+)(?![\w])")
SMALL = 64  # values of a constant that is part of the structure rather than a weight
# What a node holds says more of the fault's place than what it is connected to.
KINDS = ("epsilon", "constant", "attribute", "extra", "wiring", "missing")
EPSILON_SAME = 1e-6  # relative: epsilons are kept in float32


@dataclass(frozen=True)
class OddNode:
    """A node that is not as it should be.

    Attributes:
        node: its name.
        module: its module path, with ``encoder.`` in front.
        op: its operator.
        what: one of :data:`KINDS`.
        text: what is odd about it.
    """

    node: str
    module: str
    op: str
    what: str
    text: str


def odd_epsilons(graph: OnnxGraph, anatomy: Anatomy | None) -> Iterator[OddNode]:
    """Normalisation nodes whose epsilon is not that of the reference's layer."""
    for node in graph.proto.graph.node:
        module = f"encoder.{module_path(node.name)}"
        norm = None if anatomy is None else anatomy.norms.get(module)
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), None)
        if norm is not None and epsilon is not None and abs(epsilon - norm.epsilon) > EPSILON_SAME * norm.epsilon:
            text = f"epsilon {epsilon:g} for {norm.epsilon:g}"
            yield OddNode(node.name, module, node.op_type, "epsilon", text)


def training_norms(graph: OnnxGraph) -> Iterator[OddNode]:
    """Batch norms that normalise by the batch at hand."""
    for node in graph.proto.graph.node:
        if node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute):
            module = f"encoder.{module_path(node.name)}"
            yield OddNode(node.name, module, node.op_type, "attribute", "training_mode is set")


class Layers:
    """The layers of a graph, side by side: what computes with floating-point numbers, operator by operator.

    What works out shapes is left out: an exporter shares it between layers, and then numbers nodes differently.

    Args:
        graph: an exported encoder.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self._constants = Constants(graph.proto, graph.path.parent)
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in graph.proto.graph.initializer}
        self._producer = {name: node for node in graph.proto.graph.node for name in node.output}
        self._types = graph.types()
        self._layers: dict[int, dict[str, Any]] = {}
        self._key: dict[str, tuple[int, str]] = {}
        counted: dict[tuple[int, str], int] = {}
        # By the numbers in their names, which are the exporter's: the order in the file is anybody's.
        for node in sorted(graph.proto.graph.node, key=_natural):
            found = LAYER.search(node.name)
            if not found or node.op_type.startswith("Constant") or not self._computes(node):
                continue
            layer, path = int(found[1]), f"{_anywhere(module_path(node.name))} {node.op_type}"
            counted[layer, path] = counted.get((layer, path), -1) + 1
            key = f"{path} {counted[layer, path]}"
            self._layers.setdefault(layer, {})[key] = node
            self._key |= dict.fromkeys(node.output, (layer, key))

    def odd(self, layer: int) -> Iterator[OddNode]:
        """What one layer has in another way than all others, which agree; nothing where there are fewer than two."""
        others = [nodes for index, nodes in self._layers.items() if index != layer]
        mine = self._layers.get(layer, {})
        if len(others) < 2:
            return
        for key in sorted({*mine, *(key for nodes in others for key in nodes)}):
            have = [nodes[key] for nodes in others if key in nodes]
            if key in mine and not have:
                yield self._odd(mine[key], "extra", f"no other layer has this {mine[key].op_type}")
            elif key not in mine and len(have) == len(others):
                where = LAYER.sub(f"layers.{layer}", have[0].name)
                module, op = f"encoder.{module_path(where)}", have[0].op_type
                yield OddNode(where, module, op, "missing", f"every other layer has this {op}")
            elif key in mine and len(have) == len(others):
                yield from self._compared(layer, mine[key], have)

    def _computes(self, node: Any) -> bool:
        return any(self._types.get(name, 1) in FLOATS for name in node.output)

    def _compared(self, layer: int, mine: Any, others: list[Any]) -> Iterator[OddNode]:
        theirs, own = [_attributes(node) for node in others], _attributes(mine)
        if _agree(theirs) and own != theirs[0]:
            epsilons = own.get("epsilon"), theirs[0].get("epsilon")
            if epsilons[0] != epsilons[1]:
                yield self._odd(mine, "epsilon", f"epsilon {epsilons[0]}, the other layers with {epsilons[1]}")
            else:
                yield self._odd(mine, "attribute", f"{own} where the other layers have {theirs[0]}")
        inputs, taken = [self._inputs(node) for node in others], self._inputs(mine)
        if not _agree(inputs) or taken == inputs[0]:
            return
        if len(taken) != len(inputs[0]):
            yield self._odd(mine, "wiring", f"{len(taken)} inputs for {len(inputs[0])}")
        for given, usual in zip(taken, inputs[0], strict=False):
            if given != usual:
                constant = given.startswith("=") and usual.startswith("=")
                text = f"takes {given.lstrip('=')} where the other layers take {usual.lstrip('=')}"
                yield self._odd(mine, "constant" if constant else "wiring", text)

    def _inputs(self, node: Any) -> list[str]:
        """Inputs as they can be held against another layer's: small constants by value, weights by name."""
        layer = LAYER.search(node.name)
        return [self._described(name, -1 if layer is None else int(layer[1])) for name in node.input]

    def _described(self, name: str, layer: int) -> str:
        producer = self._producer.get(name)
        if name in self._weights or (producer is not None and producer.op_type == "Constant"):
            if name in self._weights and "::" not in name and LAYER.search(name):
                return _anywhere(name)
            shape = self._weights.get(name)
            if shape is not None and int(np.prod(shape)) > SMALL:
                return f"a weight {list(shape)}"
            value = self._constants.value(name)
            return "a constant" if value is None else f"={np.asarray(value).tolist()}"
        if producer is None or not self._computes(producer):
            return "an input or a shape"
        owner, key = self._key.get(name, (-1, producer.op_type))
        if owner == layer:
            return f"{key}, output {list(producer.output).index(name)}"
        # From another layer, or from in front of all of them: by operator where that is a name of nobody's.
        foreign = owner < 0 and module_path(producer.name) and not producer.name.startswith(("/pos_enc", "/pre_encode"))
        return f"a foreign {producer.op_type}" if foreign else "what comes from outside the layer"

    @staticmethod
    def _odd(node: Any, what: str, text: str) -> OddNode:
        return OddNode(node.name, f"encoder.{module_path(node.name)}", node.op_type, what, text)


def _natural(node: Any) -> list[tuple[bool, int, str]]:
    """``Mul_10`` after ``Mul_9``."""
    parts = re.split(r"(\d+)", node.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _anywhere(name: str) -> str:
    return LAYER.sub("layers.*", name)


def _attributes(node: Any) -> Mapping[str, str]:
    import onnx

    return {item.name: str(onnx.helper.get_attribute_value(item)) for item in node.attribute}


def _agree(values: list[Any]) -> bool:
    return all(value == values[0] for value in values)
