"""Other operators: an activation for another, one too few, a norm that is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from .repair import Edit, Repair, described, find, put_before

# Activations that take one another's place in ports.
UNARY = ("Relu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSwish", "Gelu", "Erf", "LeakyRelu", "HardSigmoid")
ELEMENTWISE = {"Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Add", "Div"), "Div": ("Mul",), "Max": ("Min",)}
LINEAR = ("MatMul", "Gemm", "Conv")
NORMS = ("LayerNormalization", "BatchNormalization")
FAR = 16  # operators between two that are linear


def operators(proto: Any, nodes: Sequence[Any], floats: Collection[str]) -> Iterator[Repair]:
    """Each activation or elementwise operator another; what lies between linear operators one activation."""
    for node in nodes:
        if node.output[0] not in floats:
            continue
        tried = ACTIVATIONS if node.op_type in UNARY else {op: _plain(op) for op in ELEMENTWISE.get(node.op_type, ())}
        for op, build in tried.items():
            if op != node.op_type:
                edit = _renamed(node.output[0], op) if node.op_type in ELEMENTWISE else becomes(node.output[0], build)
                yield Repair("operator", node, f"{described(node)} is {op}", edit, f"{node.op_type} {op}")
    for source, last, user in _between(proto, nodes, floats):
        for op, build in ACTIVATIONS.items():
            text = f"what lies between {described(source)} and {described(user)} is {op}"
            edit = becomes(last.output[0], build, source.output[0])
            yield Repair("operator", last, text, edit, f"between {op}")
    for user in nodes:
        for position, name in enumerate(user.input[:1]):
            if user.op_type in LINEAR and name in floats:
                for op, build in ACTIVATIONS.items():
                    text = f"{op} stands before {described(user)}"
                    yield Repair("operator", user, text, put(user.output[0], position, build), f"before {op}")


def _between(proto: Any, nodes: Sequence[Any], floats: Collection[str]) -> Iterator[tuple[Any, Any, Any]]:
    """An operator up to the linear one, bias or norm before; the last before the next linear operator; and that."""
    producer = {name: node for node in proto.graph.node for name in node.output}
    for user in nodes:
        last = producer.get(user.input[0]) if user.op_type in LINEAR else None
        if last is None:
            continue
        seen, waiting = {last.output[0]}, [last]
        while waiting and len(seen) < FAR:
            for name in waiting.pop().input:
                other = producer.get(name)
                if other is None or other.output[0] in seen or name not in floats:
                    continue
                seen.add(other.output[0])
                yield other, last, user
                if other.op_type not in (*LINEAR, *NORMS) and not _adds_bias(producer, other):
                    waiting.append(other)


def _adds_bias(producer: Mapping[str, Any], node: Any) -> bool:
    made = [producer[name].op_type for name in node.input if name in producer]
    return node.op_type == "Add" and any(op in LINEAR for op in made)


# Puts nodes in front of one, which compute from a tensor; says what they make.
Build = Callable[[Any, Any, str], str]


def _plain(op: str) -> Build:
    def build(proto: Any, node: Any, source: str) -> str:
        return put_before(proto, node, op, [source], f"{node.output[0]}:{op}")

    return build


def _silu(proto: Any, node: Any, source: str) -> str:
    gate = put_before(proto, node, "Sigmoid", [source], f"{node.output[0]}:gate")
    return put_before(proto, node, "Mul", [source, gate], f"{node.output[0]}:silu")


ACTIVATIONS: dict[str, Build] = {
    "Relu": _plain("Relu"),
    "SiLU": _silu,
    "Sigmoid": _plain("Sigmoid"),
    "Tanh": _plain("Tanh"),
}


def _renamed(made: str, op: str) -> Edit:
    """A node computes something else from the same operands."""

    def edit(proto: Any) -> None:
        node = find(proto, made)
        node.op_type, node.domain = op, ""
        del node.attribute[:]

    return edit


def becomes(made: str, build: Build, source: str | None = None) -> Edit:
    """An edit: a node computes something else, from its own first input or another tensor.

    Args:
        made: the first output of the node.
        build: puts what computes it in front of the node.
        source: what it is computed from; the node's first input by default.
    """

    def edit(proto: Any) -> None:
        node = find(proto, made)
        result = build(proto, node, source or node.input[0])
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:], node.input[:]
        node.input.append(result)

    return edit


def put(made: str, position: int, build: Build) -> Edit:
    """An edit: something is computed from one input of a node before the node takes it; as :func:`becomes`."""

    def edit(proto: Any) -> None:
        node = find(proto, made)
        node.input[position] = build(proto, node, node.input[position])

    return edit
