"""Normalisation that is another, or with another epsilon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...dump.anatomy import Anatomy
from ...runners.onnx_cut import FED
from ...tensors import Array
from .operators import NORMS, Build
from .repair import Edit, Repair, described, find, hold, put_before


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
    nodes: Sequence[Any], inner: Mapping[str, Array], anatomy: Anatomy | None, scopes: tuple[str, ...]
) -> Iterator[Repair]:
    """What a linear operator takes replaced by the reference's layer norm of each tensor of its shape.

    Args:
        nodes: nodes that may be changed.
        inner: the piece's tensors.
        anatomy: the reference's.
        scopes: beginnings of the module paths in which its layer norms are looked for.
    """
    for name, gain, offset, small in _layer_norms(anatomy, scopes):
        build = _layer_norm(gain, offset, small)
        for user, source in _norm_places(nodes, inner, gain.size):
            text = f"{described(user)} takes {name} (epsilon {small:g}) of {source.removeprefix(FED)}"
            edit = _takes(user.output[0], build, source)
            yield Repair("operator", user, text, edit, parameter=f"{name}.weight")


def _layer_norms(anatomy: Anatomy | None, scopes: tuple[str, ...]) -> Iterator[tuple[str, Array, Array, float]]:
    """Name, gain, offset and epsilon of the layer norms that the dump knows all of."""
    for name, norm in {} if anatomy is None else anatomy.norms.items():
        parts = [None if anatomy is None else anatomy.parameters.get(f"{name}.{part}") for part in ("weight", "bias")]
        gain, offset = (None if part is None else part.whole() for part in parts)
        if norm.kind == "LayerNorm" and name.startswith(scopes) and gain is not None and offset is not None:
            yield name, gain, offset, norm.epsilon


def _norm_places(nodes: Sequence[Any], inner: Mapping[str, Array], width: int) -> Iterator[tuple[Any, str]]:
    """Linear operators, and tensors of the shape that they take: what of them comes later cannot run."""
    for user in nodes:
        taken = inner.get(user.input[0]) if user.input else None
        if user.op_type in ("MatMul", "Gemm") and taken is not None and taken.shape[-1:] == (width,):
            yield from ((user, source) for source in sorted(inner) if inner[source].shape == taken.shape)


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


def _takes(made: str, build: Build, source: str) -> Edit:
    def edit(proto: Any) -> None:
        node = find(proto, made)
        node.input[0] = build(proto, node, source)

    return edit
