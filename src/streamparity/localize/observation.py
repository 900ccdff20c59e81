"""What a run keeps of the candidate while it goes by, for those who look for the cause afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..loop import CandidateChunk
from ..tensors import Array

# Chunks kept from the first that fails on: enough to tell a fault of every step from one of a single step.
WINDOW = 4


@dataclass
class Observation:
    """The candidate as seen from outside.

    Attributes:
        failed: the candidate's tensors from the first chunk past tolerance on, by chunk, at most :data:`WINDOW`.
        lengths: per chunk ``(encoded_lengths, cache_last_channel_next_len)`` of reference and candidate.
        output_range: per chunk, lowest and highest value of the candidate's encoder output.
        joint_spread: largest difference of any joint row from the first, over the run.
    """

    failed: dict[int, dict[str, Array]] = field(default_factory=dict)
    lengths: list[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    output_spread: float = 0.0
    joint_spread: float | None = None
    _first_frame: Array | None = None
    _first_row: Array | None = None

    def add(self, done: CandidateChunk, passed: bool) -> None:
        """See one chunk; ``passed`` says whether all of it is within tolerance."""
        if (self.failed or not passed) and len(self.failed) < WINDOW:
            self.failed[done.index] = dict(done.tensors)
        self.lengths.append((_lengths(done.reference), _lengths(done.tensors)))
        outputs = done.tensors["out/outputs"]
        if outputs.ndim == 3 and outputs.shape[2]:
            first = outputs[0, :, 0].astype(np.float64)
            self._first_frame = first if self._first_frame is None else self._first_frame
            self.output_spread = _spread(self.output_spread, outputs[0].T, self._first_frame)
        rows = done.tensors.get("tap/joint")
        if rows is not None and len(rows):
            self._first_row = rows[0].astype(np.float64) if self._first_row is None else self._first_row
            self.joint_spread = _spread(self.joint_spread or 0.0, rows, self._first_row)


def _lengths(tensors: Mapping[str, Array]) -> tuple[int, int]:
    ports = ("out/encoded_lengths", "out/cache_last_channel_next_len")
    encoded, cached = (int(tensors[port].reshape(-1)[0]) for port in ports)
    return encoded, cached


def _spread(so_far: float, rows: Array, first: Array) -> float:
    """Largest ``abs(row - first)`` seen; infinite where a value is not finite."""
    if rows.shape[1:] != first.shape:
        return so_far
    with np.errstate(invalid="ignore"):
        largest = float(np.max(np.abs(rows.astype(np.float64) - first), initial=0.0))
    return max(so_far, largest) if np.isfinite(largest) else np.inf
