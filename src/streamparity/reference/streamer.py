"""The reference loop: one chunk at a time through ``conformer_stream_step``, everything recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dump.manifest import Decoder
from ..dump.trace import Line
from ..schedule import Chunk
from ..tensors import (
    CACHE_FEEDBACK,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    Array,
    TensorSpec,
)
from .decoding import decoding_log
from .encoder import initial_caches, step_arguments, step_outputs, to_numpy
from .features import FeatureStream
from .taps import PREPROCESSOR, EncoderTaps, tap_spec, wrapped


@dataclass
class ReferenceChunk:
    """Everything one chunk produced.

    Attributes:
        tensors: by key of the chunk file.
        specs: their descriptions, in forward order.
        trace: decoding steps.
    """

    tensors: dict[str, Array]
    specs: list[TensorSpec]
    trace: list[Line]


class ReferenceStreamer:
    """Runs a NeMo model over a feature stream.

    Args:
        module: the NeMo model, set up to stream.
        decoder: what decodes its frames; ``None`` leaves decoding untapped.
        encoder_taps: encoder module paths to record.
        other_taps: ``preprocessor``, ``decoder.prediction*``, ``joint``, ``ctc_decoder``.
    """

    def __init__(
        self,
        module: Any,
        decoder: Decoder | None,
        encoder_taps: Sequence[str] = (),
        other_taps: Sequence[str] = (),
    ) -> None:
        self._module = module
        self._encoder_taps = EncoderTaps(module, encoder_taps)
        self._other_taps = other_taps
        self._dtype = next(module.encoder.parameters()).dtype
        self._caches = initial_caches(module, self._dtype)
        self._hypotheses: Any = None
        self._decoding = decoding_log(module, decoder)
        self.tokens: list[int] = []

    @property
    def repeated_taps(self) -> set[str]:
        """Taps that are not recorded because their module is called more than once in a step."""
        return self._encoder_taps.repeated

    def resume(self, last: Mapping[str, Array], tokens: Sequence[int]) -> None:
        """Take up the state in which an earlier run left ``last``, the tensors of its last whole chunk."""
        self._caches = {taken: last[f"out/{given}"] for given, taken in CACHE_FEEDBACK.items()}
        self.tokens = list(tokens)
        if self._decoding is not None:
            self._hypotheses = self._decoding.resume(last, self.tokens)

    def run(self, features: FeatureStream, chunks: Iterator[Chunk]) -> Iterator[ReferenceChunk]:
        """Stream the chunks, yielding each as it is done."""
        import torch

        encoded: list[Any] = []
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(self._encoder_taps.recording())
            stack.enter_context(wrapped(self._module.encoder, "cache_aware_stream_step", encoded.append))
            if self._decoding is not None:
                stack.enter_context(self._decoding.recording())
            for chunk in chunks:
                yield self._step(chunk, features, encoded)

    def _step(self, chunk: Chunk, features: FeatureStream, encoded: list[Any]) -> ReferenceChunk:
        known = features.frames(chunk.history, chunk.stop)
        signal = np.pad(known, ((0, 0), (0, 0), (chunk.zeros, 0)))
        inputs = {"audio_signal": signal, "length": np.array([signal.shape[2]], np.int64), **self._caches}
        arguments = step_arguments(self._module, inputs, chunk.drop, chunk.last, self._dtype)
        returned = self._module.conformer_stream_step(
            **arguments, previous_hypotheses=self._hypotheses, return_transcription=True
        )
        self._hypotheses = returned[5]
        outputs = step_outputs(encoded.pop())

        record = _Record()
        for name, port in ENCODER_INPUTS.items():
            record.add(
                TensorSpec(f"in/{name}", port.kind, str(inputs[name].dtype), port.axes, port.valid), inputs[name]
            )
        if PREPROCESSOR in self._other_taps:
            fresh = known[:, :, chunk.start - chunk.history :]
            record.add(TensorSpec(f"tap/{PREPROCESSOR}", "input", str(fresh.dtype), ("B", "mel", "T")), fresh)
        for name, tensor in self._encoder_taps.take().items():
            array = to_numpy(tensor)
            record.add(tap_spec(name, array), array)
        for name, port in ENCODER_OUTPUTS.items():
            array = outputs[name]
            record.add(TensorSpec(f"out/{name}", port.kind, str(array.dtype), port.axes, port.valid), array)
        trace: list[Line] = []
        if self._decoding is not None:
            decoded = self._decoding.take(chunk.index, int(outputs["encoded_lengths"][0]), self._hypotheses)
            trace = decoded.lines
            self.tokens += decoded.labels
            for spec, tensor in decoded.tensors:
                if spec.label in self._other_taps:
                    record.add(spec, tensor)
            record.tensors.update(decoded.state)
        self._caches = {taken: outputs[given] for given, taken in CACHE_FEEDBACK.items()}
        return ReferenceChunk(record.tensors, record.specs, trace)


class _Record:
    """Tensors and their descriptions, in the order in which they were added."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.specs: list[TensorSpec] = []

    def add(self, spec: TensorSpec, tensor: Array) -> None:
        self.tensors[spec.name] = tensor
        self.specs.append(spec)
