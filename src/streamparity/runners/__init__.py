"""Backends that run a model chunk by chunk, and the registry that finds them."""

from .base import Runner, RunnerOptions, StepInput
from .registry import backend, backend_names
from .transducer import Transducer, TransducerStep

__all__ = ["Runner", "RunnerOptions", "StepInput", "Transducer", "TransducerStep", "backend", "backend_names"]
