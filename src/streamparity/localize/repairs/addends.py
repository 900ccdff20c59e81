"""Something that should have been added, and was not, or was added too much."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...tensors import Array
from ..trial import Trial
from .repair import Edit, Repair, described, put_behind

EXPLAINED = 1e-6  # share of the error's energy that may be left


def missing(trial: Trial, inner: Mapping[str, Array], made: Array) -> Iterator[str]:
    """Tensors of which a multiple is all that is missing at the end: what follows "is right once".

    Args:
        trial: the piece.
        inner: its tensors.
        made: what it makes, ``[N]``.
    """
    error = trial.expected - made
    size = float(np.dot(error, error))
    producer = {name: node for node in trial.proto.graph.node for name in node.output}
    for name, array in inner.items():
        tensor = trial.valid(array)
        energy = 0.0 if tensor is None else float(np.dot(tensor, tensor))
        if tensor is None or not energy or not np.isfinite(energy):
            continue
        factor = float(np.dot(tensor, error)) / energy
        left = error - factor * tensor
        if float(np.dot(left, left)) <= EXPLAINED * size:
            source = described(producer[name]) if name in producer else name.removeprefix("cut:")
            yield f"{factor:.4g} times what {source} makes is added to it"


def residuals(nodes: Sequence[Any], inner: Mapping[str, Array], fed: Collection[str]) -> Iterator[Repair]:
    """Each tensor that the piece is fed added to what each node makes, where the two have one shape."""
    for node in nodes:
        made = inner.get(node.output[0])
        for name in fed:
            if made is not None and made.shape == inner[name].shape and made.ndim > 1:
                text = f"{name.removeprefix('cut:')} is added to what {described(node)} makes"
                yield Repair("addend", node, text, _added(node.output[0], name))


def _added(made: str, name: str) -> Edit:
    def edit(proto: Any) -> None:
        put_behind(proto, made, "Add", [name])

    return edit
