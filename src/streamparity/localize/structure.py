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
from ..runners.onnx_graph import OnnxGraph, module_path
from ..runners.onnx_weights import Constants

LAYER = re.compile(r"(?<![\w])layers\.(\d+)(?![\w])")
SMALL = 64  # values of a constant that is part of the structure rather than a weight
EPSILON_SAME = 1e-6  # relative: epsilons are kept in float32


@dataclass(frozen=True)
class OddNode:
    """A node that is not as it should be.

    Attributes:
        node: its name.
        module: its module path, with ``encoder.`` in front.
        op: its operator.
        what: ``epsilon``, ``attribute``, ``constant``, ``wiring``, ``extra`` or ``missing``.
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
    """The layers of a graph, side by side.

    Args:
        graph: an exported encoder.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self._constants = Constants(graph.proto, graph.path.parent)
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in graph.proto.graph.initializer}
        self._producer = {name: node for node in graph.proto.graph.node for name in node.output}
        self._layers: dict[int, dict[str, Any]] = {}
        for node in graph.proto.graph.node:
            found = LAYER.search(node.name)
            if found and node.op_type != "Constant":
                self._layers.setdefault(int(found[1]), {})[_anywhere(node.name)] = node

    def odd(self, layer: int) -> Iterator[OddNode]:
        """What one layer has in another way than all others, which agree; nothing where there are fewer than two."""
        others = [nodes for index, nodes in self._layers.items() if index != layer]
        mine = self._layers.get(layer, {})
        if len(others) < 2:
            return
        for name in sorted({*mine, *(name for nodes in others for name in nodes)}):
            have = [nodes[name] for nodes in others if name in nodes]
            if name in mine and not have:
                # Layers share what comes out the same for all of them; it then bears the name of the first.
                if self._is_shared(mine[name], layer):
                    continue
                yield self._odd(mine[name], "extra", f"no other layer has this {mine[name].op_type}")
            elif name not in mine and len(have) == len(others):
                module = f"encoder.{LAYER.sub(f'layers.{layer}', module_path(have[0].name))}"
                where = LAYER.sub(f"layers.{layer}", have[0].name)
                yield OddNode(
                    where, module, have[0].op_type, "missing", f"every other layer has this {have[0].op_type}"
                )
            elif name in mine and len(have) == len(others):
                yield from self._compared(mine[name], have)

    def _is_shared(self, node: Any, layer: int) -> bool:
        """Whether another layer uses what a node of this one computes."""
        return any(
            other != layer and set(node.output) & {name for user in nodes.values() for name in user.input}
            for other, nodes in self._layers.items()
        )

    def _compared(self, mine: Any, others: list[Any]) -> Iterator[OddNode]:
        if _agree([node.op_type for node in others]) and mine.op_type != others[0].op_type:
            yield self._odd(mine, "attribute", f"{mine.op_type} where the other layers have {others[0].op_type}")
            return
        theirs = [_attributes(node) for node in others]
        if _agree(theirs) and _attributes(mine) != theirs[0]:
            yield self._odd(mine, "attribute", f"{_attributes(mine)} where the other layers have {theirs[0]}")
        inputs = [self._inputs(node) for node in others]
        if _agree(inputs) and self._inputs(mine) != inputs[0]:
            for own, other in zip(self._inputs(mine), inputs[0], strict=False):
                if own != other:
                    constant = own.startswith("=") and other.startswith("=")
                    text = f"takes {own.lstrip('=')} where the other layers take {other.lstrip('=')}"
                    yield self._odd(mine, "constant" if constant else "wiring", text)
            if len(self._inputs(mine)) != len(inputs[0]):
                yield self._odd(mine, "wiring", f"{len(mine.input)} inputs for {len(inputs[0])}")

    def _inputs(self, node: Any) -> list[str]:
        """Inputs as they can be held against another layer's: small constants by value, weights by shape."""
        described = []
        for name in node.input:
            producer = self._producer.get(name)
            if name in self._weights and int(np.prod(self._weights[name])) > SMALL:
                kept = "::" not in name and "." in name
                described.append(_anywhere(name) if kept else f"weight {list(self._weights[name])}")
            elif name in self._weights or (producer is not None and producer.op_type == "Constant"):
                value = self._constants.value(name)
                named = name in self._weights and "." in name and "::" not in name
                described.append(_anywhere(name) if value is None or named else f"={np.asarray(value).tolist()}")
            elif producer is None:
                described.append(name)
            elif LAYER.search(producer.name) or not _is_gather(producer):
                described.append(f"{_anywhere(producer.name)}:{list(producer.output).index(name)}")
            else:
                described.append(producer.op_type)  # a layer's own cache, taken out by number
        return described

    @staticmethod
    def _odd(node: Any, what: str, text: str) -> OddNode:
        return OddNode(node.name, f"encoder.{module_path(node.name)}", node.op_type, what, text)


def _is_gather(node: Any) -> bool:
    return str(node.op_type) == "Gather"


def _anywhere(name: str) -> str:
    return LAYER.sub("layers.*", name)


def _attributes(node: Any) -> Mapping[str, str]:
    import onnx

    return {item.name: str(onnx.helper.get_attribute_value(item)) for item in node.attribute}


def _agree(values: list[Any]) -> bool:
    return all(value == values[0] for value in values)
