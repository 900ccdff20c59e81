"""The graph itself is not what an exporter makes of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case
from ..finding import Finding

SAME = 1e-5  # relative to the largest value
FIX = "compare this node with the same one of another layer, and with the reference's code"


def graph_differs(case: Case) -> Iterator[Finding]:
    """A suspect node that no other layer has so, or that belongs to no module: where, if not yet why."""
    for found in case.odd_nodes:
        if found.what != "epsilon":
            evidence = {"node": found.node, "module": found.module, "what": found.what}
            yield Finding("graph-differs", 0.8, f"{found.node} ({found.op}): {found.text}", FIX, evidence)
            return


def holds_another(case: Case) -> Iterator[Finding]:
    """A piece that hands on what another should: it is not computed, or read in the wrong place."""
    held = case.pieces if case.pieces is not None else case.functional
    spec = next((spec for spec in case.specs if spec.label == case.introduced), None)
    if spec is None or held is None or spec.name not in held or spec.kind not in ("tap", "output"):
        return
    actual, expected = held[spec.name], case.script.expected(case.chunk)
    for other in case.specs:
        right = expected.get(other.name)
        if other.name == spec.name or right is None or other.kind not in ("tap", "output"):
            continue
        flat = right.swapaxes(1, 2) if right.ndim == 3 and right.shape != actual.shape else right
        size = float(np.abs(flat).max(initial=0.0))
        if flat.shape == actual.shape and size and float(np.abs(actual - flat).max()) <= SAME * size:
            message = f"{spec.label} holds what {other.label} should: what lies between is left out"
            yield Finding("graph-differs", 0.9, message, FIX, {"holds": other.label, "tensor": spec.label})
            return
