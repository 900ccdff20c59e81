"""A NeMo model computing in another arithmetic for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .rounded_products import int8, rounded_products, tf32

# Arithmetics that candidates compute in; PyTorch is asked for each. The first is what all are held against.
FLOAT64 = "float64"
LOWER = ("bfloat16", "float16", "tf32", "int8")


def computing_in(module: Any, name: str) -> AbstractContextManager[None]:
    """Have a model compute in an arithmetic for as long as the context lasts.

    Args:
        module: the NeMo model.
        name: ``float64`` or one of :data:`LOWER`.
    """
    import torch

    if name == "tf32":
        return _stepping(module, lambda: rounded_products(tf32))
    if name == "int8":
        weights = list(module.parameters())
        return _stepping(module, lambda: rounded_products(int8(weights)))
    return converted(module, getattr(torch, name))


@contextmanager
def converted(module: Any, dtype: Any) -> Iterator[None]:
    """Have a model hold all of its numbers in ``dtype``; its own come back unharmed.

    Parameters, buffers and tensors that modules keep outside either are converted.
    """
    import torch

    loose = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    held = [(tensor, tensor.data) for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()]
    try:
        for tensor, data in held:
            tensor.data = data.to(dtype)
        for part, name, value in loose:
            vars(part)[name] = value.to(dtype)
        yield
    finally:
        for tensor, data in held:
            tensor.data = data
        for part, name, value in loose:
            vars(part)[name] = value


@contextmanager
def _stepping(module: Any, mode: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Run every streaming step in ``mode``; what lies outside, the features above all, is not touched."""
    step = module.conformer_stream_step

    def call(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return step(*args, **kwargs)

    # Not setattr: see taps.wrapped.
    module.__dict__["conformer_stream_step"] = call
    try:
        yield
    finally:
        del module.__dict__["conformer_stream_step"]
