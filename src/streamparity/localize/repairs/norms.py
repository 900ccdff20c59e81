"""Normalisation that is another, or with another epsilon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...dump.anatomy import Anatomy
from ...graph.onnx_cut import FED
from ...tensors import Array
from .operators import NORMS, Build, becomes, put
from .repair import Edit, Repair, constants, described, find, hold, put_before

# What a norm that is written out ends in.
LAST = ("Add", "Mul", "Div", *NORMS)


def epsilons(anatomy: Anatomy | None) -> set[float]:
    """Those of the reference's norms."""
    return set() if anatomy is None else {norm.epsilon for norm in anatomy.norms.values()}


def epsilon(nodes: Sequence[Any], anatomy: Anatomy | None) -> Iterator[Repair]:
    """Each norm with an epsilon of the reference's."""
    for node in nodes:
        for value in epsilons(anatomy) if node.op_type in NORMS else ():
            text = f"{described(node)} has epsilon {value:g}"
            yield Repair("constant", node, text, _with_epsilon(node.output[0], value), f"epsilon {value:g}")


def norms(
    proto: Any,
    nodes: Sequence[Any],
    inner: Mapping[str, Array],
    anatomy: Anatomy | None,
    scopes: tuple[str, ...],
) -> Iterator[Repair]:
    """What a node makes replaced by the reference's layer norm of another tensor of its shape.

    Args:
        proto: the piece.
        nodes: nodes that may be changed.
        inner: the piece's tensors.
        anatomy: the reference's.
        scopes: beginnings of the module paths in which its layer norms are looked for.
    """
    from onnx import numpy_helper

    held = [numpy_helper.to_array(tensor) for tensor in constants(proto).values() if len(tensor.dims) == 1]
    known = list(_layer_norms(anatomy, scopes))
    # Gains that the piece has say which norms it has; where it has none of them, any may be missing.
    there = [each for each in known if any(np.array_equal(each[1], values) for values in held)]
    for name, gain, offset, small in there or known:
        build = _layer_norm(gain, offset, small)
        for node, source in _norm_places(nodes, inner, gain.size):
            text = f"{described(node)} is {name} (epsilon {small:g}) of {source.removeprefix(FED)}"
            edit = becomes(node.output[0], build, source)
            yield Repair("operator", node, text, edit, parameter=f"{name}.weight")
        for node in nodes:
            taken = inner.get(node.input[0]) if node.op_type in ("MatMul", "Gemm") else None
            if taken is not None and taken.shape[-1:] == gain.shape:
                text = f"{name} (epsilon {small:g}) stands before {described(node)}"
                edit = put(node.output[0], 0, build)
                yield Repair("operator", node, text, edit, parameter=f"{name}.weight")


def _layer_norms(anatomy: Anatomy | None, scopes: tuple[str, ...]) -> Iterator[tuple[str, Array, Array, float]]:
    """Name, gain, offset and epsilon of the layer norms that the dump knows all of."""
    for name, norm in {} if anatomy is None else anatomy.norms.items():
        parts = [None if anatomy is None else anatomy.parameters.get(f"{name}.{part}") for part in ("weight", "bias")]
        gain, offset = (None if part is None else part.whole() for part in parts)
        if norm.kind == "LayerNorm" and name.startswith(scopes) and gain is not None and offset is not None:
            yield name, gain, offset, norm.epsilon


def _norm_places(nodes: Sequence[Any], inner: Mapping[str, Array], width: int) -> Iterator[tuple[Any, str]]:
    """Nodes, and tensors of the shape of what they make: what of these comes later cannot run."""
    for node in nodes:
        made = inner.get(node.output[0])
        if node.op_type in LAST and made is not None and made.shape[-1:] == (width,):
            others = (name for name in sorted(inner) if name != node.output[0])
            yield from ((node, name) for name in others if inner[name].shape == made.shape)


def _layer_norm(gain: Array, offset: Array, epsilon: float) -> Build:
    def build(proto: Any, node: Any, source: str) -> str:
        import onnx

        made = f"{node.output[0]}:norm"
        parts = [hold(proto, f"{made}:{i}", np.asarray(part, np.float32)) for i, part in enumerate((gain, offset))]
        put_before(proto, node, "LayerNormalization", [source, *parts], made)
        find(proto, made).attribute.append(onnx.helper.make_attribute("epsilon", epsilon))
        return made

    return build


def _with_epsilon(made: str, value: float) -> Edit:
    def edit(proto: Any) -> None:
        import onnx

        node = find(proto, made)
        kept = [attribute for attribute in node.attribute if attribute.name != "epsilon"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", value)])

    return edit
