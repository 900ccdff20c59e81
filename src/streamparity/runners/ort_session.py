"""Opening ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BackendMissing, StreamparityError, first_line
from ..graph.onnx_graph import OnnxGraph

OPTIMISATION = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def _import_ort() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(f"onnxruntime cannot be imported: {error}", "pip install 'streamparity[onnx]'") from None
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def create_session(graph: OnnxGraph, data: bytes, settings: Mapping[str, str]) -> Any:
    """A session over ``data``, an edited copy of a graph; external weights are found beside the file.

    Raises:
        BackendMissing: the provider asked for is not there.
        StreamparityError: ONNX Runtime refuses the graph, or a setting has a bad value.
    """
    ort = _import_ort()
    provider = settings.get("provider", "CPUExecutionProvider")
    if provider not in ort.get_available_providers():
        raise BackendMissing(
            f"onnxruntime has no provider {provider}", f"available: {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = thread_count(settings)
    level = settings.get("optimization", "all")
    if level not in OPTIMISATION:
        raise StreamparityError(f"optimization={level} is unknown", f"use one of {', '.join(OPTIMISATION)}")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMISATION[level])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.path.parent))
    try:
        # Without its fallback: it prints to standard output, and another provider than the one asked for computes.
        return ort.InferenceSession(data, options, providers=[provider], enable_fallback=False)
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise StreamparityError(
            f"ONNX Runtime refuses {graph.path}: {first_line(error)}", "check the file with `streamparity inspect`"
        ) from None


def thread_count(settings: Mapping[str, str]) -> int:
    """The ``threads`` setting; 0 lets ONNX Runtime choose."""
    value = settings.get("threads", "1")
    if not value.isdigit():
        raise StreamparityError(f"threads={value} is not a number", "give a whole number, 0 for all cores")
    return int(value)
