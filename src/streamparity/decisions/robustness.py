"""How large an encoder error the transcript survives: margins of the decisions, over the gain of the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..decode import Head
from ..decode.memory import Memory, Predictor
from ..dump.manifest import Decoder
from ..dump.noise_floor import NoiseFloor
from ..tensors import Array
from .sides import Frames, forced
from .trace import Step

EXAMINED = 12
# Size of the nudges by which gains are measured, beside the frame's own root mean square.
NUDGE = 1e-3


def margins(rows: Sequence[Array], rules: Decoder) -> list[tuple[float, int, tuple[int, int]]]:
    """Every decision's margin (best score over the second), its step, and the places of the two; the narrowest first.

    Args:
        rows: ``[V + 1 (+ durations)]`` per step; the difference of two scores is that of the logits.
        rules: kind and durations.
    """
    found = []
    for index, row in enumerate(rows):
        for start, stop in ((0, rules.labels), (rules.labels, rules.labels + len(rules.durations))):
            scores = row[start:stop].astype(np.float64)
            if scores.size > 1 and np.isfinite(scores).all():
                second, first = (int(place) for place in np.argsort(scores, kind="stable")[-2:])
                found.append((float(scores[first] - scores[second]), index, (start + first, start + second)))
    return sorted(found)


def robustness(
    head: Head | None,
    rules: Decoder,
    frames: Frames,
    steps: Sequence[Step],
    rows: Sequence[Array],
    floor: NoiseFloor | None,
) -> dict[str, Any] | None:
    """The smallest margin, and the smallest encoder error that can turn one of the narrowest decisions.

    A margin ``m`` between two scores whose difference has the gradient ``g`` with respect to the encoder frame is used
    up by an error of ``m / sum(abs(g))`` in every value, each in its worst direction (``survives_max_abs``), no less;
    the gradient is measured by nudging every value of the frame. An error that is not conspiring needs to be of root
    mean square ``m / norm(g)`` (``survives_rmse``) before its typical effect is as large.

    Args:
        head: what decides; without it there are margins only.
        rules: kind, blank, durations.
        frames: the reference's encoder frames.
        steps: its decisions, whole.
        rows: scores of every step.
        floor: what arithmetic costs the encoder.

    Returns:
        An object of the result, ``None`` without decisions.

    Raises:
        StepFailed: the model could not run.
    """
    ordered = margins(rows, rules)
    if not ordered:
        return None
    margin, index, _ = ordered[0]
    found: dict[str, Any] = {
        "smallest_margin": margin,
        "at": {"chunk": steps[index].chunk, "frame": steps[index].frame, "step": steps[index].step},
        "decisions": len(rows),
        "examined": 0,
        "survives_max_abs": None,
        "survives_rmse": None,
        "confirmed": None,
        "floor_max_abs": None,
        "floors": None,
    }
    if head is None:
        return found
    remembered = [memory for _, memory in forced(head, rules, frames, steps)]
    examined = ordered[:EXAMINED]
    worst: tuple[float, Array, int, tuple[int, int]] | None = None
    mildest = np.inf
    for margin, index, pair in examined:
        frame = frames[steps[index].chunk][steps[index].frame]
        gradient = _gradient(head, frame, remembered[index], pair)
        total, norm = float(np.abs(gradient).sum()), float(np.linalg.norm(gradient))
        if total == 0:
            continue
        mildest = min(mildest, margin / norm)
        if worst is None or margin / total < worst[0]:
            worst = (margin / total, gradient, index, pair)
    found["examined"] = len(examined)
    if worst is None:
        return found
    size, gradient, index, pair = worst
    found |= {"survives_max_abs": size, "survives_rmse": float(mildest)}
    frame = frames[steps[index].chunk][steps[index].frame]
    scores = _scores(head, frame - np.float32(1.05 * size) * np.sign(gradient), remembered[index])
    found["confirmed"] = bool(scores[pair[0]] <= scores[pair[1]])
    figures = None if floor is None else floor.errors.get("float32", {}).get("outputs")
    if figures is not None and figures.max_abs > 0:
        found |= {"floor_max_abs": figures.max_abs, "floors": size / figures.max_abs}
    return found


def _gradient(head: Head, frame: Array, memory: Memory | None, pair: tuple[int, int]) -> Array:
    """Of the difference of two scores with respect to the frame ``[D]``, by central differences."""
    nudge = NUDGE * max(float(np.sqrt(np.mean(np.square(frame, dtype=np.float64)))), 1e-6)
    steps = np.eye(frame.size, dtype=np.float64) * nudge
    up = [_pair(_scores(head, frame + step, memory), pair) for step in steps]
    down = [_pair(_scores(head, frame - step, memory), pair) for step in steps]
    gradient: Array = (np.array(up) - np.array(down)) / (2 * nudge)
    return gradient


def _pair(scores: Array, pair: tuple[int, int]) -> float:
    return float(scores[pair[0]]) - float(scores[pair[1]])


def _scores(head: Head, frame: Array, memory: Memory | None) -> Array:
    typed = frame.astype(np.float32)
    if memory is None:
        scores: Array = head.scores(typed[None])[0]  # type: ignore[union-attr]  # chosen by the kind
        return scores
    return Predictor(head).score(typed, memory)  # type: ignore[arg-type]
