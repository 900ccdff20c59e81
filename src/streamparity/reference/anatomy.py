"""What a NeMo model is made of, as far as a port can be held against it."""

from __future__ import annotations

from typing import Any

from ..dump.anatomy import Anatomy, Norm, Parameter
from .encoder import to_numpy

PARTS = ("encoder.", "decoder.", "joint.")


def anatomy_of(module: Any) -> Anatomy:
    """Parameters and buffers of encoder, predictor and joint, and every layer that has an epsilon."""
    return Anatomy(
        parameters={
            name: Parameter.of(to_numpy(tensor))
            for name, tensor in module.state_dict().items()
            if name.startswith(PARTS) and tensor.is_floating_point()
        },
        norms={
            name: Norm(type(part).__name__, float(part.eps))
            for name, part in module.named_modules()
            if name.startswith(PARTS) and hasattr(part, "eps")
        },
    )
