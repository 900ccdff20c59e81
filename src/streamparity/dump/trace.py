"""The trace: every decision of greedy decoding, one line per evaluation of the joint (CTC: per frame)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tensors import Array
from .manifest import Decoder

Line = dict[str, Any]


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
    labels = decoder.labels
    heads = [logits[:, :labels], logits[:, labels:]] if decoder.durations else [logits]
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    return np.concatenate([_log_softmax(head.astype(np.float64)) for head in heads], axis=1).astype(dtype)


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def advance(decoder: Decoder, label: int, duration: int | None, step: int) -> int:
    """How many frames greedy transducer decoding moves on after a decision.

    RNN-T: one after a blank, none after a label. TDT: by the duration, whatever the label; a blank of duration 0 counts
    as 1. Nothing moves on for ever on the spot: after ``max_symbols`` labels on one frame it is one all the same.

    Args:
        decoder: kind, blank and ``max_symbols``.
        label: what was decided.
        duration: TDT only.
        step: evaluations of the joint on this frame so far, this one included.
    """
    blank = label == decoder.blank_id
    frames = int(blank) if duration is None else duration
    if blank:
        return max(frames, 1)
    if frames == 0 and decoder.max_symbols is not None and step >= decoder.max_symbols:
        return 1
    return frames


def decide(decoder: Decoder, scores: Array) -> tuple[int, int | None]:
    """Best label and, for TDT, best duration of one row ``[V + 1 (+ durations)]``; each head has its own argmax."""
    labels = decoder.labels
    duration = decoder.durations[int(np.argmax(scores[labels:]))] if decoder.durations else None
    return int(np.argmax(scores[:labels])), duration


def decision(decoder: Decoder, chunk: int, frame: int, step: int, scores: Array, **more: Any) -> Line:
    """One line of the trace.

    Args:
        decoder: kind, blank and durations.
        chunk: the chunk.
        frame: encoder frame in the chunk.
        step: labels emitted on this frame before.
        scores: ``[V + 1 (+ durations)]``, as the joint or the CTC head gave them.
        more: further columns: ``state`` (:func:`state_hash`), ``emit`` (CTC).
    """
    label, duration = decide(decoder, scores)
    tokens, jumps = scores[: decoder.labels], scores[decoder.labels :]
    line: Line = {"chunk": chunk, "frame": frame, "step": step, "label": label, "duration": duration}
    line["top"] = [{"label": place, "logit": number(tokens[place])} for place in top_two(tokens)]
    line["lse"] = number(_log_sum_exp(tokens))
    if decoder.durations:
        line["durations"] = [
            {"duration": decoder.durations[place], "logit": number(jumps[place])} for place in top_two(jumps)
        ]
        line["duration_lse"] = number(_log_sum_exp(jumps))
    return {**line, **more}


def state_hash(state: Sequence[Array]) -> str:
    """What a predictor state is called in a trace: 16 hex digits of the SHA-256 of its float32 bytes, part by part."""
    digest = hashlib.sha256()
    for part in state:
        digest.update(np.ascontiguousarray(part, "<f4").tobytes())
    return digest.hexdigest()[:16]


class Trace:
    """Assigns every evaluation of the joint to its encoder frame, by the rules of :func:`advance`.

    Args:
        decoder: kind, blank, durations and ``max_symbols``.
        skipped: TDT only, frames of the next chunk that an earlier duration has jumped over.
    """

    def __init__(self, decoder: Decoder, skipped: int = 0) -> None:
        self._decoder = decoder
        self.skipped = skipped

    def chunk(self, index: int, frames: int, logits: Array, states: Sequence[str]) -> list[Line]:
        """Trace lines of one chunk.

        Args:
            index: the chunk.
            frames: encoder frames in it.
            logits: ``[S, V + 1 (+ durations)]``, the joint's outputs in the order they were computed.
            states: names of the predictor's states: before the chunk's first label, after it, after the second...
        """
        decoder, frame, step, consumed = self._decoder, self.skipped, 0, 0
        lines = []
        for scores in logits:
            line = decision(decoder, index, frame, step, scores, state=states[consumed])
            lines.append(line)
            consumed += line["label"] != decoder.blank_id
            step += 1
            moved = advance(decoder, line["label"], line["duration"], step)
            if moved:
                frame, step = frame + moved, 0
        self.skipped = max(0, frame - frames)
        return lines


def ctc_lines(decoder: Decoder, index: int, scores: Array, previous: int) -> list[Line]:
    """Trace lines of one chunk of CTC.

    Args:
        decoder: blank and vocabulary.
        index: the chunk.
        scores: ``[T, V + 1]``, a row per encoder frame.
        previous: best label of the frame before the chunk; the blank at the start of a stream.
    """
    lines: list[Line] = []
    for frame, row in enumerate(scores):
        line = decision(decoder, index, frame, 0, row)
        # A label counts once for as long as it lasts, across chunks too; a blank ends it.
        line["emit"] = line["label"] not in (decoder.blank_id, previous)
        previous = line["label"]
        lines.append(line)
    return lines


def emitting(lines: Sequence[Line], decoder: Decoder) -> list[Line]:
    """The lines that emit their label: those without blank; for CTC those that say ``emit``."""
    if decoder.kind != "ctc":
        return [line for line in lines if line["label"] != decoder.blank_id]
    previous = [decoder.blank_id, *(line["label"] for line in lines)]
    return [
        line
        for line, before in zip(lines, previous, strict=False)
        if line.get("emit", line["label"] not in (decoder.blank_id, before))
    ]


def emitted(lines: Sequence[Line], decoder: Decoder) -> list[int]:
    """Labels of a trace that make the text."""
    return [line["label"] for line in emitting(lines, decoder)]


def top_two(scores: Array) -> list[int]:
    """Indices of the largest and second largest, the first of equals; only one where there is only one."""
    best = int(np.argmax(scores))
    if scores.size < 2:
        return [best]
    others = np.delete(np.arange(scores.size), best)
    return [best, int(others[np.argmax(scores[others])])]


def number(value: Any) -> float | None:
    """A figure as JSON has it: what is none of the numbers is null."""
    return float(value) if np.isfinite(value) else None


def _log_sum_exp(scores: Array) -> float:
    exact = scores.astype(np.float64)
    largest = exact.max(initial=-np.inf)
    return float(largest + np.log(np.exp(exact - largest).sum())) if np.isfinite(largest) else float("nan")
