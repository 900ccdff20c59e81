"""TensorRT and TensorRT-RTX: an engine that ``streamparity build`` made, or one from elsewhere that has its ports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..dump.decoder import PREDICTION
from ..errors import Stateless, StreamparityError, first_of
from ..graph.beside import beside
from ..graph.onnx_graph import STATELESS_HINT
from ..tensorrt.admission import Admitted, admit
from ..tensorrt.agreement import stateless_ports
from ..tensorrt.builder import marked_engine
from ..tensorrt.device import Device, open_device
from ..tensorrt.engine import Engine
from ..tensorrt.metadata import ARITHMETIC, EngineMetadata, built_otherwise, differences
from ..tensorrt.plan import Plan, decoder_plan, encoder_plan
from ..tensorrt.rebuild import layers_of, rebuilt, source_of
from ..tensorrt.session import Session
from ..tensors import Array
from .base import Runner, RunnerOptions, StepInput
from .transducer import State, TransducerStep

MARKED = "taps are marked as outputs of the engine, which can change what the builder fuses and so the numbers"
UNFUSED = "taps are tensors that survived fusion, looked at without marking them"


class TrtRunner(Runner):
    """Drives an engine: caches stay on the device, in two sets that are swapped, and nothing is allocated per chunk."""

    name = "trt"
    settings_known: ClassVar[Mapping[str, str]] = {
        "runtime": "tensorrt or tensorrt_rtx; default: the one that the engine was built by, else the one installed",
        "device": "pycuda or cuda-python; default: pycuda where it can be imported",
        "cuda_graph": "1 records each kind of step as a CUDA graph and replays it; default 0",
        "runtime_cache": "file for the kernels that TensorRT-RTX compiles, read and written; default none",
    }

    @classmethod
    def open(cls, model: Path, options: RunnerOptions) -> TrtRunner:
        """Load ``encoder.engine`` (or a folder that has one), and ``decoder_joint.engine`` beside it.

        Where taps are wanted and ``build --taps`` has made an engine with them marked, it is that one which is opened.
        """
        path = engine_path(model)
        decoder = beside(path, "decoder_joint")
        settings = options.settings
        if settings.get("cuda_graph", "0") not in ("0", "1"):
            raise StreamparityError(f"cuda_graph={settings['cuda_graph']} is unknown", "use 0 or 1")
        admitted = admit(path, settings, options.streaming)
        if options.taps and marked_engine(path).is_file():
            path, plain = marked_engine(path), admitted
            admitted = admit(path, settings, options.streaming)
            _check_pair(path, plain, admitted)
        if admitted.metadata is not None:
            encoder_plan(admitted.metadata)  # refuse what could not be fed back before there is a device
        decoding = None if decoder is None else admit(decoder, settings, None)
        device = open_device(settings.get("device"))
        try:
            runner = cls(path, admitted, device, options)
            if decoder is not None and decoding is not None:
                runner.transducer = TrtTransducer(decoder, decoding, device)
            return runner
        except BaseException:
            device.close()
            raise

    def __init__(self, path: Path, admitted: Admitted, device: Device, options: RunnerOptions) -> None:
        super().__init__()
        engine, metadata = opened(path, admitted, device)
        self.bakes_drop = True
        self.notes = list(admitted.notes)
        self.model_sha256 = None if metadata.model is None else metadata.model["sha256"]
        self.arithmetic = None if metadata.precision is None else ARITHMETIC[metadata.precision]
        self.math = {"tf32": metadata.tf32 if metadata.precision else None, "precision": metadata.precision}
        self.math |= {"runtime": f"{admitted.module.name} {admitted.module.version}", **device.describe()}
        self._device, self._engine = device, engine
        self._plan = encoder_plan(metadata)
        cache = options.settings.get("runtime_cache")
        self._runtime_cache = None if cache is None else Path(cache)
        self._execution = engine.execution(self._runtime_cache)
        self._session = Session(self._plan, device, self._execution, options.settings.get("cuda_graph") == "1")
        self._looks = self._choose_taps(metadata, options)

    def _choose_taps(self, metadata: EngineMetadata, options: RunnerOptions) -> dict[str, str]:
        """Which tensor to look at for each tap that is not marked; those that cannot be had become unmatched."""
        looks = {}
        for label in options.taps:
            if label in metadata.taps:
                self.marking = MARKED
            elif label in metadata.debug:
                looks[label] = metadata.debug[label]
            else:
                self.unmatched[label] = "the engine was built without it: streamparity build --taps"
        if PREDICTION in options.decoder_taps:
            self.unmatched[PREDICTION] = "an engine of a decoder_joint returns its outputs alone"
        self._returned = [name for name in self._plan.returned if name not in metadata.taps]
        self._returned += [label for label in options.taps if label in metadata.taps]
        self._marked = set(metadata.taps)
        if looks:
            if options.settings.get("cuda_graph") == "1":
                raise StreamparityError(
                    "a replayed CUDA graph shows no inner tensors",
                    "leave out -o cuda_graph=1, or mark the taps: build --taps",
                )
            self.notes.append(UNFUSED)
            self._execution.look()
        return looks

    def set_caches(self, caches: Mapping[str, Array]) -> None:
        """Copy ``caches`` to the device for the next step."""
        self._session.set_caches(caches)

    def step(self, chunk: StepInput) -> dict[str, Array]:
        """One step on the device, then copies of what is compared.

        Raises:
            StreamparityError: a chunk outside every profile, or too little memory.
        """
        started = time.perf_counter()
        self._execution.looked_at.clear()
        self._session.enqueue({"audio_signal": chunk.audio_signal, "length": chunk.length})
        self._device.synchronise()
        self.backend_ms = (time.perf_counter() - started) * 1000
        arrays = self._session.fetch(self._returned)
        tensors = {f"{'tap' if name in self._marked else 'out'}/{name}": array for name, array in arrays.items()}
        # A tensor that did not survive fusion is not there: the comparison says which taps it missed.
        seen = self._execution.looked_at
        tensors |= {f"tap/{label}": seen[tensor] for label, tensor in self._looks.items() if tensor in seen}
        return tensors

    @classmethod
    def layers(cls, model: Path) -> Sequence[str]:
        """Layers of the graph that the engine was built from."""
        return layers_of(source_of(engine_path(model))[0])

    @classmethod
    def pinned(cls, model: Path, pins: Sequence[str], folder: Path) -> Path:
        """Another engine from the same graph, with more layers in float32."""
        return rebuilt(engine_path(model), pins, folder)

    def close(self) -> None:
        """Write the runtime cache, and release the device."""
        try:
            if self._runtime_cache is not None:
                self._execution.save_runtime_cache(self._runtime_cache)
        finally:
            # Contexts and engines go before the device that they are on.
            self.transducer = None
            del self._session, self._execution, self._engine
            self._device.close()


def _check_pair(path: Path, plain: Admitted, marked: Admitted) -> None:
    """Refuse an engine with taps marked that was built otherwise than the one it stands for."""
    if plain.metadata is None or marked.metadata is None:
        return
    other = built_otherwise(plain.metadata, marked.metadata)
    if other:
        raise StreamparityError(
            f"{path.name} was built otherwise than the engine that it shows the taps of: {', '.join(other)}",
            "build both anew: streamparity build --taps GLOB --force",
        )


def engine_path(model: Path) -> Path:
    """The encoder's engine in a folder, or the engine itself."""
    return model / "encoder.engine" if model.is_dir() else model


