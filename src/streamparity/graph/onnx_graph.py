"""An exported graph: its ports, and which of its tensors a NeMo module path means.

The exporter keeps module paths in node names: ``/layers.0/feed_forward1/linear1/MatMul`` was traced inside
``layers.0.feed_forward1.linear1``, and ``/pre_encode/conv/conv.2/Conv`` inside the ``Sequential`` member
``pre_encode.conv.2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..dtypes import coarsest
from ..errors import BackendMissing, StreamparityError, first_line
from ..tensors import ENCODER_INPUTS, ENCODER_OUTPUTS, SECOND_OUTPUT, Array
from .onnx_cut import cut

STATELESS_HINT = (
    "export it with cache support: model.set_export_config({'cache_support': 'True'}) before model.export, "
    "or streamparity export"
)
# Nodes in a row that converters put between those of one module under names of their own (casts, scalings).
STRANGERS = 4
# Operators that hand numbers on as they are.
MOVES = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"}
MOVES |= {"Tile", "Transpose", "Unsqueeze"}
# Put between modules by those who quantise a graph, under names of one of them.
INTEGER_PRODUCTS = {"MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"}
QUANTISERS = {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"}
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
ELEMENT_TYPES = {**FLOATS, 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}


LARGEST_FILE = 1 << 31  # bytes: protobuf's own limit


@dataclass(frozen=True)
class GraphPort:
    """A named input or output of a graph; a symbolic extent is a name, an unknown one ``None``."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def extents(self) -> tuple[int | None, ...]:
        """The shape with ``None`` for whatever is not fixed."""
        return tuple(extent if isinstance(extent, int) else None for extent in self.shape)


