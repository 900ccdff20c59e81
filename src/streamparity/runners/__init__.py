"""Backends that run a model chunk by chunk, and the registry that finds them."""

from .base import Runner, RunnerOptions, StepInput
from .piece import NoPiece, Piece
from .registry import backend, backend_names
from .transducer import Transducer, TransducerCall, TransducerStep

__all__ = [
    "NoPiece",
    "Piece",
    "Runner",
    "RunnerOptions",
    "StepInput",
    "Transducer",
    "TransducerCall",
    "TransducerStep",
    "backend",
    "backend_names",
]
