"""External weights: there, whole, and inside the graph's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..graph.onnx_graph import OnnxGraph, external_problems
from .finding import Finding

LISTED = 8


def weight_findings(graph: OnnxGraph) -> list[Finding]:
    """What is wrong with the files that hold the graph's weights."""
    escaping, lacking = external_problems(graph.proto, graph.path.parent)
    findings = []
    if escaping:
        findings.append(
            Finding(
                "external-data-escapes",
                "error",
                "the graph takes weights from outside its folder, which no export does: nothing was opened",
                _evidence(escaping),
                "do not run it; get the model from where it was published",
            )
        )
    if lacking:
        findings.append(
            Finding(
                "external-data-missing",
                "error",
                f"its weights file {Path(next(iter(lacking.values()))).name} is missing or truncated",
                _evidence(lacking),
                "copy it from where the graph was exported: the two belong together",
            )
        )
    return findings


def _evidence(tensors: dict[str, str]) -> dict[str, Any]:
    return {"files": sorted(set(tensors.values()))[:LISTED], "tensors": list(tensors)[:LISTED], "count": len(tensors)}
