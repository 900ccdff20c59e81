"""A weight of a model under test, under the reference's name."""

from __future__ import annotations

from dataclasses import dataclass

from ..tensors import Array


@dataclass(frozen=True)
class Weight:
    """A parameter as a port has it.

    Attributes:
        parameter: NeMo's name, such as ``encoder.layers.0.norm_out.weight``.
        values: in NeMo's layout.
        node: the node or module that uses it.
        folded: the exporter may have multiplied it with the batch norm that follows.
    """

    parameter: str
    values: Array
    node: str
    folded: bool = False
