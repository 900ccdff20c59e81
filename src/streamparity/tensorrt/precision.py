"""Reduced precision made in the graph, since a strongly typed network computes in the types that the graph says.

Neither of the converters that come with ONNX tools (``onnxruntime.transformers.float16``, ``onnxconverter_common``)
makes bfloat16, and both lower the arithmetic on lengths, which bfloat16 holds exactly only up to 256. So the casts are
put in here: every operator that takes features, caches or weights computes in the type asked for, what is worked out of
lengths and shapes alone stays as it is, and ports keep their types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StreamparityError
from ..graph.onnx_graph import FLOATS, OnnxGraph

LOWERED = {"fp16": 10, "bf16": 16}
LARGEST_FLOAT16 = 65504.0
FLOAT = 1
# These say themselves what they return.
TYPED = {"Cast", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Lowered:
    """A graph in reduced precision.

    Attributes:
        proto: the graph; external weights are still where they were.
        lowered: names of the nodes that compute in reduced precision.
        kept: names of the nodes that would, and were pinned.
        overflowing: constants that the type asked for holds as infinity.
    """

    proto: Any
    lowered: tuple[str, ...]
    kept: tuple[str, ...]
    overflowing: tuple[str, ...]


def lower(graph: OnnxGraph, precision: str, pinned: Callable[[str], bool]) -> Lowered:
    """Let a graph compute in ``fp16`` or ``bf16``.

    Args:
        graph: a graph in float32.
        precision: a key of :data:`LOWERED`.
        pinned: whether the node of this name stays in float32.

    Raises:
        StreamparityError: the graph has parts (``If``, ``Loop``, ``Scan``) whose types cannot be changed from outside.
    """
    for node in graph.proto.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise StreamparityError(
                f"{graph.path}: node {node.name} ({node.op_type}) holds a graph of its own, whose precision is fixed",
                "build it with --precision fp32, or export without control flow",
            )
    return _Lowering(graph, LOWERED[precision], pinned).run()


class _Lowering:
    """One pass over the nodes, which ONNX keeps in an order in which they can be computed."""

    def __init__(self, graph: OnnxGraph, low: int, pinned: Callable[[str], bool]) -> None:
        import onnx

        self._helper = onnx.helper
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(graph.proto)
        self._low = low
        self._pinned = pinned
        types = graph.types()
        inputs = {value.name: value.type.tensor_type.elem_type for value in self.proto.graph.input}
        weights = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self._floats = {name for name, kind in (types | inputs).items() if kind == FLOAT}
        self._floats |= {name for name, tensor in weights.items() if tensor.data_type == FLOAT}
        # What carries the signal: a scalar constant says nothing about whether lengths or features are worked on.
        self._signal = {name for name, kind in inputs.items() if kind == FLOAT and name not in weights}
        self._signal |= {name for name, t in weights.items() if t.data_type == FLOAT and int(np.prod(t.dims)) > 1}
        self._is_low: set[str] = set()
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[Any] = []

    def run(self) -> Lowered:
        lowered: list[str] = []
        kept: list[str] = []
        returned = {value.name for value in self.proto.graph.output}
        for node in list(self.proto.graph.node):
            on_signal = any(name in self._signal for name in node.input)
            wanted = on_signal and node.op_type not in TYPED and node.domain in ("", "ai.onnx")
            pinned = wanted and self._pinned(node.name)
            if wanted:
                (kept if pinned else lowered).append(node.name)
            self._convert(node, low=wanted and not pinned, returned=returned)
            if on_signal:
                self._signal.update(name for name in node.output if name in self._floats)
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(self._nodes)
        del self.proto.graph.value_info[:]
        return Lowered(self.proto, tuple(lowered), tuple(kept), tuple(self._overflowing()))

    def _convert(self, node: Any, low: bool, returned: Collection[str]) -> None:
        """Put a node at the end of the new list, its inputs cast to its own type."""
        if node.op_type not in TYPED or node.op_type == "QuantizeLinear":
            for place, name in enumerate(node.input):
                if name in self._floats and (name in self._is_low) != low:
                    node.input[place] = self._cast(name, self._low if low else FLOAT)
        self._nodes.append(node)
        if not low:
            return
        for place, name in enumerate(node.output):
            if name not in self._floats:
                continue
            if name in returned:  # a port keeps its type and its name
                node.output[place] = f"{name}:low"
                self._nodes.append(self._cast_node(node.output[place], name, FLOAT))
                self._casts[name, self._low] = node.output[place]
            else:
                self._is_low.add(name)

    def _cast(self, name: str, kind: int) -> str:
        if (name, kind) not in self._casts:
            self._casts[name, kind] = f"{name}:{FLOATS[kind]}"
            self._nodes.append(self._cast_node(name, self._casts[name, kind], kind))
        return self._casts[name, kind]

    def _cast_node(self, source: str, target: str, kind: int) -> Any:
        return self._helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)

    def _overflowing(self) -> Sequence[str]:
        """Constants cast to float16 that it cannot hold; those in external files are weights, which are small."""
        from onnx import TensorProto, numpy_helper

        if self._low != LOWERED["fp16"]:
            return []
        constants = {
            tensor.name: tensor
            for tensor in self.proto.graph.initializer
            if tensor.data_type == FLOAT and tensor.data_location != TensorProto.EXTERNAL
        }
        for node in self.proto.graph.node:
            if node.op_type == "Constant":
                constants.update((node.output[0], item.t) for item in node.attribute if item.HasField("t"))
        cast = [name for name, kind in self._casts if kind == self._low and name in constants]
        return [
            name for name in cast if np.abs(numpy_helper.to_array(constants[name])).max(initial=0) > LARGEST_FLOAT16
        ]
