"""Greedy transducer decoding over any model that can evaluate one (frame, label, state).

The rules, which a port in another language can follow line by line:

1. A stream begins with the blank as start-of-sequence label and a zero state.
2. The joint scores one encoder frame against the prediction for the last label.
3. Blank: go to the next frame; label and state stay.
4. A label: emit it, make it the last label and the predictor's new state the state; stay on the frame, at most
   ``max_symbols`` times.
5. Last label, state and prediction carry over to the next chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dump.decoder import decoder_tensors
from ..dump.manifest import Decoder
from ..dump.trace import log_probabilities
from ..errors import StepFailed
from ..runners import Transducer, TransducerStep
from ..tensors import Array, TensorSpec

# A port that never emits blank must not hang the loop where the model itself sets no limit.
MOST_SYMBOLS = 1000


@dataclass(frozen=True)
class ChunkDecisions:
    """What decoding one chunk computed, in the order of computation.

    Attributes:
        logits: ``[S, V + 1]``, one row per evaluation of the joint.
        predictions: ``[P, H]``, one row per label consumed by the predictor; ``None`` if the model hides it.
        states: per state tensor ``[P, L, B, H]``, after each label consumed.
        labels: labels emitted.
    """

    logits: Array
    predictions: Array | None
    states: tuple[Array, ...]
    labels: list[int]


class GreedyDecoder:
    """Decodes a stream chunk by chunk, RNN-T rules.

    Args:
        transducer: the model.
        decoder: blank and ``max_symbols``.
    """

    def __init__(self, transducer: Transducer, decoder: Decoder) -> None:
        self._transducer = transducer
        self._decoder = decoder
        self._label = decoder.blank_id
        self._state = transducer.initial_state()
        # Whether the predictor has consumed the last label yet: it does so when a frame is first scored against it.
        self._pending = True
        self._no_predictions: Array | None = None

    def chunk(self, frames: Array) -> ChunkDecisions:
        """Decode encoder frames ``[T, D]``.

        Raises:
            StepFailed: the model could not run, or emits labels without end.
        """
        logits: list[Array] = []
        consumed: list[TransducerStep] = []
        labels: list[int] = []
        for frame in frames:
            emitted = 0
            while True:
                step = self._evaluate(frame, consumed)
                logits.append(step.logits)
                best = int(np.argmax(step.logits))
                if best == self._decoder.blank_id:
                    break
                labels.append(best)
                self._label, self._state, self._pending = best, step.state, True
                emitted += 1
                if emitted == self._decoder.max_symbols:
                    break
                if emitted == MOST_SYMBOLS:
                    raise StepFailed(f"decoding emitted {MOST_SYMBOLS} labels on one frame and never a blank", "joint")
        if self._pending and len(frames):
            # NeMo's predictor consumes a label as soon as it is emitted, also when no frame is left to score.
            self._evaluate(frames[-1], consumed)
        return ChunkDecisions(
            logits=np.stack(logits) if logits else np.zeros((0, self._decoder.blank_id + 1), np.float32),
            predictions=self._predictions(consumed),
            states=tuple(
                np.stack([step.state[part] for step in consumed])
                if consumed
                else np.zeros((0, *initial.shape), initial.dtype)
                for part, initial in enumerate(self._state)
            ),
            labels=labels,
        )

    def _evaluate(self, frame: Array, consumed: list[TransducerStep]) -> TransducerStep:
        step = self._transducer.step(frame, self._label, self._state)
        if self._pending:
            consumed.append(step)
            self._pending = False
        return step

    def _predictions(self, consumed: list[TransducerStep]) -> Array | None:
        rows = [step.prediction for step in consumed if step.prediction is not None]
        if rows:
            self._no_predictions = np.zeros((0, *rows[0].shape), rows[0].dtype)
            return np.stack(rows)
        return self._no_predictions


class CandidateDecoder:
    """Decodes a candidate's chunks and describes what that computed, as the reference's dump has it.

    Args:
        transducer: the predictor and joint under test.
        decoder: the reference's decoding rules.

    Attributes:
        labels: every label emitted so far.
    """

    def __init__(self, transducer: Transducer, decoder: Decoder) -> None:
        self._decoder = decoder
        self._greedy = GreedyDecoder(transducer, decoder)
        self.labels: list[int] = []

    def chunk(self, tensors: dict[str, Array]) -> list[tuple[TensorSpec, Array]]:
        """Decode the valid encoder frames of one chunk (batch size 1); decoder tensors with their descriptions.

        Raises:
            StepFailed: as :meth:`GreedyDecoder.chunk`.
        """
        count = max(0, int(tensors["out/encoded_lengths"].reshape(-1)[0]))
        decisions = self._greedy.chunk(tensors["out/outputs"][0, :, :count].T)
        self.labels += decisions.labels
        log_probs = log_probabilities(decisions.logits, self._decoder)
        return decoder_tensors(log_probs, decisions.predictions, decisions.states)
