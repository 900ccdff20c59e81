"""Where two decoders part: the first decision that is not the reference's, and whether it was one to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dump.decoder import CTC_HEAD, JOINT
from ..dump.manifest import Decoder
from ..dump.stored import Tensor
from ..tensors import Array
from .tolerance import TolerancePolicy

HEADS = (JOINT, CTC_HEAD)


@dataclass(frozen=True)
class Parting:
    """The first decision in which a candidate is not the reference's. Up to there both scored the same.

    Attributes:
        chunk: its chunk.
        evaluation: which evaluation of the joint (CTC: which frame) in that chunk, counted from 0.
        head: ``label`` or ``duration``: which of the two differs.
        reference: label, or place among the durations, that the reference scores highest.
        candidate: the same that the candidate scores highest.
        margin: how far apart the reference scores the two, in log-probability.
        error: largest error of the candidate's scores in this evaluation; ``None`` where one is not finite.
        within: whether all of them are within tolerance, so that the choice was not one to make.
    """

    chunk: int
    evaluation: int
    head: str
    reference: int
    candidate: int
    margin: float
    error: float | None
    within: bool

    def to_json(self) -> dict[str, Any]:
        """As the result shows it."""
        return {name: value for name, value in vars(self).items() if name != "within"}


def first_parting(
    pairs: Iterable[tuple[int, Mapping[str, Tensor], Mapping[str, Tensor]]], decoder: Decoder, policy: TolerancePolicy
) -> Parting | None:
    """Compare decisions chunk by chunk, by the log-probabilities that dumps hold of every evaluation of the joint.

    Args:
        pairs: chunk, reference's tensors, candidate's.
        decoder: how many labels there are.
        policy: tolerances.

    Returns:
        ``None`` where no decision differs as far as both sides hold rows.
    """
    for chunk, reference, candidate in pairs:
        name = next((head for head in HEADS if f"tap/{head}" in reference and f"tap/{head}" in candidate), None)
        if name is None:
            return None
        rows = reference[f"tap/{name}"], candidate[f"tap/{name}"]
        ours, theirs = (np.asarray(side, np.float64) for side in rows)
        shared = min(len(ours), len(theirs))
        found = _first(ours[:shared], theirs[:shared], decoder)
        if found is not None:
            row, head, best, other = found
            tolerance = policy.of_the_head(name)
            error = np.abs(theirs[row] - ours[row])
            within = bool((error <= tolerance.atol + tolerance.rtol * np.abs(ours[row])).all())
            scores = ours[row, : decoder.labels] if head == "label" else ours[row, decoder.labels :]
            margin = float(scores[best] - scores[other])
            return Parting(chunk, row, head, best, other, margin, _largest(error), within)
        if len(ours) != len(theirs):
            return None
    return None


def _first(ours: Array, theirs: Array, decoder: Decoder) -> tuple[int, str, int, int] | None:
    """Row, head and both choices of the first decision that differs."""
    parts = {"label": slice(None, decoder.labels), "duration": slice(decoder.labels, None)}
    differing = []
    for head, columns in parts.items():
        if ours[:, columns].shape[1]:
            chosen, other = ours[:, columns].argmax(axis=1), theirs[:, columns].argmax(axis=1)
            rows = np.flatnonzero(chosen != other)[:1]
            differing += [(int(row), head, int(chosen[row]), int(other[row])) for row in rows]
    return min(differing, key=lambda each: each[0], default=None)


def _largest(error: Array) -> float | None:
    return float(error.max()) if np.isfinite(error).all() else None
