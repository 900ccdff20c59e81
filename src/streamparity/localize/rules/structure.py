"""The graph itself is not what an exporter makes of the model."""

from __future__ import annotations

from collections.abc import Iterator

from ..case import Case
from ..finding import Finding

FIX = "compare this node with the same one of another layer, and with the reference's code"


def graph_differs(case: Case) -> Iterator[Finding]:
    """A suspect node that no other layer has so, or that belongs to no module: where, if not yet why."""
    for found in case.odd_nodes:
        if found.what != "epsilon":
            evidence = {"node": found.node, "module": found.module, "what": found.what}
            yield Finding("graph-differs", 0.8, f"{found.node} ({found.op}): {found.text}", FIX, evidence)
            return