class OnnxGraph:
    """An ONNX file without its external weights.

    Args:
        path: the ``.onnx`` file.
        need_weights: refuse a graph whose external weights are not all there.

    Raises:
        BackendMissing: onnx is not installed.
        StreamparityError: missing, truncated or not ONNX.
    """

    def __init__(self, path: Path, *, need_weights: bool = True) -> None:
        try:
            import onnx
        except ImportError as error:
            raise BackendMissing(f"onnx cannot be imported: {error}", "pip install 'streamparity[onnx]'") from None
        if not path.is_file():
            raise StreamparityError(f"{path} does not exist", "give an .onnx file, or export one: streamparity export")
        if path.suffix == ".nemo":
            raise StreamparityError(f"{path} is a .nemo, not an ONNX graph", "export it, or use --backend torch")
        if path.stat().st_size >= LARGEST_FILE:
            raise _damaged(path, "it is larger than the 2 GB that protobuf can hold")
        self.path = path
        try:
            self.proto = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's own exception types vary by implementation
            raise _damaged(path, first_line(error)) from None
        if not self.proto.graph.output:
            raise _damaged(path, "the graph has no outputs")
        if not all(isinstance(name, str) for name in _texts(self.proto.graph)):
            raise _damaged(path, "a name in it is not text")
        if need_weights:
            self._check_weights()

    def _check_weights(self) -> None:
        """Refuse a graph whose external weights are missing, cut short or elsewhere."""
        escaping, lacking = external_problems(self.proto, self.path.parent)
        if escaping:
            raise StreamparityError(
                f"{self.path} takes weights from outside its folder: {next(iter(escaping.values()))}",
                "do not run it; get the model from where it was published",
            )
        if lacking:
            raise StreamparityError(
                f"{self.path}: its weights file {next(iter(lacking.values()))} is missing or truncated",
                "copy it from where the graph was exported: the two belong together",
            )

    @property
    def inputs(self) -> list[GraphPort]:
        """Inputs, without the weights that old exporters list among them."""
        weights = {tensor.name for tensor in self.proto.graph.initializer}
        return [_port(value) for value in self.proto.graph.input if value.name not in weights]

    @property
    def outputs(self) -> list[GraphPort]:
        """Outputs."""
        return [_port(value) for value in self.proto.graph.output]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((int(item.version) for item in self.proto.opset_import if item.domain in ("", "ai.onnx")), 0)

    @property
    def arithmetic(self) -> str | None:
        """Coarsest type that it computes in, by its ports, its weights and its quantisers; ``None`` without floats."""
        found = {FLOATS.get(weight.data_type) for weight in self.proto.graph.initializer}
        found |= {port.dtype for port in [*self.inputs, *self.outputs] if port.dtype in FLOATS.values()}
        quantised = any(node.op_type in QUANTISERS | INTEGER_PRODUCTS for node in self.proto.graph.node)
        return "int8" if quantised else coarsest(found)

    def tap_tensors(self, taps: Iterable[str], root: str) -> tuple[dict[str, str], dict[str, str]]:
        """Find the graph's own tensor for each tap.

        Of the floating-point tensors computed in a module's scope that a node outside the scope uses, or that are
        outputs of the graph, its output is the one that depends on most of the scope: what else leaves it (a cache on
        its way to the next step) is made of less. The order of nodes says nothing: optimisers change it. The positional
        encoding is what is made of constants alone.

        Args:
            taps: tap labels.
            root: what to strip from a label to get a path in this graph, such as ``encoder.``.

        Returns:
            ``{tap: tensor name}``, and ``{tap: reason}`` for those without counterpart.
        """
        nodes = list(self.proto.graph.node)
        scopes = ["" if node.op_type in QUANTISERS else module_path(node.name) for node in nodes]
        users: dict[str, list[str]] = {}
        for node, scope in zip(nodes, scopes, strict=True):
            for name in node.input:
                users.setdefault(name, []).append(scope)
        outputs, types = {port.name for port in self.outputs}, self.types()
        producers = {name: node for node in nodes for name in node.output}
        found, reasons = {}, {}
        taps = list(taps)
        for tap in taps:
            path = tap.removeprefix(root)
            inside = [node for node, scope in zip(nodes, scopes, strict=True) if _within(scope, path)]
            computed = [
                (name, node)
                for node in inside
                if not node.op_type.startswith("Constant")
                for name in node.output
                if types.get(name, 1) in FLOATS
            ]
            used = [(n, node) for n, node in computed if any(not _within(user, path) for user in users.get(n, []))]
            leaving = used or [(name, node) for name, node in computed if name in outputs]
            if tap in SECOND_OUTPUT:
                leaving = [each for each in leaving if not _fed(each[1], inside, producers, types)] or leaving
            unnamed = _last_part_without_a_name(path, [t.removeprefix(root) for t in taps], scopes)
            if inside and unnamed is not None:
                reasons[tap] = f"no node of the graph is named after {unnamed}, the last part of {path}"
            elif not inside:
                reasons[tap] = f"no node of the graph is named after {path} (renamed or fused by an optimiser?)"
            elif not leaving:
                reasons[tap] = f"no floating-point tensor leaves {path} in the graph (fused into its neighbours?)"
            elif _folded((chosen := _furthest(leaving, inside, producers, types))[1]):
                reasons[tap] = f"the exporter folded {path} with the batch norm that follows it"
            else:
                found[tap] = chosen[0]
        return found, reasons

    def types(self) -> dict[str, int]:
        """ONNX element type of every tensor that shape inference can tell."""
        from onnx import shape_inference

        inferred = shape_inference.infer_shapes(self.proto)
        values = [*inferred.graph.value_info, *inferred.graph.output]
        return {value.name: value.type.tensor_type.elem_type for value in values}

    def vectors(self) -> list[Array]:
        """Weights ``[N]`` that the file itself holds and a node takes."""
        from onnx import numpy_helper

        used = {name for node in self.proto.graph.node for name in node.input}
        held = (tensor for tensor in self.proto.graph.initializer if tensor.name in used and not tensor.external_data)
        tensors = [tensor for tensor in held if len(tensor.dims) == 1]
        return [np.asarray(numpy_helper.to_array(tensor)) for tensor in tensors]

    def filled(self, part: Any) -> Any:
        """A part of the graph with its external weights, those of the rest being left where they are."""
        from onnx.external_data_helper import load_external_data_for_model

        load_external_data_for_model(part, str(self.path.parent))
        return part

    def with_outputs(self, names: Sequence[str]) -> bytes:
        """The graph, serialised, with inner tensors marked as outputs."""
        return with_outputs(self.proto, names)

    def cut_at(self, names: Sequence[str], outputs: Sequence[str]) -> bytes:
        """The graph, serialised, cut at inner tensors (:func:`streamparity.graph.onnx_cut.cut`)."""
        data: bytes = cut(self.proto, names, outputs, self.types()).SerializeToString()
        return data


def _last_part_without_a_name(path: str, taps: Sequence[str], scopes: Sequence[str]) -> str | None:
    """The last part of a module, where no node is named after it: then where the module ends cannot be told."""
    parts = [tap for tap in taps if tap.startswith(f"{path}.")]
    last = parts[-1] if parts else None
    return last if last is not None and not any(_within(scope, last) for scope in scopes) else None


