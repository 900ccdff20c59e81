"""ONNX Runtime: what every decoder graph needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StepFailed, StreamparityError, first_line
from ..graph.onnx_graph import module_path
from ..tensors import Array


def step_failed(error: Exception, root: str = "") -> StepFailed:
    """What ONNX Runtime raised, with the NeMo module of the node that it names."""
    node = re.search(r"Name:'([^']+)'", str(error))
    path = module_path(node.group(1)) if node else ""
    return StepFailed(first_line(error), f"{root}{path}" if path else None)


def run_session(session: Any, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Outputs by name.

    Raises:
        StepFailed: ONNX Runtime could not run the graph.
    """
    try:
        outputs: list[Array] = session.run(list(names), dict(feed))
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise step_failed(error) from None
    return outputs


def state_shape(path: Path, shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """Shape of a state port ``[L, 1, H]``.

    Raises:
        StreamparityError: the graph does not say.
    """
    if len(shape) != 3 or not isinstance(shape[0], int) or not isinstance(shape[2], int):
        raise StreamparityError(
            f"{path}: a state has shape {list(shape)}: its size is not known", "export it with fixed sizes [L, B, H]"
        )
    return shape[0], 1, shape[2]
