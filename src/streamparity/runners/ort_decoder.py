"""ONNX Runtime: the decoder graphs that lie beside an exported encoder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ..dump.decoder import JOINT, PREDICTION, PREDICTION_STATES
from ..errors import StreamparityError
from ..graph.beside import beside
from ..graph.onnx_cut import FED, cut, piece, with_log_softmax
from ..graph.onnx_graph import OnnxGraph, with_outputs
from ..tensors import DECODER_INPUTS, DECODER_OUTPUTS, Array
from .base import RunnerOptions
from .ort_calls import run_session, state_shape
from .ort_heads import OrtCtc, OrtPair
from .ort_session import create_session
from .piece import NoPiece, Piece
from .transducer import SplitTransducer, State, TransducerCall, TransducerStep

STATES = ("input_states_1", "input_states_2")


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
        graph: what was opened.
        graphs: the same, as every head says what it was made of.
        unmatched: decoder taps that the graph does not have, with the reason.
        arithmetic: what it computes in.
    """

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        graph = OnnxGraph(path)
        self.graph, self._settings = graph, options.settings
        self.graphs, self.arithmetic = (graph,), graph.arithmetic
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
        self._state_shapes = [state_shape(path, ports[name].shape) for name in STATES]
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
        fed = self._fed(TransducerCall(frame, label, state))
        logits, first, second, *prediction = run_session(self._session, self._fetch, fed)
        return TransducerStep(logits.reshape(-1), (first, second), prediction[0].reshape(-1) if prediction else None)

    def split(self, width: int) -> SplitTransducer | None:
        """The same graph cut between predictor and joint, ``None`` where it does not show where that is.

        Args:
            width: of an encoder frame.
        """
        tensor = self._inner.get("decoder")
        if tensor is None:
            return None
        return _CutTransducer(self, self.graph, tensor, self._settings, width)

    def edited(self, proto: Any) -> OrtTransducer:
        """The same predictor and joint by an edited copy of their graph.

        Raises:
            StreamparityError: ONNX Runtime refuses it.
        """
        other, seen = copy(self), [name for name in (self._prediction,) if name is not None]
        other._session = create_session(self.graph, with_outputs(proto, seen), {"optimization": "disable"})
        return other

    def piece(self, label: str, call: TransducerCall) -> Piece:
        """See :meth:`Runner.decoder_piece`."""
        names = {JOINT: "outputs", **{f"{PREDICTION_STATES}_{part}": f"output_states_{part}" for part in (1, 2)}}
        name = names.get(label, self._prediction)
        if name is None:
            raise NoPiece(f"the graph has no tensor for {label}")
        whole, values = self.graph.proto, self._fed(call)
        if label == JOINT and call.prediction is not None and self._prediction is not None:
            own = run_session(self._session, self._fetch, values)[-1]
            values[FED + self._prediction] = np.asarray(call.prediction, own.dtype).reshape(own.shape)
            whole = cut(whole, [self._prediction], [], self.graph.types())
        if label == JOINT:
            whole, name = with_log_softmax(whole, name)
        graph = self.graph.filled(piece(whole, [name]))
        return Piece(graph, {port.name: values[port.name] for port in graph.graph.input})

    def _fed(self, call: TransducerCall) -> dict[str, Array]:
        feed = {
            "encoder_outputs": call.frame.reshape(1, -1, 1),
            "targets": np.array([[call.label]]),
            "target_length": np.array([1]),
            "input_states_1": call.state[0],
            "input_states_2": call.state[1],
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
        prediction, *after = run_session(
            self._predictor, names, self._whole._fed(TransducerCall(self._any_frame, label, state))
        )
        self._shape = prediction.shape
        return prediction.reshape(-1), tuple(after)

    def join(self, frame: Array, prediction: Array) -> Array:
        if not self._shape:
            self.predict(0, self.initial_state())
        feed = self._whole._fed(TransducerCall(frame, 0, self.initial_state()))
        feed[FED + self._tensor] = prediction.reshape(self._shape).astype(np.float32)
        logits: Array = run_session(self._joint, ["outputs"], feed)[0].reshape(-1)
        return logits
