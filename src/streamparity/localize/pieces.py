"""Which nodes of a graph each tap depends on once the graph is cut at every tap, and which of them are suspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Pieces:
    """The nodes between taps.

    Args:
        proto: the graph.
        tensors: graph tensor by label: the taps it is cut at, and the outputs.
        cut: labels of the taps.
    """

    def __init__(self, proto: Any, tensors: Mapping[str, str], cut: Sequence[str]) -> None:
        self._producer = {name: node for node in proto.graph.node for name in node.output}
        self._order = {id(node): position for position, node in enumerate(proto.graph.node)}
        self._tensors = tensors
        self._edges = {tensors[label] for label in cut}

    def nodes(self, label: str) -> list[Any]:
        """Nodes that compute ``label`` from the taps in front of it and the inputs, in the graph's order."""
        found: dict[int, Any] = {}
        waiting = [self._tensors[label]]
        while waiting:
            node = self._producer.get(waiting.pop())
            if node is None or id(node) in found:
                continue
            found[id(node)] = node
            waiting += [name for name in node.input if name not in self._edges]
        return sorted(found.values(), key=lambda node: self._order[id(node)])

    def suspects(self, first: str, failing: Sequence[str], passing: Sequence[str]) -> tuple[list[Any], list[str]]:
        """Nodes that can have caused ``first`` to fail, and the failing labels that they explain as well.

        A node that a passing label depends on is cleared. What fails together for one cause shares its nodes.
        """
        cleared = {id(node) for label in passing for node in self.nodes(label)}
        nodes = [node for node in self.nodes(first) if id(node) not in cleared]
        together = [first]
        for label in failing:
            if label == first:
                continue
            others = {id(node) for node in self.nodes(label)}
            shared = [node for node in nodes if id(node) in others and node.op_type != "Constant"]
            if shared:
                nodes, together = shared, [*together, label]
        return nodes or self.nodes(first), together
