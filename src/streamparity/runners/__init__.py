"""Backends that run a model chunk by chunk, and the registry that finds them."""

from .base import Runner, RunnerOptions, StepInput
from .registry import backend, backend_names
from .transducer import CtcHead, SplitTransducer, Transducer, TransducerStep

__all__ = [
    "CtcHead",
    "Runner",
    "RunnerOptions",
    "SplitTransducer",
    "StepInput",
    "Transducer",
    "TransducerStep",
    "backend",
    "backend_names",
]