def with_outputs(proto: Any, names: Sequence[str]) -> bytes:
    """A graph, serialised, with inner tensors marked as outputs."""
    import onnx

    marked = onnx.ModelProto()
    marked.CopyFrom(proto)
    present = {value.name for value in marked.graph.output}
    marked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present)
    data: bytes = marked.SerializeToString()
    return data


def external_problems(proto: Any, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Weights of a graph that cannot be read from the files beside it.

    Returns:
        ``{tensor: location}`` of those that lead out of the folder, and of those whose file is missing or too short.
    """
    escaping, lacking = {}, {}
    sizes: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location")
        if location is None:
            continue
        pure = PurePosixPath(location)
        if pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
            escaping[tensor.name] = location
            continue
        if location not in sizes:
            sizes[location] = (folder / location).stat().st_size if (folder / location).is_file() else -1
        offset, length = entries.get("offset", "0"), entries.get("length", "0")
        sound = offset.isdecimal() and length.isdecimal()
        if not sound or sizes[location] < int(offset) + int(length):
            lacking[tensor.name] = location
    return escaping, lacking


def module_path(node_name: str) -> str:
    """``/layers.0/conv/depthwise_conv/Conv`` to ``layers.0.conv.depthwise_conv``."""
    parts: list[str] = []
    for segment in node_name.strip("/").split("/")[:-1]:
        if parts and segment.startswith(parts[-1] + "."):
            parts[-1] = segment  # a member of a Sequential repeats its parent's name
        else:
            parts.append(segment)
    return ".".join(parts)


def _within(scope: str, path: str) -> bool:
    return scope == path or scope.startswith(path + ".")


def _furthest(
    leaving: Sequence[tuple[str, Any]],
    inside: Sequence[Any],
    producers: Mapping[str, Any],
    types: Mapping[str, int],
) -> tuple[str, Any]:
    """Of several tensors with their nodes, the one that depends on most nodes that compute; then the last.

    Nodes that work out shapes or move numbers do not compute: a cache can take more slices than a convolution nodes.
    """
    if len(leaving) == 1:
        return leaving[0]
    own = {id(node): node.op_type not in MOVES for node in inside}

    def reach(node: Any) -> tuple[int, int]:
        seen, waiting = {id(node): 0}, [node]
        while waiting:
            user = waiting.pop()
            for name in user.input:
                other = producers.get(name)
                if other is None or id(other) in seen or types.get(name, 1) not in FLOATS:
                    continue
                outside = 0 if id(other) in own else seen[id(user)] + 1
                if outside <= STRANGERS:
                    seen[id(other)] = outside
                    waiting.append(other)
        mine = [own[key] for key in seen if key in own]
        return sum(mine), len(mine)

    reached = [reach(node) for _, node in leaving]
    return leaving[max(range(len(leaving)), key=lambda place: (reached[place], place))]


def _fed(node: Any, inside: Sequence[Any], producers: Mapping[str, Any], types: Mapping[str, int]) -> bool:
    """Whether a node depends on numbers that a node outside a module computes; shapes do not count."""
    own, seen, waiting = {id(other) for other in inside}, {id(node)}, [node]
    while waiting:
        for name in waiting.pop().input:
            other = producers.get(name)
            if other is None or id(other) in seen or types.get(name, 1) not in FLOATS:
                continue
            if id(other) not in own and not other.op_type.startswith("Constant"):
                return True
            seen.add(id(other))
            waiting.append(other)
    return False


def _folded(node: Any) -> bool:
    """Whether a convolution's weights are no longer the module's own: torch's exporter then renames them."""
    return bool(node.op_type == "Conv" and node.input[1].startswith("onnx::"))


def _port(value: Any) -> GraphPort:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)
    return GraphPort(value.name, ELEMENT_TYPES.get(tensor.elem_type, str(tensor.elem_type)), shape)


def _texts(graph: Any) -> Iterator[Any]:
    """Every name in a graph: protobuf hands out as bytes what is not UTF-8."""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for body in [attribute.g, *attribute.graphs]:
                yield from _texts(body)


def _damaged(path: Path, why: str) -> StreamparityError:
    return StreamparityError(f"{path} is truncated or not an ONNX file: {why}", "export or copy it again")


def missing_ports(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[str]:
    """Canonical encoder ports that a graph lacks, given its canonical names; without them it cannot stream."""
    return [name for name in ENCODER_INPUTS if name not in inputs] + [
        name for name in ENCODER_OUTPUTS if name not in outputs
    ]
