"""A part of a model under test that runs by itself in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..tensors import Array


@dataclass(frozen=True)
class Piece:
    """A graph of one output, and what it is fed.

    Attributes:
        graph: an ``onnx.ModelProto`` with all of its weights inside.
        inputs: arrays by the graph's input names.
    """

    graph: Any
    inputs: Mapping[str, Array]


class NoPiece(Exception):
    """Why a part of a model cannot be had by itself."""
