"""ONNX Runtime: an exported encoder, and its decoder graphs where they lie beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..dtypes import ARITHMETICS, only_float
from ..errors import Stateless, StreamparityError
from ..graph.onnx_cut import FED, cut, piece
from ..graph.onnx_graph import STATELESS_HINT, OnnxGraph, missing_ports
from ..graph.onnx_weights import weights
from ..graph.weight import Weight
from ..tensors import CACHE_FEEDBACK, ENCODER_INPUTS, ENCODER_OUTPUTS, Array, canonical_names
from .base import Runner, RunnerOptions, StepInput
from .ort_calls import step_failed
from .ort_decoder import OrtTransducer, ctc_beside, transducer_beside
from .ort_session import create_session, thread_count
from .piece import NoPiece, Piece
from .transducer import TransducerCall


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
        """Load ``encoder.onnx`` (or a folder that has one), and the decoder graphs beside it."""
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
        self._heads: list[OnnxGraph] = []
        if (transducer := transducer_beside(path, options)) is not None:
            self.transducer = transducer
            self.unmatched.update(transducer.unmatched)
            self._heads += transducer.graphs
        if (ctc := ctc_beside(path, options)) is not None:
            self.ctc = ctc
            self._heads += ctc.graphs

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
            raise step_failed(error, "encoder.") from None
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
            raise step_failed(error, "encoder.") from None
        return {key: computed[actual] for key, actual in wanted.items()}

    def weights(self) -> Iterator[Weight]:
        """Encoder, predictor and joint."""
        yield from weights(self.graph.proto, self.graph.path.parent, "encoder.")
        for head in self._heads:
            yield from weights(head.proto, self.graph.path.parent, "")

    def piece(self, label: str, chunk: StepInput, forced: Mapping[str, Array]) -> Piece:
        """By onnx's own extractor."""
        name = self.tensor_of(label)
        given = {self._taps[tap]: array for tap, array in forced.items() if tap in self._taps}
        graph = self.graph.filled(piece(cut(self.graph.proto, list(given), [name], self.graph.types()), [name]))
        values = {FED + tensor: array for tensor, array in given.items()} | self._fed(chunk)
        return Piece(graph, {port.name: values[port.name] for port in graph.graph.input})

    def decoder_piece(self, label: str, call: TransducerCall) -> Piece:
        """By onnx's own extractor."""
        if not isinstance(self.transducer, OrtTransducer):
            raise NoPiece("there is no decoder_joint")
        return self.transducer.piece(label, call)

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
