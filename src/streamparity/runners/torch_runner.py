"""PyTorch: a ``.nemo`` model again, so that dtype, device, ``torch.compile`` or a NeMo version can be checked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import StepFailed, StreamparityError, first_line
from ..graph.weight import Weight
from ..reference.encoder import step_arguments, step_outputs, to_numpy
from ..reference.nemo import StreamingOptions, configure_streaming, ctc_head, import_torch, load_model
from ..reference.taps import EncoderTaps
from ..schedule import StreamingConfig
from ..tensors import CACHE_FEEDBACK, Array
from .base import Runner, RunnerOptions, StepInput
from .piece import Piece
from .torch_decoder import TorchCtc, TorchTransducer
from .torch_pieces import decoder_piece, submodule_piece
from .transducer import TransducerCall

DTYPES = ("float32", "float64", "float16", "bfloat16")


class TorchRunner(Runner):
    """Runs the encoder's ``cache_aware_stream_step`` and the decoder's own ``predict`` and ``joint``."""

    name = "torch"
    settings_known: ClassVar[Mapping[str, str]] = {
        "device": "torch device; default cpu",
        "dtype": f"{', '.join(DTYPES)}; default float32",
        "compile": "true to run the encoder through torch.compile; default false",
    }

    isolates = True

    @classmethod
    def open(cls, model: Path, options: RunnerOptions) -> TorchRunner:
        """Restore a ``.nemo`` file and set it up to stream as the reference did."""
        return cls(model, options)

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        super().__init__()
        torch = import_torch()
        settings = options.settings
        dtype = settings.get("dtype", "float32")
        if dtype not in DTYPES:
            raise StreamparityError(f"dtype={dtype} is unknown", f"use one of {', '.join(DTYPES)}")
        if settings.get("compile", "false") not in ("true", "false"):
            raise StreamparityError(f"compile={settings['compile']} is neither true nor false", "use compile=true")
        loaded = load_model(str(path), settings.get("device", "cpu"))
        self.model_sha256 = loaded.sha256
        self.threads = torch.get_num_threads()
        self.math = {"tf32": bool(torch.backends.cuda.matmul.allow_tf32), "dtype": dtype}
        self.arithmetic = dtype
        self._dtype = getattr(torch, dtype)
        self._module = loaded.module.to(self._dtype)
        if options.streaming is not None:
            match_streaming(self._module, options.streaming)
        known = {f"encoder.{name}" for name, _ in self._module.encoder.named_modules()}
        self.unmatched = {tap: "the model has no such module" for tap in options.taps if tap not in known}
        self._caches: dict[str, Array] = {}
        self._stack = ExitStack()
        self._taps = EncoderTaps(self._module, [tap for tap in options.taps if tap in known])
        self._stack.enter_context(self._taps.recording())
        self._encode = self._module.encoder.cache_aware_stream_step
        if settings.get("compile") == "true":
            self._encode = torch.compile(self._encode)
        if hasattr(self._module, "joint"):
            self.transducer = TorchTransducer(self._module, self._dtype)
        if (head := ctc_head(self._module)) is not None:
            self.ctc = TorchCtc(head, self._dtype)

    def set_caches(self, caches: Mapping[str, Array]) -> None:
        """Keep ``caches`` for the next step."""
        self._caches = {name: caches[name] for name in CACHE_FEEDBACK.values()}

    def step(self, chunk: StepInput) -> dict[str, Array]:
        """One ``cache_aware_stream_step``."""
        import torch

        inputs = {"audio_signal": chunk.audio_signal, "length": chunk.length, **self._caches}
        try:
            with torch.inference_mode():
                arguments = step_arguments(self._module, inputs, chunk.drop, chunk.last, self._dtype)
                started = time.perf_counter()
                returned = self._encode(**arguments)
                self.backend_ms = (time.perf_counter() - started) * 1000
        except Exception as error:  # whatever the model's code raises, the model could not run
            raise StepFailed(first_line(error)) from error
        outputs = step_outputs(returned)
        self._caches = {taken: outputs[given] for given, taken in CACHE_FEEDBACK.items()}
        tensors = {f"out/{name}": array for name, array in outputs.items()}
        tensors |= {f"tap/{name}": to_numpy(tensor) for name, tensor in self._taps.take().items()}
        return tensors

    def isolated_step(self, chunk: StepInput, forced: Mapping[str, Array]) -> dict[str, Array]:
        """One step in which every submodule hands on the reference's output after its own was recorded."""
        import torch

        given = {label: torch.from_numpy(np.ascontiguousarray(array)) for label, array in forced.items()}
        caches = self._caches
        with self._taps.forcing({label: t.to(self._module.device, self._dtype) for label, t in given.items()}):
            try:
                return self.step(chunk)
            finally:
                self._caches = caches

    def piece(self, label: str, chunk: StepInput, forced: Mapping[str, Array]) -> Piece:
        """The submodule, by torch.onnx, with what it is given in :meth:`isolated_step`."""
        return submodule_piece(self._module, label, lambda: self.isolated_step(chunk, forced))

    def decoder_piece(self, label: str, call: TransducerCall) -> Piece:
        """Predictor or joint, by torch.onnx."""
        return decoder_piece(self._module, label, call, self._dtype)

    def weights(self) -> Iterator[Weight]:
        """Every parameter and buffer."""
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point():
                yield Weight(name, to_numpy(tensor), name.rpartition(".")[0])

    def close(self) -> None:
        """Remove the hooks."""
        self._stack.close()


def match_streaming(module: Any, streaming: StreamingConfig) -> None:
    """Set a model up to stream exactly as a dump says its reference did.

    Raises:
        StreamparityError: this NeMo version or model derives another configuration from the same settings.
    """
    context, factor = streaming.att_context_size, streaming.subsampling_factor
    computed = 1 + (streaming.chunk_size[1] - streaming.sampling_frames[1]) // factor
    attempts = (
        StreamingOptions(context),
        StreamingOptions(context, cache_drop_size=streaming.cache_drop_size),
        StreamingOptions(context, computed, streaming.shift_size[1] // factor, streaming.cache_drop_size),
    )
    for options in attempts:
        own = configure_streaming(module, options)
        if own == streaming:
            return
    raise StreamparityError(
        f"the model streams as {own.to_json()} but the reference as {streaming.to_json()}",
        "use the model that the dump was made from",
    )
