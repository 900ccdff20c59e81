"""Cutting an exported graph at its taps, so that every piece can be given an input of one's choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FED = "cut:"


def cut(proto: Any, tensors: Sequence[str], outputs: Sequence[str], types: Mapping[str, int]) -> Any:
    """A copy of a graph in which what uses one of ``tensors`` takes it from a new input, ``cut:NAME``, instead.

    Every tensor named is still computed: each is then a function of the inputs and the ``cut:`` inputs alone, of
    nothing that another piece computed.

    Args:
        proto: the graph (``onnx.ModelProto``).
        tensors: inner tensors to cut at.
        outputs: inner tensors to return beside the graph's own outputs.
        types: ONNX element type by tensor name; float32 where it is not known.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    names = set(tensors)
    for node in copy.graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = FED + name
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        copy.graph.input.append(onnx.helper.make_tensor_value_info(FED + name, types.get(name, 1), None))
    for name in dict.fromkeys(outputs):
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def piece(proto: Any, outputs: Sequence[str]) -> Any:
    """The part of a graph that computes ``outputs``, by onnx's own extractor, with no input that it does not use."""
    import onnx
    from onnx.utils import Extractor

    used = {name for node in proto.graph.node for name in node.input}
    candidates = [value.name for value in proto.graph.input if value.name in used]
    types = {value.name: value for value in [*proto.graph.value_info, *proto.graph.output, *proto.graph.input]}
    typed = onnx.ModelProto()
    typed.CopyFrom(proto)
    del typed.graph.value_info[:]
    known = {value.name for value in [*typed.graph.output, *typed.graph.input]}
    for name in outputs:
        if name not in known or not types[name].type.tensor_type.elem_type:
            for value in [value for value in typed.graph.output if value.name == name]:
                typed.graph.output.remove(value)
            typed.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    extracted = Extractor(typed).extract_model(candidates, list(outputs))
    needed = {name for node in extracted.graph.node for name in node.input}
    for value in [value for value in extracted.graph.input if value.name not in needed]:
        extracted.graph.input.remove(value)
    return extracted


def with_log_softmax(proto: Any, scores: str) -> tuple[Any, str]:
    """A copy of the graph with log-probabilities of ``scores`` as one more tensor, and that tensor's name."""
    import onnx

    name, copy = "log_probabilities", onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.node.append(onnx.helper.make_node("LogSoftmax", [scores], [name], name=f"/{name}", axis=-1))
    return copy, name
