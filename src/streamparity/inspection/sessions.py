"""Running a graph, or the part of it that works lengths out, on inputs made for the purpose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import StepFailed, first_line
from ..graph.onnx_cut import piece
from ..runners.ort_session import create_session
from ..tensors import Array
from .subject import EncoderSubject

USUAL_MELS = 128  # where a graph leaves the number of mel bands open
LARGEST_INPUT = 2**28  # elements: 24 layers of 10,000 slots of 1024, NeMo's largest cache, are fewer
# Opening a session is most of what a few steps cost; nothing is gained by optimising the graph first.
SETTINGS = {"optimization": "disable"}


class Session:
    """A graph, or the part of it that computes some tensors, in ONNX Runtime.

    Args:
        subject: the encoder.
        tensors: actual names of the tensors wanted.
        part: cut everything away that they do not need.

    Raises:
        BackendMissing: onnxruntime is not installed.
        StreamparityError: ONNX Runtime refuses it.
    """

    def __init__(self, subject: EncoderSubject, tensors: Sequence[str], *, part: bool) -> None:
        self._subject = subject
        if part:
            proto, self._tensors = _as_floats(subject.graph.proto, tensors)
            data = piece(proto, self._tensors).SerializeToString()
        else:
            self._tensors = list(tensors)
            data = subject.graph.with_outputs(tensors)
        self._session = create_session(subject.graph, data, SETTINGS)
        self._taken = {given.name for given in self._session.get_inputs()}

    def run(self, given: Mapping[str, Array]) -> list[Array]:
        """One run.

        Args:
            given: arrays by canonical port name; those that the part does not take are left out.

        Raises:
            StepFailed: it could not be run.
        """
        names, ports = self._subject.inputs, self._subject.ports
        feed = {
            names[port]: np.ascontiguousarray(array, np.dtype(ports[port].dtype))
            for port, array in given.items()
            if names[port] in self._taken
        }
        try:
            returned: list[Array] = self._session.run(self._tensors, feed)
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise StepFailed(first_line(error)) from None
        return returned


def _as_floats(proto: Any, tensors: Sequence[str]) -> tuple[Any, list[str]]:
    """A copy of a graph with a cast behind every inner tensor, whose type need then not be known, and their names."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    ports, names = {value.name for value in proto.graph.output}, []
    for name in tensors:
        names.append(name if name in ports else f"inspect:{name}")
        if name not in ports:
            copy.graph.node.append(onnx.helper.make_node("Cast", [name], names[-1:], to=onnx.TensorProto.FLOAT))
    return copy, names


def zeros(subject: EncoderSubject, frames: int, slots: int, time_slots: int) -> dict[str, Array]:
    """Inputs of one step that hold nothing: a chunk of ``frames`` and empty caches.

    Args:
        subject: the encoder.
        frames: feature frames of the chunk.
        slots: extent C of ``cache_last_channel``.
        time_slots: extent K of ``cache_last_time``.

    Raises:
        StepFailed: the ports are fixed at sizes that no model has.
    """

    def extents(port: str, free: Mapping[int, int]) -> tuple[int, ...]:
        shape = subject.ports[port].shape
        return tuple(size if isinstance(size, int) else free.get(axis, 1) for axis, size in enumerate(shape))

    shapes = {
        "audio_signal": extents("audio_signal", {1: USUAL_MELS, 2: frames}),
        "length": extents("length", {}),
        "cache_last_channel": extents("cache_last_channel", {2: slots}),
        "cache_last_time": extents("cache_last_time", {3: time_slots}),
        "cache_last_channel_len": extents("cache_last_channel_len", {}),
    }
    for port, shape in shapes.items():
        if math.prod(shape) > LARGEST_INPUT:
            raise StepFailed(f"{port} of shape {list(shape)} is larger than any model's")
    made: dict[str, Any] = {port: np.zeros(shape, np.float32) for port, shape in shapes.items()}
    made["length"] = np.full(shapes["length"], frames)
    return made
