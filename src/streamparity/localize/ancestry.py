"""What a tensor of a graph is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from ..graph.onnx_cut import FED


class Ancestry:
    """The nodes and inputs in front of a node.

    Args:
        proto: a graph, or a piece cut out of one.
    """

    def __init__(self, proto: Any) -> None:
        self._producer = {name: node for node in proto.graph.node for name in node.output}
        self._inputs = [port.name for port in proto.graph.input]

    @cached_property
    def _users(self) -> dict[str, list[Any]]:
        users: dict[str, list[Any]] = {}
        for node in {id(node): node for node in self._producer.values()}.values():
            for name in node.input:
                users.setdefault(name, []).append(node)
        return users

    def before(self, node: Any, through: Collection[str] | None = None) -> Iterator[Any]:
        """Nodes that it depends on, itself first, the nearest first; by way of some tensors only where asked."""

        def steps(current: Any) -> list[Any]:
            taken = [name for name in current.input if through is None or name in through]
            return [self._producer[name] for name in taken if name in self._producer]

        yield from self._walk(node, steps)

    def after(self, node: Any) -> Iterator[Any]:
        """Nodes that depend on it, itself first, the nearest first."""
        yield from self._walk(node, lambda n: [user for name in n.output for user in self._users.get(name, ())])

    def inputs(self, node: Any) -> set[str]:
        """Inputs of the graph that it depends on, under the names they have in the uncut graph."""
        taken = {name for other in self.before(node) for name in other.input}
        return {name.removeprefix(FED) for name in self._inputs if name in taken}

    @staticmethod
    def _walk(node: Any, steps: Any) -> Iterator[Any]:
        seen, waiting = {id(node)}, [node]
        while waiting:
            current = waiting.pop(0)
            yield current
            for other in steps(current):
                if id(other) not in seen:
                    seen.add(id(other))
                    waiting.append(other)
