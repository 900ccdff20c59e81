"""How many frames an exported encoder's convolution cache holds, which no port of dynamic size says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .onnx_graph import module_path
from .onnx_weights import Constants


def time_slots(proto: Any, folder: Path) -> int | None:
    """Frames that ``cache_last_time`` must hold, or ``None`` where the graph does not tell.

    NeMo's depthwise convolution puts the cache in front of its input and zeros behind it, so kernel - 1 frames are
    taken up by the two together.

    Args:
        proto: an exported encoder.
        folder: where its external weights lie.
    """
    constants = Constants(proto, folder)
    producer = {name: node for node in proto.graph.node for name in node.output}
    found: set[int] = set()
    for node in proto.graph.node:
        if node.op_type != "Conv" or not module_path(node.name).endswith(".depthwise_conv"):
            continue
        kernel = next((list(item.ints) for item in node.attribute if item.name == "kernel_shape"), [])
        behind = _zeros_behind(producer.get(node.input[0]), producer, constants)
        if len(kernel) != 1 or behind is None:
            return None
        found.add(kernel[0] - 1 - behind)
    return found.pop() if len(found) == 1 else None


def _zeros_behind(joined: Any, producer: dict[str, Any], constants: Constants) -> int | None:
    """Zeros that a ``Pad`` puts behind what a ``Concat`` with the cache takes second."""
    if joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
        return None
    padded = producer.get(joined.input[1])
    if padded is None or padded.op_type != "Pad":
        return 0
    amounts = constants.value(padded.input[1])
    return None if amounts is None or amounts.size == 0 else int(amounts.reshape(-1)[-1])
