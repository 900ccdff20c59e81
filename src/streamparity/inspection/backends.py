"""Can the backend that was chosen run the graph?"""

from __future__ import annotations

import importlib
import re
from typing import Any

from ..errors import BackendMissing, StreamparityError, first_line
from ..graph.onnx_graph import OnnxGraph
from ..runners.ort_session import create_session
from .finding import Finding, InspectedBackend, Severity
from .sessions import SETTINGS

OPSET_WORDS = re.compile(r"opset|ir.?version", re.IGNORECASE)
OPERATOR_WORDS = re.compile(
    r"not a registered|could not find an implementation|not implemented|no op registered|plugin not found|no importer",
    re.IGNORECASE,
)
TENSORRT_MODULES = ("tensorrt_rtx", "tensorrt")
LISTED = 8


def load_findings(graph: OnnxGraph, backend: InspectedBackend | None) -> list[Finding]:
    """Whether ONNX Runtime loads a graph."""
    try:
        create_session(graph, graph.with_outputs([]), SETTINGS)
    except StreamparityError as error:
        return [ort_finding(graph, error, backend)]
    return []


def ort_finding(graph: OnnxGraph, error: StreamparityError, backend: InspectedBackend | None) -> Finding:
    """ONNX Runtime's objection to a graph: an error where it was the backend chosen, else a warning."""
    if isinstance(error, BackendMissing):
        return _unchecked("ort", error)
    return _refused("ort", graph, error.message, "error" if backend == "ort" else "warning")


def tensorrt_findings(graph: OnnxGraph) -> list[Finding]:
    """Parse with TensorRT's own ONNX parser, where one is installed and finds a GPU."""
    try:
        trt = _tensorrt()
        logger = _silent_logger(trt)
        builder = trt.Builder(logger)
    except Exception as error:  # no library, no driver, no GPU: each raises something of its own
        return [_unchecked("trt", error)]
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(graph.path)):
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [
        _refused("trt", graph, f"{error.node_operator()} {error.node_name()}: {error.desc()}", "error")
        for error in errors[:LISTED]
    ]


def _silent_logger(trt: Any) -> Any:
    """TensorRT's own logger prints to standard output, which may carry a document."""

    class Silent(trt.ILogger):  # type: ignore[misc]  # its base is only known when it is there
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            pass

    return Silent()


def _tensorrt() -> Any:
    for name in TENSORRT_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BackendMissing("neither tensorrt_rtx nor tensorrt can be imported", "pip install 'streamparity[rtx]'")


def _refused(backend: str, graph: OnnxGraph, why: str, severity: Severity) -> Finding:
    opset = sorted({f"{item.domain or 'ai.onnx'} {item.version}" for item in graph.proto.opset_import})
    evidence = {"backend": backend, "opsets": opset, "ir_version": int(graph.proto.ir_version), "message": why}
    if OPERATOR_WORDS.search(why):
        code, fix = "operator-unsupported", "export with another opset, or replace the operator that is named"
    elif OPSET_WORDS.search(why):
        code, fix = (
            "opset-unsupported",
            "export with a lower opset (streamparity export: 17), or update the backend",
        )
    else:
        code, fix = "backend-refuses", "export it again; run with the backend's own checker to see more"
    return Finding(code, severity, f"{backend} cannot run it: {why}", evidence, fix)


def _unchecked(backend: str, error: Exception) -> Finding:
    hint = error.hint if isinstance(error, BackendMissing) else "inspect it on a machine that has the backend"
    return Finding(
        "backend-not-checked",
        "info",
        f"whether {backend} can run it could not be checked: {first_line(error)}",
        {"backend": backend, "why": first_line(error)},
        hint,
    )
