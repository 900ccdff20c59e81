"""The trace: every decision of greedy decoding, one line per evaluation of the joint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tensors import Array
from .manifest import Decoder


def log_probabilities(logits: Array, decoder: Decoder) -> Array:
    """Log-softmax over the labels and, for TDT, over the durations on their own.

    NeMo's joint log-softmaxes on a CPU, not on a GPU and not in an export (``joint.log_softmax: null``). Applying it
    again changes nothing, so this makes all of them comparable.

    Args:
        logits: ``[S, V + 1 (+ durations)]``, raw or log-softmaxed over the labels.
        decoder: kind, blank and durations.

    Returns:
        The same shape, float32, or float64 where ``logits`` are.
    """
    labels = decoder.blank_id + 1
    heads = [logits[:, :labels], logits[:, labels:]] if decoder.durations else [logits]
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    return np.concatenate([_log_softmax(head.astype(np.float64)) for head in heads], axis=1).astype(dtype)


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


class Trace:
    """Assigns every evaluation of the joint to its encoder frame, by the rules of greedy transducer decoding.

    A blank moves on by one frame (TDT: by the duration, at least one); a label stays on the frame until
    ``max_symbols`` labels were emitted there (TDT: moves on by its duration).

    Args:
        decoder: kind, blank, durations and ``max_symbols``.
        skipped: TDT only, frames of the next chunk that an earlier duration has jumped over.
    """

    def __init__(self, decoder: Decoder, skipped: int = 0) -> None:
        self._decoder = decoder
        self.skipped = skipped

    def chunk(self, index: int, frames: int, logits: Array) -> list[dict[str, Any]]:
        """Trace lines of one chunk.

        Args:
            index: the chunk.
            frames: encoder frames in it.
            logits: ``[S, V + 1 (+ durations)]``, the joint's outputs in the order they were computed.
        """
        decoder, frame, step = self._decoder, self.skipped, 0
        labels = decoder.blank_id + 1
        lines = []
        for scores in logits:
            top = _top_two(scores[:labels])
            label, duration = top[0]["label"], None
            if decoder.durations:
                duration = decoder.durations[int(np.argmax(scores[labels:]))]
            lines.append(
                {"chunk": index, "frame": frame, "step": step, "label": label, "duration": duration, "top": top}
            )
            advance = int(label == decoder.blank_id) if duration is None else duration
            if label == decoder.blank_id:
                advance = max(advance, 1)
            step += 1
            if advance == 0 and decoder.max_symbols is not None and step >= decoder.max_symbols:
                advance = 1
            if advance:
                frame, step = frame + advance, 0
        self.skipped = max(0, frame - frames)
        return lines


def emitted(lines: Sequence[dict[str, Any]], decoder: Decoder) -> list[int]:
    """Labels of a trace without the blanks."""
    return [line["label"] for line in lines if line["label"] != decoder.blank_id]


def _top_two(scores: Array) -> list[dict[str, Any]]:
    best = int(np.argmax(scores))
    others = np.delete(np.arange(scores.size), best)
    second = int(others[np.argmax(scores[others])])
    # JSON has no NaN: a logit that is none of the numbers is written as null.
    return [
        {"label": label, "logit": float(scores[label]) if np.isfinite(scores[label]) else None}
        for label in (best, second)
    ]
