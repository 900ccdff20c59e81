"""Where the error is: the smallest piece that makes one by itself, or where one that came in shows first."""

from __future__ import annotations

import math
from typing import Any

from .case import Case
from .place import place

MOST_NODES = 12


def localization(case: Case) -> dict[str, Any] | None:
    """The result's ``localization``; ``None`` where nothing diverged."""
    divergence = case.divergence
    if divergence is None:
        return None
    label = case.introduced
    if label is None:
        runs = case.functional is not None
        explained = case.explanations[0] if case.explanations else None
        return {
            "chunk": case.chunk,
            "module": divergence["tensor"],
            "kind": "inherited" if runs else "introduced",
            "isolated_max_abs": _figure(case, str(divergence["tensor"])),
            "accumulated_max_abs": divergence["max_abs"],
            "inherited_from": None if explained is None else explained.port,
            "tensor": divergence["tensor"],
            "node": None,
            "nodes": [],
        }
    found = place(case)
    return {
        "chunk": case.chunk,
        "module": None if found is None else found.module,
        "kind": "introduced",
        "isolated_max_abs": _figure(case, label),
        "accumulated_max_abs": _accumulated(case, label),
        "inherited_from": None,
        "tensor": label,
        "node": None if found is None else found.node,
        "nodes": [node.name for node in case.suspects if node.op_type != "Constant"][:MOST_NODES],
    }


def _figure(case: Case, label: str) -> float | None:
    error = case.error(label)
    return None if error is None or not math.isfinite(error.max_abs) else error.max_abs


def _accumulated(case: Case, label: str) -> float | None:
    """The same tensor's error in the same chunk of the run itself."""
    tensor = next((t for t in case.comparison["tensors"] if t["name"] == label), None)
    if tensor is None or case.chunk >= len(tensor["per_chunk_max_abs"]):
        return None
    found: float | None = tensor["per_chunk_max_abs"][case.chunk]
    return found
