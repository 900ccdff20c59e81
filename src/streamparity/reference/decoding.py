"""How NeMo decodes: what it calls, recorded chunk by chunk as tensors and a trace, and its state between chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..dump.decoder import ctc_tensors, decoder_tensors
from ..dump.manifest import Decoder
from ..dump.trace import Line, Trace, ctc_lines, emitted, log_probabilities, state_hash
from ..errors import StreamparityError
from ..tensors import Array, TensorSpec
from .encoder import to_numpy
from .nemo import ctc_head
from .taps import DecoderTaps

PREFIX = "state/"


@dataclass(frozen=True)
class Decoded:
    """What NeMo's decoding made of one chunk.

    Attributes:
        lines: the trace.
        labels: labels emitted.
        tensors: of the decoder, described.
        state: what the next chunk starts from, as ``state/`` tensors.
    """

    lines: list[Line]
    labels: list[int]
    tensors: list[tuple[TensorSpec, Array]]
    state: dict[str, Array]


class DecodingLog(Protocol):
    """Records how NeMo decodes."""

    def recording(self) -> Any:
        """A context in which what NeMo calls is recorded."""

    def take(self, index: int, frames: int, hypotheses: Any) -> Decoded:
        """What was recorded since the last call: one chunk with so many encoder frames."""

    def resume(self, last: Mapping[str, Array], tokens: Sequence[int]) -> Any:
        """Take up the ``state/`` tensors of an earlier run; the hypotheses to hand to NeMo."""


def decoding_log(module: Any, decoder: Decoder | None) -> DecodingLog | None:
    """The log that fits the head that decodes.

    Raises:
        StreamparityError: the model decodes in a way that cannot be traced.
    """
    if decoder is None:
        return None
    return CtcLog(module, decoder) if decoder.kind == "ctc" else TransducerLog(module, decoder)


class TransducerLog:
    """Label looping: every call of predictor and joint.

    Args:
        module: the NeMo model.
        decoder: blank, durations, ``max_symbols``.
    """

    def __init__(self, module: Any, decoder: Decoder) -> None:
        prepare_decoding(module)
        self._module, self._decoder = module, decoder
        self._taps, self._trace = DecoderTaps(module), Trace(decoder)
        self._no_rows = _no_rows(module)
        # Name of the predictor's state; before the first chunk there is none yet.
        self._state: str | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """As :meth:`DecodingLog.recording`."""
        with self._taps.recording():
            yield

    def resume(self, last: Mapping[str, Array], tokens: Sequence[int]) -> Any:
        """As :meth:`DecodingLog.resume`."""
        self._trace.skipped = int(last[f"{PREFIX}skipped"][0])
        self._state = state_hash([part.numpy() for part in _predictor_state(last)])
        return [restore_hypothesis(last, tokens, self._module.device)]

    def take(self, index: int, frames: int, hypotheses: Any) -> Decoded:
        """As :meth:`DecodingLog.take`."""
        taps, decoder = self._taps, self._decoder
        width = decoder.labels + len(decoder.durations)
        rows_of = [to_numpy(row).reshape(-1) for row in taps.logits]
        kind = np.float64 if rows_of and rows_of[0].dtype == np.float64 else np.float32
        logits = np.array(rows_of, kind).reshape(-1, width)
        rows = [[to_numpy(part) for part in state] for state in taps.states]
        known = [] if self._state is None else [self._state]
        lines = self._trace.chunk(index, frames, logits, [*known, *map(state_hash, rows)])
        labels = emitted(lines, decoder)
        # Label looping also predicts once for a hypothesis that has ended and throws the result away; it comes last.
        consumed = len(labels) + (self._state is None)
        if consumed:
            self._state = state_hash(rows[consumed - 1])
        tensors = decoder_tensors(
            log_probabilities(logits, decoder),
            _rows([to_numpy(prediction).reshape(-1) for prediction in taps.predictions[:consumed]], self._no_rows[0]),
            [_rows([state[part] for state in rows[:consumed]], empty) for part, empty in enumerate(self._no_rows[1:])],
        )
        taps.clear()
        return Decoded(lines, labels, tensors, decoding_state(hypotheses[0].dec_state, self._trace.skipped))


class CtcLog:
    """CTC: the scores of the head, frame by frame.

    Args:
        module: the NeMo model.
        decoder: blank and vocabulary.
    """

    def __init__(self, module: Any, decoder: Decoder) -> None:
        self._head, self._decoder = ctc_head(module), decoder
        self._scores: list[Any] = []
        self._previous = decoder.blank_id

    @contextmanager
    def recording(self) -> Iterator[None]:
        """As :meth:`DecodingLog.recording`."""
        assert self._head is not None
        hook = self._head.register_forward_hook(lambda _module, _inputs, output: self._scores.append(output))
        try:
            yield
        finally:
            hook.remove()

    def resume(self, last: Mapping[str, Array], tokens: Sequence[int]) -> Any:
        """As :meth:`DecodingLog.resume`."""
        self._previous = int(last[f"{PREFIX}previous"][0])
        return None

    def take(self, index: int, frames: int, hypotheses: Any) -> Decoded:
        """As :meth:`DecodingLog.take`."""
        scores = to_numpy(self._scores.pop())[0, :frames]
        lines = ctc_lines(self._decoder, index, scores, self._previous)
        if lines:
            self._previous = lines[-1]["label"]
        state = {f"{PREFIX}previous": np.array([self._previous], np.int64)}
        tensors = ctc_tensors(log_probabilities(scores, self._decoder))
        return Decoded(lines, emitted(lines, self._decoder), tensors, state)


def _rows(calls: Sequence[Array], empty: Array) -> Array:
    """Stack the calls of one chunk; ``empty`` has the shape and type of none."""
    return np.stack(calls) if calls else empty


def _no_rows(module: Any) -> list[Array]:
    """Prediction ``[0, H]`` and state tensors ``[0, L, B, H]`` of a chunk in which the predictor is not called."""
    import torch

    with torch.inference_mode():
        prediction, state, *_ = module.decoder.predict(None, None, add_sos=False, batch_size=1)
    parts = state if isinstance(state, list | tuple) else [state]
    return [to_numpy(part)[None][:0] for part in (prediction.reshape(-1), *parts)]


def prepare_decoding(module: Any) -> None:
    """Make the model decode by label looping, without CUDA graphs, so that the wrapped methods are called.

    Raises:
        StreamparityError: the model decodes in another way.
    """
    decoding = module.decoding.decoding
    computer = getattr(decoding, "decoding_computer", None)
    if computer is None:
        raise StreamparityError(
            f"the model decodes with {type(decoding).__name__}, which carries no label-looping state",
            "set decoding.strategy to greedy_batch in the model's configuration",
        )
    decoding.disable_cuda_graphs()


def decoding_state(item: Any, skipped: int) -> dict[str, Array]:
    """A ``LabelLoopingStateItem`` as arrays, with the frames that a TDT duration jumped over."""
    parts = item.predictor_state if isinstance(item.predictor_state, list | tuple) else [item.predictor_state]
    arrays = {f"{PREFIX}predictor_state_{number}": to_numpy(part) for number, part in enumerate(parts, start=1)}
    arrays[f"{PREFIX}predictor_output"] = to_numpy(item.predictor_output)
    arrays[f"{PREFIX}label"] = to_numpy(item.label)
    arrays[f"{PREFIX}decoded_length"] = to_numpy(item.decoded_length)
    if item.time_jump is not None:
        arrays[f"{PREFIX}time_jump"] = to_numpy(item.time_jump)
    arrays[f"{PREFIX}skipped"] = np.array([skipped], np.int64)
    return arrays


def restore_hypothesis(arrays: Mapping[str, Array], tokens: Sequence[int], device: Any) -> Any:
    """The hypothesis that NeMo's loop would hold after the chunk that ``arrays`` come from."""
    import torch
    from nemo.collections.asr.parts.submodules.transducer_decoding.label_looping_base import LabelLoopingStateItem
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

    def tensor(name: str) -> Any:
        return torch.from_numpy(arrays[f"{PREFIX}{name}"].copy()).to(device)

    item = LabelLoopingStateItem(
        predictor_state=tuple(part.to(device) for part in _predictor_state(arrays)),
        predictor_output=tensor("predictor_output"),
        label=tensor("label"),
        decoded_length=tensor("decoded_length"),
        time_jump=tensor("time_jump") if f"{PREFIX}time_jump" in arrays else None,
    )
    sequence = torch.tensor(list(tokens), dtype=torch.long)
    return Hypothesis(
        score=0.0, y_sequence=sequence, timestamp=torch.zeros(len(tokens), dtype=torch.long), dec_state=item
    )


def _predictor_state(arrays: Mapping[str, Array]) -> list[Any]:
    """The predictor's state tensors among ``state/`` tensors."""
    import torch

    parts: list[Any] = []
    while (name := f"{PREFIX}predictor_state_{len(parts) + 1}") in arrays:
        parts.append(torch.from_numpy(arrays[name].copy()))
    return parts
