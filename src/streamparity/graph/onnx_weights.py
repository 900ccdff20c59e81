"""The weights in an exported graph under NeMo's parameter names and in NeMo's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..tensors import Array
from .onnx_graph import module_path
from .weight import Weight

# torch keeps an LSTM's gates as input, forget, cell, output; ONNX as input, output, forget, cell.
TORCH_GATES_IN_ONNX = (0, 2, 3, 1)


class Constants:
    """Tensors of a graph that do not depend on its inputs, weights that are dequantised or cast among them.

    Args:
        proto: the graph.
        folder: where its external weights lie.
    """

    def __init__(self, proto: Any, folder: Path) -> None:
        self._weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._producer = {name: node for node in proto.graph.node for name in node.output}
        self._folder = folder
        self._opset = max(
            (int(item.version) for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=17
        )

    def value(self, name: str, depth: int = 8) -> Array | None:
        """The tensor's value, or ``None`` where it depends on an input (or on more than ``depth`` operators)."""
        from onnx import numpy_helper

        if name in self._weights:
            array: Array = numpy_helper.to_array(self._weights[name], base_dir=str(self._folder))
            return array
        node = self._producer.get(name)
        if node is None or not depth:
            return None
        given = {part: self.value(part, depth - 1) for part in node.input if part}
        if any(value is None for value in given.values()):
            return None
        return self._computed(node, name, given)

    def _computed(self, node: Any, name: str, given: Mapping[str, Array | None]) -> Array | None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        inputs = [onnx.ValueInfoProto(name=part) for part in given]
        graph = onnx.helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=name)])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)])
        try:
            computed: Any = ReferenceEvaluator(model).run([name], dict(given))
        except Exception:  # an operator that the evaluator lacks: then it is simply not known
            return None
        value: Array = np.asarray(computed[0])
        return value


def weights(proto: Any, folder: Path, root: str) -> Iterator[Weight]:
    """Every weight whose NeMo parameter the graph's names tell.

    Args:
        proto: an exported encoder or ``decoder_joint``.
        folder: where its external weights lie.
        root: what comes before this graph's module paths in NeMo's: ``encoder.`` or nothing.
    """
    constants = Constants(proto, folder)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    lstm_layer: dict[str, int] = {}
    for node in proto.graph.node:
        scope = f"{root}{module_path(node.name)}"
        if node.op_type == "LSTM":
            layer = lstm_layer[scope] = lstm_layer.get(scope, -1) + 1
            yield from _lstm(node, scope, layer, constants)
        elif node.op_type in ("MatMul", "Gemm") and len(node.input) > 1:
            values = constants.value(node.input[1]) if not _named(node.input[1], initializers, "weight") else None
            if values is not None and values.ndim == 2:
                swapped = any(item.name == "transB" and item.i for item in node.attribute)
                yield Weight(f"{scope}.weight", values if swapped else values.T, node.name)
        elif node.op_type == "Conv":
            for name, part in zip(node.input[1:3], ("weight", "bias"), strict=False):
                if not _named(name, initializers, part):
                    values = constants.value(name)
                    if values is not None:
                        yield Weight(f"{scope}.{part}", values, node.name, folded=True)
        for name in node.input:
            if name in initializers and _is_parameter(name):
                values = constants.value(name)
                if values is not None:
                    yield Weight(_full(name, root), values, node.name)


def _named(name: str, initializers: set[str], part: str) -> bool:
    return name in initializers and _is_parameter(name) and name.endswith(part)


def _is_parameter(name: str) -> bool:
    """Whether the exporter kept a parameter's own name: torch renames those that it has changed."""
    return "::" not in name and "/" not in name and "." in name


def _full(name: str, root: str) -> str:
    return name if name.startswith(("encoder.", "decoder.", "joint.")) else root + name


def _lstm(node: Any, scope: str, layer: int, constants: Constants) -> Iterator[Weight]:
    # The decoder's scope ends in the LSTM's own name: decoder.dec_rnn.lstm for decoder.prediction.dec_rnn.lstm.
    path = scope if ".prediction." in scope else scope.replace("decoder.", "decoder.prediction.", 1)
    for name, part in zip(node.input[1:3], ("weight_ih", "weight_hh"), strict=True):
        values = constants.value(name)
        if values is not None:
            yield Weight(f"{path}.{part}_l{layer}", _torch_gates(values[0]), node.name)
    values = constants.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if values is not None:
        for part, half in zip(("bias_ih", "bias_hh"), np.split(values[0], 2), strict=True):
            yield Weight(f"{path}.{part}_l{layer}", _torch_gates(half), node.name)


def _torch_gates(values: Array) -> Array:
    gates = np.split(values, 4)
    return np.concatenate([gates[place] for place in TORCH_GATES_IN_ONNX])