def opened(path: Path, admitted: Admitted, device: Device) -> tuple[Engine, EngineMetadata]:
    """An engine on a device, and what is known of it.

    Raises:
        Stateless: it has no caches, which only the engine itself could say.
        StreamparityError: it cannot be opened here, or is not what is written beside it.
    """
    written = admitted.metadata
    engine = Engine(admitted.module, path, device, () if written is None else written.targets)
    read = engine.metadata()
    if written is None:
        missing = stateless_ports(read)
        if missing:
            raise Stateless(f"{path} cannot stream: it has no {', '.join(missing)}", STATELESS_HINT)
        return engine, read
    wrong = differences(written, read)
    if wrong:
        raise StreamparityError(
            f"{path.name} is not what is written beside it: {first_of(wrong)}",
            "build the engine again",
        )
    return engine, written


class TrtTransducer:
    """A ``decoder_joint`` engine: predictor and joint in one."""

    def __init__(self, path: Path, admitted: Admitted, device: Device) -> None:
        self._engine, metadata = opened(path, admitted, device)
        self.arithmetic = None if metadata.precision is None else ARITHMETIC[metadata.precision]
        self._plan: Plan = decoder_plan(metadata)
        self._session = Session(self._plan, device, self._engine.execution())
        shapes = metadata.profiles[0].shapes
        self._states = tuple(
            np.zeros(shapes[name][0], self._plan.fed[name].dtype) for name in ("input_states_1", "input_states_2")
        )

    def initial_state(self) -> State:
        """Zeros ``[L, 1, H]`` for each state tensor."""
        return tuple(state.copy() for state in self._states)

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        """One step for one frame and label."""
        self._session.enqueue(
            {
                "encoder_outputs": frame.reshape(1, -1, 1),
                "targets": np.array([[label]]),
                "target_length": np.array([1]),
                "input_states_1": state[0],
                "input_states_2": state[1],
            }
        )
        found = self._session.fetch(["outputs", "output_states_1", "output_states_2"])
        return TransducerStep(
            found["outputs"].reshape(-1), (found["output_states_1"], found["output_states_2"]), prediction=None
        )
