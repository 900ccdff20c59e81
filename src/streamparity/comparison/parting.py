"""Where two decoders part: the first decision that is not the reference's, and whether it was one to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dump.decoder import JOINT
from ..dump.manifest import Decoder
from ..dump.stored import Tensor
from ..tensors import Array
from .tolerance import TolerancePolicy

ROWS = f"tap/{JOINT}"


@dataclass(frozen=True)
class Parting:
    """The first decision in which a candidate is not the reference's. Up to there both scored the same.

    Attributes:
        chunk: its chunk.
        evaluation: which evaluation of the joint in that chunk, counted from 0.
        reference: label that the reference scores highest.
        candidate: label that the candidate scores highest.
        margin: how far apart the reference scores the two, in log-probability.
        error: largest error of the candidate's scores in this evaluation; ``None`` where one is not finite.
        within: whether all of them are within tolerance, so that the choice was not one to make.
    """

    chunk: int
    evaluation: int
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
        if ROWS not in reference or ROWS not in candidate:
            return None
        sides = [np.asarray(side[ROWS], np.float64)[:, : decoder.blank_id + 1] for side in (reference, candidate)]
        shared = min(len(side) for side in sides)
        chosen = [side[:shared].argmax(axis=1) for side in sides]
        for row in np.flatnonzero(chosen[0] != chosen[1])[:1]:
            ours, theirs = sides[0][row], sides[1][row]
            best, other = int(chosen[0][row]), int(chosen[1][row])
            tolerance = policy.tolerance(JOINT, reference[ROWS].dtype, candidate[ROWS].dtype)
            error = np.abs(theirs - ours)
            within = bool((error <= tolerance.atol + tolerance.rtol * np.abs(ours)).all())
            return Parting(chunk, int(row), best, other, float(ours[best] - ours[other]), _largest(error), within)
        if len(sides[0]) != len(sides[1]):
            return None
    return None


def _largest(error: Array) -> float | None:
    return float(error.max()) if np.isfinite(error).all() else None
