"""Parts of a graph that compute in a smaller format than float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .repair import Edit, Repair, described, find

FLOAT = 1
LOW = {10: "float16", 16: "bfloat16"}


def widened(nodes: Sequence[Any]) -> Iterator[Repair]:
    """What follows each cast to a smaller format computed in float32, up to where it is cast back."""
    for node in nodes:
        kind = _target(node)
        if kind in LOW:
            text = f"what follows {described(node)} is computed in float32 in place of {LOW[kind]}"
            yield Repair("precision", node, text, _widen(node.output[0]), LOW[kind])


def _target(node: Any) -> int:
    return next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0


def _widen(made: str) -> Edit:
    def edit(proto: Any) -> None:
        users: dict[str, list[Any]] = {}
        for node in proto.graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        held = {tensor.name: tensor for tensor in proto.graph.initializer}
        producer = {name: node for node in proto.graph.node for name in node.output}
        waiting, seen = [find(proto, made)], set[int]()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if _target(node) in LOW:
                next(a for a in node.attribute if a.name == "to").i = FLOAT
            elif _target(node) == FLOAT:
                continue
            for name in node.input:
                if name in held and held[name].data_type in LOW:
                    held[name].CopyFrom(_as_float(held[name]))
                elif name in producer and producer[name].op_type == "Cast":
                    waiting.append(producer[name])
            waiting += [user for name in node.output for user in users.get(name, ())]

    return edit


def _as_float(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
