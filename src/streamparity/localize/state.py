"""State looked at as state: its lengths, how it moves, what depends on it, how its error grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..loop import CandidateChunk
from ..tensors import RETURNED, Array
from .cache_changes import CHANNEL, SLOTS, TIME
from .case import Case
from .growth import growth


@dataclass
class StateWatch:
    """Watches the caches of both sides while a run goes by.

    Attributes:
        lengths: per chunk, what ``cache_last_channel_next_len`` said, reference and candidate.
        moved: per cache and chunk, by how many slots each side moved it on; ``None`` where no move explains it, or
            where nothing of the old content is left to tell.
    """

    lengths: dict[str, list[int]] = field(default_factory=lambda: {"reference": [], "candidate": []})
    moved: dict[str, dict[str, list[int | None]]] = field(
        default_factory=lambda: {port: {"reference": [], "candidate": []} for port in SLOTS}
    )

    def add(self, done: CandidateChunk) -> None:
        """See one chunk."""
        for side, tensors in (("reference", done.reference), ("candidate", done.tensors)):
            self.lengths[side].append(int(tensors["out/cache_last_channel_next_len"].reshape(-1)[0]))
            for port, axis in SLOTS.items():
                self.moved[port][side].append(_moved_by(tensors[f"in/{port}"], tensors[f"out/{RETURNED[port]}"], axis))

    def to_json(self) -> dict[str, Any]:
        """Lengths and moves, and in which chunks the two sides moved a cache differently."""
        return {
            "lengths": self.lengths,
            "moved": {
                port: {
                    **sides,
                    "differs_in": [
                        chunk
                        for chunk, (ours, theirs) in enumerate(zip(sides["reference"], sides["candidate"], strict=True))
                        if ours is not None and ours != theirs
                    ],
                }
                for port, sides in self.moved.items()
            },
        }


def _moved_by(fed: Array, returned: Array, axis: int) -> int | None:
    """Slots by which what was fed stands further left in what was returned; bit by bit, as a copy is."""
    if fed.shape != returned.shape or not np.any(fed):
        return None
    extent = fed.shape[axis]
    for shift in range(extent):
        kept = [slice(None)] * fed.ndim
        left = [slice(None)] * fed.ndim
        kept[axis], left[axis] = slice(shift, None), slice(0, extent - shift)
        old = fed[tuple(kept)]
        # One channel decides quickly; what is all zero says nothing.
        if not np.array_equal(old[..., :1, :], returned[tuple(left)][..., :1, :]):
            continue
        if np.any(old) and np.array_equal(old, returned[tuple(left)]):
            return shift
    return None


def state(case: Case, watch: StateWatch) -> dict[str, Any]:
    """The result's ``state``: what was watched, what layers depend on, and the growth of errors."""
    held = {tensor["name"]: tensor for tensor in case.comparison["tensors"]}
    grown: dict[str, Any] = {}
    for name in ("outputs", RETURNED[CHANNEL], RETURNED[TIME]):
        if name in held:
            tolerance = held[name]["tolerance"]
            curve = growth(held[name]["per_chunk_max_abs"], tolerance["atol"])
            grown[name] = None if curve is None else curve.to_json()
    return {**watch.to_json(), "depends_on": _dependence(case.sources), "growth": grown}


def _dependence(sources: Mapping[str, Mapping[int, set[int]]]) -> dict[str, dict[str, list[int]]]:
    return {port: {str(layer): sorted(used) for layer, used in layers.items()} for port, layers in sources.items()}
