"""ONNX Runtime: the decoder graphs that lie beside an exported encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..dump.decoder import PREDICTION
from ..errors import StepFailed, StreamparityError, first_line
from ..tensors import (
    CTC_INPUTS,
    CTC_OUTPUTS,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    JOINT_INPUTS,
    JOINT_OUTPUTS,
    PREDICTOR_INPUTS,
    PREDICTOR_OUTPUTS,
    Array,
    canonical_names,
)
from .base import RunnerOptions
from .onnx_cut import FED
from .onnx_graph import GraphPort, OnnxGraph, module_path
from .ort_session import create_session
from .transducer import SplitTransducer, State, TransducerStep

STATES = ("input_states_1", "input_states_2")
NO_PREDICTION = "the graph shows no prediction of its own"


def beside(encoder: Path, *stems: str) -> Path | None:
    """``STEM.onnx`` beside ``encoder.onnx``, or ``STEM-NAME.onnx`` beside ``encoder-NAME.onnx``; the first there is."""
    if "encoder" not in encoder.name:
        return None
    paths = [encoder.with_name(encoder.name.replace("encoder", stem, 1)) for stem in stems]
    return next((path for path in paths if path.is_file()), None)


def transducer_beside(encoder: Path, options: RunnerOptions) -> OrtTransducer | OrtPair | None:
    """Predictor and joint: ``decoder_joint.onnx``, else ``decoder.onnx`` with ``joint.onnx`` (or ``joiner.onnx``).

    Raises:
        StreamparityError: a graph is there and is not what its name says.
    """
    whole = beside(encoder, "decoder_joint")
    if whole is not None:
        return OrtTransducer(whole, options)
    predictor, joint = beside(encoder, "decoder", "predictor"), beside(encoder, "joint", "joiner")
    if predictor is None or joint is None:
        return None
    return OrtPair(predictor, joint, options)


def ctc_beside(encoder: Path, options: RunnerOptions) -> OrtCtc | None:
    """``ctc_decoder.onnx``.

    Raises:
        StreamparityError: it is there and is no CTC head.
    """
    path = beside(encoder, "ctc_decoder")
    return None if path is None else OrtCtc(path, options)


class OrtTransducer:
    """An exported ``decoder_joint``: predictor and joint in one graph.

    Attributes:
        graphs: what was opened.
        unmatched: decoder taps that the graph does not have, with the reason.
    """

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        graph = OnnxGraph(path)
        self._graph, self._settings = graph, options.settings
        self.graphs = (graph,)
        ports = {port.name: port for port in [*graph.inputs, *graph.outputs]}
        missing = [name for name in (*DECODER_INPUTS, *DECODER_OUTPUTS) if name not in ports]
        if missing:
            raise StreamparityError(
                f"{path} is not a decoder_joint graph: it has no {', '.join(missing)}",
                "export it with NeMo or streamparity export, or move it away to run the encoder alone",
            )
        self._types = {name: np.dtype(port.dtype) for name, port in ports.items()}
        # In the graph the prediction network's scope is "decoder": the ModuleDict "prediction" leaves no trace.
        self._inner, reasons = graph.tap_tensors(["decoder"], "")
        wanted = PREDICTION in options.decoder_taps
        self.unmatched = {PREDICTION: reasons["decoder"]} if reasons and wanted else {}
        self._prediction = self._inner.get("decoder") if wanted else None
        self._session = create_session(
            graph, graph.with_outputs([self._prediction] if self._prediction else []), options.settings
        )
        self._state_shapes = [_state_shape(path, ports[name].shape) for name in STATES]
        self._fetch = ["outputs", "output_states_1", "output_states_2"]
        if self._prediction is not None:
            self._fetch.append(self._prediction)

    def initial_state(self) -> State:
        """Zeros ``[L, 1, H]`` for each state tensor."""
        kinds = [self._types[name] for name in STATES]
        return tuple(np.zeros(shape, kind) for shape, kind in zip(self._state_shapes, kinds, strict=True))

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """One ``session.run`` for one frame and label.

        Raises:
            StepFailed: the graph could not run.
        """
        typed = self._feed(frame, label, state)
        logits, first, second, *prediction = _run(self._session, self._fetch, typed)
        return TransducerStep(logits.reshape(-1), (first, second), prediction[0].reshape(-1) if prediction else None)

    def split(self, width: int) -> SplitTransducer | None:
        """The same graph cut between predictor and joint, ``None`` where it does not show where that is.

        Args:
            width: of an encoder frame.
        """
        tensor = self._inner.get("decoder")
        if tensor is None:
            return None
        return _CutTransducer(self, self._graph, tensor, self._settings, width)

    def _feed(self, frame: Array, label: int, state: State) -> dict[str, Array]:
        feed = {
            "encoder_outputs": frame.reshape(1, -1, 1),
            "targets": np.array([[label]]),
            "target_length": np.array([1]),
            "input_states_1": state[0],
            "input_states_2": state[1],
        }
        return {name: np.asarray(value, dtype=self._types[name]) for name, value in feed.items()}


class _CutTransducer:
    """``decoder_joint`` run as two: the predictor with any frame, the joint with a prediction put in its place."""

    def __init__(
        self, whole: OrtTransducer, graph: OnnxGraph, tensor: str, settings: Mapping[str, str], width: int
    ) -> None:
        self._whole = whole
        self._tensor = tensor
        self._predictor = create_session(graph, graph.with_outputs([tensor]), settings)
        self._joint = create_session(graph, graph.cut_at([tensor], []), settings)
        self._any_frame = np.zeros(width, np.float32)
        self._shape: tuple[int, ...] = ()

    def initial_state(self) -> State:
        return self._whole.initial_state()

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        return self._whole.step(frame, label, state)

    def predict(self, label: int, state: State) -> tuple[Array, State]:
        names = [self._tensor, "output_states_1", "output_states_2"]
        prediction, *after = _run(self._predictor, names, self._whole._feed(self._any_frame, label, state))
        self._shape = prediction.shape
        return prediction.reshape(-1), tuple(after)

    def join(self, frame: Array, prediction: Array) -> Array:
        if not self._shape:
            self.predict(0, self.initial_state())
        feed = self._whole._feed(frame, 0, self.initial_state())
        feed[FED + self._tensor] = prediction.reshape(self._shape).astype(np.float32)
        logits: Array = _run(self._joint, ["outputs"], feed)[0].reshape(-1)
        return logits


class OrtPair:
    """Predictor and joint exported as two graphs.

    Names are those of :data:`streamparity.tensors.PREDICTOR_INPUTS` and its neighbours; the state ports are the
    predictor's other floating-point ones, in order.

    Attributes:
        graphs: what was opened.
        unmatched: nothing: every decoder tensor is a port here.
    """

    def __init__(self, predictor: Path, joint: Path, options: RunnerOptions) -> None:
        first, second = OnnxGraph(predictor), OnnxGraph(joint)
        self.graphs = (first, second)
        self.unmatched: dict[str, str] = {}
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
        self._state_shapes = [_state_shape(predictor, port.shape) for port in states]
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
        prediction, *after = _run(self._sessions[0], [names["decoder_outputs"], *self._after], typed)
        return prediction.reshape(-1), tuple(after)

    def join(self, frame: Array, prediction: Array) -> Array:
        """One run of the joint."""
        names = self._joint_names
        feed = {
            name: np.asarray(_laid_out(values, self._shapes[name]), self._types[name])
            for name, values in ((names["encoder_outputs"], frame), (names["decoder_outputs"], prediction))
        }
        logits: Array = _run(self._sessions[1], [names["outputs"]], feed)[0].reshape(-1)
        return logits


class OrtCtc:
    """An exported CTC head: ``encoder_output`` [B, D, T] to ``logprobs`` [B, T, V + 1].

    Attributes:
        graphs: what was opened.
    """

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        graph = OnnxGraph(path)
        self.graphs = (graph,)
        self._names = _names(graph, CTC_INPUTS, CTC_OUTPUTS, set())
        self._type = np.dtype(graph.inputs[0].dtype)
        self._session = create_session(graph, graph.with_outputs([]), options.settings)

    def scores(self, frames: Array) -> Array:
        """One ``session.run`` for a chunk.

        Raises:
            StepFailed: the graph could not run.
        """
        feed = {self._names["encoder_output"]: np.ascontiguousarray(frames.T[None], self._type)}
        scores: Array = _run(self._session, [self._names["logprobs"]], feed)[0][0]
        return scores


def step_failed(error: Exception, root: str = "") -> StepFailed:
    """What ONNX Runtime raised, with the NeMo module of the node that it names."""
    node = re.search(r"Name:'([^']+)'", str(error))
    path = module_path(node.group(1)) if node else ""
    return StepFailed(first_line(error), f"{root}{path}" if path else None)


def _run(session: Any, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    try:
        outputs: list[Array] = session.run(list(names), dict(feed))
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise step_failed(error) from None
    return outputs


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


def _state_shape(path: Path, shape: Sequence[int | str | None]) -> tuple[int, ...]:
    if len(shape) != 3 or not isinstance(shape[0], int) or not isinstance(shape[2], int):
        raise StreamparityError(
            f"{path}: a state has shape {list(shape)}: its size is not known", "export it with fixed sizes [L, B, H]"
        )
    return shape[0], 1, shape[2]


def _laid_out(values: Array, shape: Sequence[int | str | None]) -> Array:
    """One vector as a port takes it: ``[1, D, 1]`` as in NeMo; ``[1, 1, D]`` or ``[1, D]`` where its shape says so."""
    if len(shape) == 2:
        return values.reshape(1, -1)
    last = len(shape) == 3 and shape[2] == values.size and shape[1] != values.size
    return values.reshape(1, 1, -1) if last else values.reshape(1, -1, 1)
