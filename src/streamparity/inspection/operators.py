"""Operators that an inference graph should not have, and a graph that is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import first_line
from ..graph.onnx_graph import OnnxGraph
from ..graph.onnx_weights import Constants
from ..tensors import ENCODER_INPUTS
from .finding import Finding
from .flow import Flow

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
LISTED = 8
DROPOUT_WITH_INPUT = 12  # opset from which Dropout says by an input whether it trains


def damage_findings(graph: OnnxGraph) -> list[Finding]:
    """Tensors that nothing gives, and what onnx's checker objects to; a port that is missing has its own finding."""
    absent = Flow(graph.proto).undefined()
    undefined = [name for name in absent if name not in ENCODER_INPUTS]
    problem = f"nothing gives {', '.join(undefined[:LISTED])}" if undefined else None
    problem = problem if absent else _objection(graph)
    if problem is None:
        return []
    if "topologically sorted" in problem:
        return [
            Finding(
                "nodes-unsorted",
                "warning",
                "a node comes before one that it depends on: ONNX Runtime sorts them, other readers fail",
                {"onnx": problem},
                "sort the nodes (onnx_graphsurgeon's toposort), or report it to the converter's makers",
            )
        ]
    return [
        Finding(
            "damaged-graph",
            "error",
            f"the file is damaged, or was edited badly: {problem}",
            {"undefined": undefined[:LISTED], "onnx": problem},
            "export or copy it again",
        )
    ]


def _objection(graph: OnnxGraph) -> str | None:
    import onnx

    try:
        onnx.checker.check_model(str(graph.path) if _external(graph) else graph.proto)
    except Exception as error:  # onnx's own exception types vary by version
        return first_line(error)
    return None


def training_findings(graph: OnnxGraph) -> Iterator[Finding]:
    """Batch norm and dropout as in training, and random numbers."""
    constants = Constants(graph.proto, graph.path.parent)
    training, random = [], []
    for node in graph.proto.graph.node:
        if _normalises_as_in_training(node) or _drops(node, graph.opset, constants):
            training.append(node)
        elif node.op_type in RANDOM:
            random.append(node)
    if training:
        kinds = sorted({node.op_type for node in training})
        yield Finding(
            "training-mode",
            "error",
            f"exported in training mode: {' and '.join(kinds)} of {len(training)} nodes still train",
            {"nodes": _names(training), "count": len(training)},
            "call model.eval() before model.export() (and export with training=TrainingMode.EVAL)",
        )
    if random:
        yield Finding(
            "random-numbers",
            "error",
            f"{len(random)} nodes make random numbers: no two runs agree",
            {"nodes": _names(random), "count": len(random)},
            "call model.eval() before model.export(), and set preprocessor dither to 0",
        )


def log_softmax_findings(graph: OnnxGraph, durations: int) -> list[Finding]:
    """A log-softmax in ``decoder_joint``, over one head or across TDT's two."""
    found = [node for node in graph.proto.graph.node if node.op_type == "LogSoftmax"]
    if not found:
        return []
    evidence = {"nodes": _names(found), "durations": durations}
    if durations and len(found) == 1:
        return [
            Finding(
                "log-softmax-across-heads",
                "warning",
                "one LogSoftmax runs over token and duration scores together: the best of each head stays, confidences "
                "and beam scores are wrong",
                evidence,
                "set model.joint.log_softmax = False before export and normalise each head by itself",
            )
        ]
    return [
        Finding(
            "log-softmax-in-joint",
            "info",
            "the joint returns log-probabilities; with `log_softmax: null` NeMo returns plain logits on a GPU",
            evidence,
            "compare logits with logits: set model.joint.log_softmax explicitly before export and dump",
        )
    ]


def _normalises_as_in_training(node: Any) -> bool:
    """A batch norm that updates its statistics: by attribute, or before opset 14 by having more than one output."""
    if node.op_type != "BatchNormalization":
        return False
    flagged = any(item.name == "training_mode" and item.i for item in node.attribute)
    return flagged or len([name for name in node.output if name]) > 1


def _drops(node: Any, opset: int, constants: Constants) -> bool:
    if node.op_type != "Dropout" or opset < DROPOUT_WITH_INPUT:
        return False  # before that opset an identity in inference, whatever its ratio
    if len(node.input) < 3 or not node.input[2]:
        return False
    value = constants.value(node.input[2])
    return value is None or bool(value.any())


def _external(graph: OnnxGraph) -> bool:
    return any(tensor.external_data for tensor in graph.proto.graph.initializer)


def _names(nodes: list[Any]) -> list[str]:
    return [node.name or node.output[0] for node in nodes[:LISTED]]
