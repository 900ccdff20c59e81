"""A piece that makes an error, cut out of its graph, so that edits of it can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..comparison import TolerancePolicy
from ..errors import StreamparityError
from ..graph.onnx_graph import FLOATS, OnnxGraph, with_outputs
from ..runners.ort import OrtRunner
from ..runners.ort_decoder import OrtTransducer
from ..runners.ort_session import create_session
from ..tensors import Array, TensorSpec, integer_tensors, valid_regions
from .decoder_replay import planned_calls, replayed
from .errors import PieceError, errors
from .inputs import Script

INTEGERS = {6, 7}  # ONNX's int32 and int64


class Trial(Protocol):
    """A graph that makes an error by itself.

    Attributes:
        proto: the graph (``onnx.ModelProto``); to be copied, not edited.
        floats: names of its floating-point tensors.
        integers: names of its whole numbers: shapes, lengths, places.
        before: the error it makes.
        expected: what it should make, valid regions only, ``[N]`` float64.
    """

    proto: Any
    floats: set[str]
    integers: set[str]
    before: PieceError
    expected: Array

    def run(self, edited: Any) -> tuple[PieceError, Array] | None:
        """The error of an edited graph, and what it makes as ``expected`` has it; ``None`` where it cannot run."""

    def inner(self) -> dict[str, Array]:
        """Every tensor of one run as it is, what is fed among them."""

    def valid(self, array: Array) -> Array | None:
        """A tensor as ``expected`` has it; ``None`` where it has another shape."""


class PieceTrial:
    """A piece of the encoder between taps, given the reference's tensors of one chunk.

    Args:
        runner: the model under test.
        script: the reference's chunks.
        taps: the taps to cut at.
        spec: the tap or output that the piece computes.
        chunk: the chunk.
        policy: tolerances.
    """

    def __init__(
        self,
        runner: OrtRunner,
        script: Script,
        taps: list[TensorSpec],
        spec: TensorSpec,
        chunk: int,
        policy: TolerancePolicy,
    ) -> None:
        self._graph, self._spec, self._policy = runner.graph, spec, policy
        self._reference, inputs = script.expected(chunk), script.inputs(chunk)
        self._tensor = runner.tensor_of(spec.label)
        runner.set_caches(inputs.caches)
        piece = runner.piece(spec.label, inputs.step, {tap.label: self._reference[tap.name] for tap in taps})
        self.proto, self._fed = piece.graph, dict(piece.inputs)
        self.floats, self.integers = _kinds(self.proto, runner.graph.types())
        self.floats |= {name for name, array in self._fed.items() if array.dtype.kind == "f"}
        self._regions = list(valid_regions(spec, self._reference[spec.name].shape, integer_tensors(self._reference)))
        made = self.valid(self._reference[spec.name])
        assert made is not None
        self.expected = made
        done = self.run(self.proto)
        self.before = PieceError(np.inf, np.inf, False) if done is None else done[0]

    def run(self, edited: Any) -> tuple[PieceError, Array] | None:
        """As :meth:`Trial.run`."""
        value = _computed(self._graph, edited.SerializeToString(), [self._tensor], self._fed)
        made = None if value is None else self.valid(value[self._tensor])
        if value is None or made is None:
            return None
        actual = value[self._tensor]
        error = errors([self._spec], self._reference, {self._spec.name: actual}, self._policy)[self._spec.label]
        return error, made

    def inner(self) -> dict[str, Array]:
        """As :meth:`Trial.inner`."""
        names = [name for node in self.proto.graph.node for name in node.output if name]
        marked = with_outputs(self.proto, names)
        return {**self._fed, **(_computed(self._graph, marked, names, self._fed) or {})}

    def valid(self, array: Array) -> Array | None:
        """As :meth:`Trial.valid`."""
        if array.shape != self._reference[self._spec.name].shape:
            return None
        return np.concatenate([array[region].reshape(-1) for region in self._regions]).astype(np.float64)


class DecoderTrial:
    """Predictor and joint in one graph, called as the reference's were in one chunk."""

    def __init__(
        self, transducer: OrtTransducer, reference: Any, spec: TensorSpec, chunk: int, policy: TolerancePolicy
    ) -> None:
        self._transducer, self._spec, self._policy = transducer, spec, policy
        rules = reference.manifest.decoder
        assert rules is not None  # or there would be no error of a decoder
        self._rules = rules
        self._planned = planned_calls(reference, chunk, transducer.initial_state())
        self.proto = transducer.graph.proto
        types = transducer.graph.types()
        self.floats, self.integers = _kinds(self.proto, types)
        self.floats |= {port.name for port in transducer.graph.inputs if port.dtype.startswith("float")}
        done = self.run(self.proto)
        self.before = PieceError(np.inf, np.inf, False) if done is None else done[0]

    def run(self, edited: Any) -> tuple[PieceError, Array] | None:
        """As :meth:`Trial.run`."""
        try:
            actual, wanted = replayed(self._planned, self._transducer.edited(edited), self._rules)
        except StreamparityError:
            return None
        name = self._spec.name
        if name not in actual or actual[name].shape != wanted[name].shape:
            return None
        self.expected = wanted[name].reshape(-1).astype(np.float64)
        found = errors([self._spec], wanted, actual, self._policy)[self._spec.label]
        return found, actual[name].reshape(-1).astype(np.float64)

    def inner(self) -> dict[str, Array]:
        """Nothing: one call makes one row of many."""
        return {}

    def valid(self, array: Array) -> Array | None:
        """As :meth:`Trial.valid`."""
        return array.reshape(-1).astype(np.float64)


def _kinds(proto: Any, types: Mapping[str, int]) -> tuple[set[str], set[str]]:
    names = {name for node in proto.graph.node for name in node.output}
    whole = {name for name in names if types.get(name) in INTEGERS}
    return {name for name in names if types.get(name, 1) in FLOATS}, whole


def _computed(graph: OnnxGraph, data: bytes, names: list[str], fed: Mapping[str, Array]) -> dict[str, Array] | None:
    try:
        session = create_session(graph, data, {"optimization": "disable"})
        return dict(zip(names, session.run(names, {p.name: fed[p.name] for p in session.get_inputs()}), strict=True))
    except Exception:  # an edit need not make sense, and onnxruntime's exception classes share no public base
        return None
