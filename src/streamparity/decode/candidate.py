"""Decoding a candidate's chunks as they come, and describing what that computed as the reference's dump has it."""

from __future__ import annotations

from ..dump.decoder import ctc_tensors, decoder_tensors
from ..dump.manifest import Decoder
from ..dump.trace import Line, log_probabilities
from ..runners import CtcHead, Runner, Transducer
from ..tensors import Array, TensorSpec
from .ctc import CtcDecoder
from .greedy import GreedyDecoder

Head = Transducer | CtcHead


def head_of(runner: Runner, rules: Decoder | None) -> Head | None:
    """The head of a model that decodes by ``rules``, ``None`` where it has none or the rules are not known."""
    if rules is None:
        return None
    return runner.ctc if rules.kind == "ctc" else runner.transducer


def arithmetic_of(head: Head | None) -> str | None:
    """What a head computes in, whatever its encoder does; ``None`` where it does not say."""
    return getattr(head, "arithmetic", None)


def decoder_for(head: Head, rules: Decoder) -> GreedyDecoder | CtcDecoder:
    """A greedy decoder at the start of an utterance."""
    if rules.kind == "ctc":
        return CtcDecoder(head, rules)  # type: ignore[arg-type]  # head_of chose it by the kind
    return GreedyDecoder(head, rules)  # type: ignore[arg-type]


class CandidateDecoder:
    """Decodes a candidate's chunks.

    Args:
        head: predictor and joint, or the CTC head, under test.
        rules: the reference's decoding rules.

    Attributes:
        labels: every label emitted so far.
    """

    def __init__(self, head: Head, rules: Decoder) -> None:
        self._rules = rules
        self._greedy = decoder_for(head, rules)
        self.labels: list[int] = []

    def chunk(self, tensors: dict[str, Array]) -> tuple[list[tuple[TensorSpec, Array]], list[Line]]:
        """Decode the valid encoder frames of one chunk (batch size 1).

        Returns:
            Decoder tensors with their descriptions, and the trace.

        Raises:
            StepFailed: as :meth:`GreedyDecoder.chunk`.
        """
        done = self._greedy.chunk(valid_frames(tensors))
        self.labels += done.labels
        log_probs = log_probabilities(done.logits, self._rules)
        if self._rules.kind == "ctc":
            return ctc_tensors(log_probs), done.lines
        return decoder_tensors(log_probs, done.predictions, done.states), done.lines


def valid_frames(tensors: dict[str, Array]) -> Array:
    """Encoder frames ``[T, D]`` of a chunk's tensors, batch size 1."""
    count = max(0, int(tensors["out/encoded_lengths"].reshape(-1)[0]))
    frames: Array = tensors["out/outputs"][0, :, :count].T
    return frames
