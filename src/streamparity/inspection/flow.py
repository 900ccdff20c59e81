"""What flows where in a graph: which outputs depend on an input's values, by the edges alone."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

# Operators whose output says how large their input is, not what it holds.
SHAPES = {"Shape", "Size"}


def reads(node: Any) -> Iterable[str]:
    """Names that a node reads, those that the bodies of its branches and loops take from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs]:
            for inner in body.node:
                yield from reads(inner)


class Flow:
    """The edges of a graph.

    Args:
        proto: the ``onnx.ModelProto``.
    """

    def __init__(self, proto: Any) -> None:
        self._graph = proto.graph

    @cached_property
    def users(self) -> dict[str, list[Any]]:
        """Nodes by the tensors they read."""
        found: dict[str, list[Any]] = {}
        for node in self._graph.node:
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def producers(self) -> dict[str, Any]:
        """Node by each tensor that it computes."""
        return {name: node for node in self._graph.node for name in node.output if name}

    def reached(self, name: str) -> set[str]:
        """Tensors whose values can depend on a tensor's values."""
        seen, waiting = {name}, [name]
        while waiting:
            for node in self.users.get(waiting.pop(), []):
                if node.op_type in SHAPES:
                    continue
                for output in node.output:
                    if output and output not in seen:
                        seen.add(output)
                        waiting.append(output)
        return seen

    def undefined(self) -> list[str]:
        """Tensors that nodes or outputs read and nothing gives."""
        graph = self._graph
        given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        given |= {tensor.values.name for tensor in graph.sparse_initializer} | set(self.producers)
        read = [name for node in graph.node for name in node.input if name] + [value.name for value in graph.output]
        return [name for name in dict.fromkeys(read) if name not in given]
