"""ONNX Runtime: an exported encoder, and ``decoder_joint`` where it lies beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..dtypes import ARITHMETICS, only_float
from ..dump.decoder import JOINT, PREDICTION, PREDICTION_STATES
from ..errors import BackendMissing, Stateless, StepFailed, StreamparityError, first_line
from ..tensors import (
    CACHE_FEEDBACK,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    Array,
    canonical_names,
)
from .base import Runner, RunnerOptions, StepInput
from .onnx_cut import FED, cut, piece, with_log_softmax
from .onnx_graph import STATELESS_HINT, OnnxGraph, missing_ports, module_path, with_outputs
from .onnx_weights import weights
from .piece import NoPiece, Piece
from .transducer import State, TransducerCall, TransducerStep
from .weight import Weight

OPTIMISATION = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def _import_ort() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(f"onnxruntime cannot be imported: {error}", "pip install 'streamparity[onnx]'") from None
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def create_session(graph: OnnxGraph, data: bytes, settings: Mapping[str, str]) -> Any:
    """A session over ``data``, an edited copy of a graph; external weights are found beside the file.

    Raises:
        BackendMissing: the provider asked for is not there.
        StreamparityError: ONNX Runtime refuses the graph, or a setting has a bad value.
    """
    ort = _import_ort()
    provider = settings.get("provider", "CPUExecutionProvider")
    if provider not in ort.get_available_providers():
        raise BackendMissing(
            f"onnxruntime has no provider {provider}", f"available: {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = thread_count(settings)
    level = settings.get("optimization", "all")
    if level not in OPTIMISATION:
        raise StreamparityError(f"optimization={level} is unknown", f"use one of {', '.join(OPTIMISATION)}")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMISATION[level])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.path.parent))
    try:
        return ort.InferenceSession(data, options, providers=[provider])
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise StreamparityError(
            f"ONNX Runtime refuses {graph.path}: {first_line(error)}", "check the file with `streamparity inspect`"
        ) from None


def thread_count(settings: Mapping[str, str]) -> int:
    """The ``threads`` setting; 0 lets ONNX Runtime choose."""
    value = settings.get("threads", "1")
    if not value.isdigit():
        raise StreamparityError(f"threads={value} is not a number", "give a whole number, 0 for all cores")
    return int(value)


def _arithmetic(settings: Mapping[str, str]) -> str | None:
    """The ``arithmetic`` setting: an int8 or TF32 model, or one of half precision inside, has float32 ports."""
    value = settings.get("arithmetic")
    if value is not None and value not in ARITHMETICS:
        raise StreamparityError(f"arithmetic={value} is unknown", f"use one of {', '.join(ARITHMETICS)}")
    return value


class OrtRunner(Runner):
    """Drives an exported encoder with IOBinding: a step's caches are the next step's inputs without being copied."""

    name = "ort"
    settings_known: ClassVar[Mapping[str, str]] = {
        "threads": "threads per operator, 0 for all cores; default 1",
        "provider": "execution provider; default CPUExecutionProvider",
        "optimization": "graph optimization: disable, basic or all; default all",
        "arithmetic": f"what to judge it as: {', '.join(ARITHMETICS)}; default by the type of its ports",
    }

    @classmethod
    def open(cls, model: Path, options: RunnerOptions) -> OrtRunner:
        """Load ``encoder.onnx`` (or a folder that has one), and ``decoder_joint.onnx`` beside it."""
        return cls(model / "encoder.onnx" if model.is_dir() else model, options)

    isolates = True

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        super().__init__()
        graph = OnnxGraph(path)
        self.graph = graph
        self.bakes_drop = True
        self._settings = options.settings
        self._pieces: dict[tuple[str, ...], Any] = {}
        self.threads = thread_count(options.settings) or None
        self._inputs = canonical_names([port.name for port in graph.inputs], ENCODER_INPUTS, str(path))
        self._outputs = canonical_names([port.name for port in graph.outputs], ENCODER_OUTPUTS, str(path))
        missing = missing_ports(self._inputs, self._outputs)
        if missing:
            raise Stateless(
                f"{path} cannot stream: it has no {', '.join(missing)} (exported without cache support)", STATELESS_HINT
            )
        self.arithmetic = _arithmetic(options.settings) or only_float(port.dtype for port in graph.outputs)
        self._dtypes = {port.name: np.dtype(port.dtype) for port in graph.inputs if port.dtype != "bfloat16"}
        self._taps, self.unmatched = graph.tap_tensors(options.taps, "encoder.")
        self._session = create_session(graph, graph.with_outputs(list(self._taps.values())), options.settings)
        self._binding = self._session.io_binding()
        self._caches: dict[str, Any] = {}
        decoder = decoder_beside(path)
        self._decoder = None if decoder is None else OrtTransducer(decoder, options)
        if self._decoder is not None:
            self.transducer = self._decoder
            self.unmatched.update(self._decoder.unmatched)

    def set_caches(self, caches: Mapping[str, Array]) -> None:
        """Bind copies of ``caches`` for the next step."""
        from onnxruntime import OrtValue

        for name in CACHE_FEEDBACK.values():
            array = np.array(caches[name], dtype=self._dtypes[self._inputs[name]], order="C", copy=True)
            self._caches[name] = OrtValue.ortvalue_from_numpy(array)

    def step(self, chunk: StepInput) -> dict[str, Array]:
        """One ``session.run``; the caches it returns stay in ONNX Runtime's memory."""
        binding = self._binding
        # ONNX Runtime reads these arrays where they are: they must live until the step is done.
        fed = {"audio_signal": chunk.audio_signal, "length": chunk.length}
        fed = {name: np.ascontiguousarray(array, self._dtypes[self._inputs[name]]) for name, array in fed.items()}
        for name, array in fed.items():
            binding.bind_cpu_input(self._inputs[name], array)
        for name, value in self._caches.items():
            binding.bind_ortvalue_input(self._inputs[name], value)
        # Outputs are bound anew each step: ONNX Runtime would write into last step's, which are now the inputs.
        binding.clear_binding_outputs()
        wanted = {f"out/{name}": actual for name, actual in self._outputs.items()}
        wanted |= {f"tap/{tap}": tensor for tap, tensor in self._taps.items()}
        bound = list(dict.fromkeys(wanted.values()))
        for name in bound:
            binding.bind_output(name)
        started = time.perf_counter()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise _step_failed(error) from None
        self.backend_ms = (time.perf_counter() - started) * 1000
        values = dict(zip(bound, binding.get_outputs(), strict=True))
        for given, taken in CACHE_FEEDBACK.items():
            self._caches[taken] = values[self._outputs[given]]
        arrays = {name: value.numpy() for name, value in values.items()}
        return {key: arrays[actual] for key, actual in wanted.items()}

    def isolated_step(self, chunk: StepInput, forced: Mapping[str, Array]) -> dict[str, Array]:
        """One run of the graph cut at those taps; a graph cut so is kept."""
        at = tuple(dict.fromkeys(tensor for label, tensor in self._taps.items() if label in forced))
        if at not in self._pieces:
            data = self.graph.cut_at(at, list(self._taps.values()))
            self._pieces[at] = create_session(self.graph, data, self._settings)
        typed = self._fed(chunk) | {FED + self._taps[label]: array for label, array in forced.items()}
        wanted = {f"out/{name}": actual for name, actual in self._outputs.items()}
        wanted |= {f"tap/{tap}": tensor for tap, tensor in self._taps.items()}
        names = list(dict.fromkeys(wanted.values()))
        try:
            computed = dict(zip(names, self._pieces[at].run(names, typed), strict=True))
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise _step_failed(error) from None
        return {key: computed[actual] for key, actual in wanted.items()}

    def weights(self) -> Iterator[Weight]:
        """Encoder, predictor and joint."""
        yield from weights(self.graph.proto, self.graph.path.parent, "encoder.")
        if self._decoder is not None:
            yield from weights(self._decoder.graph.proto, self.graph.path.parent, "")

    def piece(self, label: str, chunk: StepInput, forced: Mapping[str, Array]) -> Piece:
        """By onnx's own extractor."""
        name = self.tensor_of(label)
        given = {self._taps[tap]: array for tap, array in forced.items() if tap in self._taps}
        graph = self.graph.filled(piece(cut(self.graph.proto, list(given), [name], self.graph.types()), [name]))
        values = {FED + tensor: array for tensor, array in given.items()} | self._fed(chunk)
        return Piece(graph, {port.name: values[port.name] for port in graph.graph.input})

    def decoder_piece(self, label: str, call: TransducerCall) -> Piece:
        """By onnx's own extractor."""
        if self._decoder is None:
            raise NoPiece("there is no decoder_joint")
        return self._decoder.piece(label, call)

    def _fed(self, chunk: StepInput) -> dict[str, Array]:
        """The encoder's inputs as the graph takes them, the caches being those set last."""
        given = {"audio_signal": chunk.audio_signal, "length": chunk.length}
        return self._typed_inputs(given | {name: value.numpy() for name, value in self._caches.items()})

    def _typed_inputs(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Encoder inputs by canonical name as the graph takes them: its own names and dtypes."""
        return {self._inputs[n]: np.asarray(array, self._dtypes[self._inputs[n]]) for n, array in tensors.items()}

    def tensor_of(self, label: str) -> str:
        """The graph's own tensor behind a tap or an output port."""
        return self._taps.get(label) or self._outputs[label]


def decoder_beside(encoder: Path) -> Path | None:
    """``decoder_joint.onnx`` beside ``encoder.onnx``, or ``decoder_joint-NAME.onnx`` beside ``encoder-NAME.onnx``."""
    if "encoder" not in encoder.name:
        return None
    path = encoder.with_name(encoder.name.replace("encoder", "decoder_joint", 1))
    return path if path.is_file() else None


class OrtTransducer:
    """An exported ``decoder_joint``: predictor and joint in one graph.

    Attributes:
        unmatched: decoder taps that the graph does not have, with the reason.
    """

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        graph = OnnxGraph(path)
        self.graph = graph
        ports = {port.name: port for port in [*graph.inputs, *graph.outputs]}
        missing = [name for name in (*DECODER_INPUTS, *DECODER_OUTPUTS) if name not in ports]
        if missing:
            raise StreamparityError(
                f"{path} is not a decoder_joint graph: it has no {', '.join(missing)}",
                "export it with NeMo or streamparity export, or move it away to run the encoder alone",
            )
        self._types = {name: np.dtype(port.dtype) for name, port in ports.items()}
        wanted = [PREDICTION] if PREDICTION in options.decoder_taps else []
        # In the graph the prediction network's scope is "decoder": the ModuleDict "prediction" leaves no trace.
        taps, reasons = graph.tap_tensors(["decoder" for _ in wanted], "")
        self.unmatched = {PREDICTION: reasons["decoder"]} if reasons else {}
        self._prediction = taps.get("decoder")
        self._session = create_session(graph, graph.with_outputs(list(taps.values())), options.settings)
        self._state_shapes = [self._state_shape(ports[name].shape) for name in ("input_states_1", "input_states_2")]
        self._fetch = ["outputs", "output_states_1", "output_states_2"]
        if self._prediction is not None:
            self._fetch.append(self._prediction)

    @staticmethod
    def _state_shape(shape: Sequence[int | str | None]) -> tuple[int, ...]:
        layers, _, width = shape
        if not isinstance(layers, int) or not isinstance(width, int):
            raise StreamparityError(
                f"decoder_joint's state has shape {list(shape)}: its size is not known", "export it with fixed sizes"
            )
        return layers, 1, width

    def edited(self, proto: Any) -> OrtTransducer:
        """The same predictor and joint by an edited copy of their graph.

        Raises:
            StreamparityError: ONNX Runtime refuses it.
        """
        other, seen = copy(self), [name for name in (self._prediction,) if name is not None]
        other._session = create_session(self.graph, with_outputs(proto, seen), {"optimization": "disable"})
        return other

    def initial_state(self) -> State:
        """Zeros ``[L, 1, H]`` for each state tensor."""
        kinds = [self._types["input_states_1"], self._types["input_states_2"]]
        return tuple(np.zeros(shape, kind) for shape, kind in zip(self._state_shapes, kinds, strict=True))

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """One ``session.run`` for one frame and label.

        Raises:
            StepFailed: the graph could not run.
        """
        logits, first, second, *prediction = self._run(self._fed(TransducerCall(frame, label, state)))
        return TransducerStep(logits.reshape(-1), (first, second), prediction[0].reshape(-1) if prediction else None)

    def piece(self, label: str, call: TransducerCall) -> Piece:
        """See :meth:`Runner.decoder_piece`."""
        names = {JOINT: "outputs", **{f"{PREDICTION_STATES}_{part}": f"output_states_{part}" for part in (1, 2)}}
        name = names.get(label, self._prediction)
        if name is None:
            raise NoPiece(f"the graph has no tensor for {label}")
        whole, values = self.graph.proto, self._fed(call)
        if label == JOINT and call.prediction is not None and self._prediction is not None:
            own = self._run(values)[-1]
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

    def _run(self, values: Mapping[str, Array]) -> list[Array]:
        try:
            fetched: list[Array] = self._session.run(self._fetch, dict(values))
        except Exception as error:  # onnxruntime's exception classes share no public base
            raise _step_failed(error) from None
        return fetched


def _step_failed(error: Exception) -> StepFailed:
    node = re.search(r"Name:'([^']+)'", str(error))
    path = module_path(node.group(1)) if node else ""
    return StepFailed(first_line(error), f"encoder.{path}" if path else None)
