"""The reference loop: one chunk at a time through ``conformer_stream_step``, everything recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dump.decoder import decoder_tensors
from ..dump.manifest import Decoder
from ..dump.trace import Trace, emitted, log_probabilities
from ..schedule import Chunk
from ..tensors import (
    CACHE_FEEDBACK,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    Array,
    TensorSpec,
)
from .decoding import PREFIX, decoding_state, prepare_decoding, restore_hypothesis
from .encoder import initial_caches, step_arguments, step_outputs, to_numpy
from .features import FeatureStream
from .taps import PREPROCESSOR, DecoderTaps, EncoderTaps, tap_spec, wrapped


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
    trace: list[dict[str, Any]]


class ReferenceStreamer:
    """Runs a NeMo model over a feature stream.

    Args:
        module: the NeMo model, set up to stream.
        decoder: what decodes its frames; ``None`` or CTC leaves decoding untapped.
        encoder_taps: encoder module paths to record.
        other_taps: ``preprocessor``, ``decoder.prediction*``, ``joint``.
    """

    def __init__(
        self,
        module: Any,
        decoder: Decoder | None,
        encoder_taps: Sequence[str] = (),
        other_taps: Sequence[str] = (),
    ) -> None:
        self._module = module
        self._decoder = decoder if decoder is not None and decoder.kind in ("rnnt", "tdt") else None
        self._encoder_taps = EncoderTaps(module, encoder_taps)
        self._decoder_taps = DecoderTaps(module) if self._decoder is not None else None
        self._other_taps = other_taps
        self._dtype = next(module.encoder.parameters()).dtype
        self._caches = initial_caches(module, self._dtype)
        self._hypotheses: Any = None
        self._trace = Trace(self._decoder) if self._decoder is not None else None
        self.tokens: list[int] = []
        if self._decoder is not None:
            prepare_decoding(module)
            self._no_rows = _no_rows(module)

    @property
    def repeated_taps(self) -> set[str]:
        """Taps that are not recorded because their module is called more than once in a step."""
        return self._encoder_taps.repeated

    def resume(self, last: Mapping[str, Array], tokens: Sequence[int]) -> None:
        """Take up the state in which an earlier run left ``last``, the tensors of its last whole chunk."""
        self._caches = {taken: last[f"out/{given}"] for given, taken in CACHE_FEEDBACK.items()}
        self.tokens = list(tokens)
        if self._trace is not None:
            self._hypotheses = [restore_hypothesis(last, self.tokens, self._module.device)]
            self._trace.skipped = int(last[f"{PREFIX}skipped"][0])

    def run(self, features: FeatureStream, chunks: Iterator[Chunk]) -> Iterator[ReferenceChunk]:
        """Stream the chunks, yielding each as it is done."""
        import torch

        encoded: list[Any] = []
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(self._encoder_taps.recording())
            stack.enter_context(wrapped(self._module.encoder, "cache_aware_stream_step", encoded.append))
            if self._decoder_taps is not None:
                stack.enter_context(self._decoder_taps.recording())
            for chunk in chunks:
                yield self._step(chunk, features, encoded)

    def _step(self, chunk: Chunk, features: FeatureStream, encoded: list[Any]) -> ReferenceChunk:
        known = features.frames(chunk.history, chunk.stop)
        signal = np.pad(known, ((0, 0), (0, 0), (chunk.zeros, 0)))
        inputs = {"audio_signal": signal, "length": np.array([signal.shape[2]], np.int64), **self._caches}
        first = self._hypotheses is None
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
        trace = self._decoding(chunk, int(outputs["encoded_lengths"][0]), first, record)
        self._caches = {taken: outputs[given] for given, taken in CACHE_FEEDBACK.items()}
        return ReferenceChunk(record.tensors, record.specs, trace)

    def _decoding(self, chunk: Chunk, frames: int, first: bool, record: _Record) -> list[dict[str, Any]]:
        taps, decoder = self._decoder_taps, self._decoder
        if taps is None or decoder is None or self._trace is None:
            return []
        width = decoder.blank_id + 1 + len(decoder.durations)
        kind = np.float64 if str(self._dtype) == "torch.float64" else np.float32
        logits = np.array([to_numpy(row).reshape(-1) for row in taps.logits], kind).reshape(-1, width)
        lines = self._trace.chunk(chunk.index, frames, logits)
        labels = emitted(lines, decoder)
        self.tokens += labels
        # Label looping also predicts once for a hypothesis that has ended and throws the result away; it comes last.
        consumed = len(labels) + int(first)
        for tensor in decoder_tensors(
            log_probabilities(logits, decoder),
            _rows([prediction.reshape(-1) for prediction in taps.predictions[:consumed]], self._no_rows[0]),
            [
                _rows([state[part] for state in taps.states[:consumed]], empty)
                for part, empty in enumerate(self._no_rows[1:])
            ],
        ):
            if tensor[0].label in self._other_taps:
                record.add(*tensor)
        taps.clear()
        state = self._hypotheses[0].dec_state
        record.tensors.update(decoding_state(state, self._trace.skipped))
        return lines


def _rows(calls: Sequence[Any], empty: Array) -> Array:
    """Stack the calls of one chunk; ``empty`` has the shape and type of none."""
    return np.stack([to_numpy(call) for call in calls]) if calls else empty


def _no_rows(module: Any) -> list[Array]:
    """Prediction ``[0, H]`` and state tensors ``[0, L, B, H]`` of a chunk in which the predictor is not called."""
    import torch

    with torch.inference_mode():
        prediction, state, *_ = module.decoder.predict(None, None, add_sos=False, batch_size=1)
    parts = state if isinstance(state, list | tuple) else [state]
    return [to_numpy(part)[None][:0] for part in (prediction.reshape(-1), *parts)]


class _Record:
    """Tensors and their descriptions, in the order in which they were added."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.specs: list[TensorSpec] = []

    def add(self, spec: TensorSpec, tensor: Array) -> None:
        self.tensors[spec.name] = tensor
        self.specs.append(spec)
