"""ONNX Runtime: predictor and joint as two graphs, and the CTC head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import coarsest
from ..errors import StreamparityError
from ..graph.onnx_graph import GraphPort, OnnxGraph
from ..tensors import (
    CTC_INPUTS,
    CTC_OUTPUTS,
    JOINT_INPUTS,
    JOINT_OUTPUTS,
    PREDICTOR_INPUTS,
    PREDICTOR_OUTPUTS,
    Array,
    canonical_names,
)
from .base import RunnerOptions
from .ort_calls import run_session, state_shape
from .ort_session import create_session
from .transducer import State, TransducerStep


class OrtPair:
    """Predictor and joint exported as two graphs.

    Names are those of :data:`streamparity.tensors.PREDICTOR_INPUTS` and its neighbours; the state ports are the
    predictor's other floating-point ones, in order.

    Attributes:
        graphs: what was opened.
        unmatched: nothing: every decoder tensor is a port here.
        arithmetic: the coarser of what both compute in.
    """

    def __init__(self, predictor: Path, joint: Path, options: RunnerOptions) -> None:
        first, second = OnnxGraph(predictor), OnnxGraph(joint)
        self.graphs = (first, second)
        self.unmatched: dict[str, str] = {}
        self.arithmetic = coarsest(graph.arithmetic for graph in self.graphs)
        self._types = {port.name: np.dtype(port.dtype) for graph in self.graphs for port in graph.inputs}
        states = [port for port in first.inputs if _is_state(port, PREDICTOR_INPUTS)]
        after = [port for port in first.outputs if _is_state(port, PREDICTOR_OUTPUTS)]
        self._states, self._after = [port.name for port in states], [port.name for port in after]
        if len(states) != len(after) or not states:
            raise StreamparityError(
                f"{predictor} takes {len(states)} states and returns {len(after)}: "
                f"inputs {[port.name for port in first.inputs]}, outputs {[port.name for port in first.outputs]}",
                "export the predictor with its states as inputs and, in the same order, as outputs",
            )
        self._state_shapes = [state_shape(predictor, port.shape) for port in states]
        self._predictor_names = _names(first, PREDICTOR_INPUTS, PREDICTOR_OUTPUTS, {*self._states, *self._after})
        self._joint_names = _names(second, JOINT_INPUTS, JOINT_OUTPUTS, set())
        self._shapes = {port.name: port.shape for port in second.inputs}
        self._sessions = [create_session(graph, graph.with_outputs([]), options.settings) for graph in self.graphs]

    def initial_state(self) -> State:
        """Zeros ``[L, 1, H]`` for each state tensor."""
        return tuple(
            np.zeros(shape, self._types[name]) for shape, name in zip(self._state_shapes, self._states, strict=True)
        )

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """Predictor, then joint.

        Raises:
            StepFailed: a graph could not run.
        """
        prediction, after = self.predict(label, state)
        return TransducerStep(self.join(frame, prediction), after, prediction)

    def predict(self, label: int, state: State) -> tuple[Array, State]:
        """One run of the predictor."""
        names = self._predictor_names
        feed = {names["targets"]: np.array([[label]]), **dict(zip(self._states, state, strict=True))}
        if "target_length" in names:
            feed[names["target_length"]] = np.array([1])
        typed = {name: np.asarray(value, self._types[name]) for name, value in feed.items()}
        prediction, *after = run_session(self._sessions[0], [names["decoder_outputs"], *self._after], typed)
        return prediction.reshape(-1), tuple(after)

    def join(self, frame: Array, prediction: Array) -> Array:
        """One run of the joint."""
        names = self._joint_names
        feed = {
            name: np.asarray(_laid_out(values, self._shapes[name]), self._types[name])
            for name, values in ((names["encoder_outputs"], frame), (names["decoder_outputs"], prediction))
        }
        logits: Array = run_session(self._sessions[1], [names["outputs"]], feed)[0].reshape(-1)
        return logits


class OrtCtc:
    """An exported CTC head: ``encoder_output`` [B, D, T] to ``logprobs`` [B, T, V + 1].

    Attributes:
        graphs: what was opened.
        arithmetic: what it computes in.
    """

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        graph = OnnxGraph(path)
        self.graphs, self.arithmetic = (graph,), graph.arithmetic
        self._names = _names(graph, CTC_INPUTS, CTC_OUTPUTS, set())
        self._type = np.dtype(graph.inputs[0].dtype)
        self._session = create_session(graph, graph.with_outputs([]), options.settings)

    def scores(self, frames: Array) -> Array:
        """One ``session.run`` for a chunk.

        Raises:
            StepFailed: the graph could not run.
        """
        feed = {self._names["encoder_output"]: np.ascontiguousarray(frames.T[None], self._type)}
        scores: Array = run_session(self._session, [self._names["logprobs"]], feed)[0][0]
        return scores


def _names(graph: OnnxGraph, inputs: Mapping[str, Any], outputs: Mapping[str, Any], others: set[str]) -> dict[str, str]:
    """Canonical names of a graph's ports onto its own; ``others`` are known already.

    Raises:
        StreamparityError: a port is missing or unknown.
    """
    found: dict[str, str] = {}
    for ports, given in ((inputs, graph.inputs), (outputs, graph.outputs)):
        names = canonical_names([port.name for port in given if port.name not in others], ports, str(graph.path))
        missing = [name for name, port in ports.items() if name not in names and not port.optional]
        if missing:
            raise StreamparityError(
                f"{graph.path} has no port {', '.join(missing)}; it has {[port.name for port in given]}",
                f"rename its ports, or export it again; known names are {', '.join(ports)}",
            )
        found |= names
    return found


def _is_state(port: GraphPort, ports: Mapping[str, Any]) -> bool:
    known = {alias for name, described in ports.items() for alias in (name, *described.aliases)}
    return port.name not in known and port.dtype.startswith("float")


def _laid_out(values: Array, shape: Sequence[int | str | None]) -> Array:
    """One vector as a port takes it: ``[1, D, 1]`` as in NeMo; ``[1, 1, D]`` or ``[1, D]`` where its shape says so."""
    if len(shape) == 2:
        return values.reshape(1, -1)
    last = len(shape) == 3 and shape[2] == values.size and shape[1] != values.size
    return values.reshape(1, 1, -1) if last else values.reshape(1, -1, 1)
