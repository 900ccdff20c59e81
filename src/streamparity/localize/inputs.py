"""What one encoder step is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..dump import DumpReader
from ..runners import StepInput
from ..schedule import Chunk, chunks
from ..tensors import CACHE_FEEDBACK, ENCODER_INPUTS, Array


@dataclass(frozen=True)
class Inputs:
    """The five encoder inputs by port name, and what the schedule says beside them."""

    tensors: Mapping[str, Array]
    drop: int
    last: bool

    @property
    def step(self) -> StepInput:
        """What a runner is handed besides the caches."""
        return StepInput(self.tensors["audio_signal"], self.tensors["length"], self.drop, self.last)

    @property
    def caches(self) -> dict[str, Array]:
        """What a runner's caches are set to."""
        return {name: self.tensors[name] for name in CACHE_FEEDBACK.values()}

    def having(self, **tensors: Array) -> Inputs:
        """The same step with some inputs replaced."""
        return replace(self, tensors={**self.tensors, **tensors})


class Script:
    """A reference's chunks as inputs, and the stream of features that they were cut from.

    Args:
        reference: a dump that holds what the encoder was fed.
    """

    def __init__(self, reference: DumpReader) -> None:
        self._reference = reference
        self._kept: dict[int, dict[str, Array]] = {}

    @cached_property
    def plan(self) -> list[Chunk]:
        """The schedule's chunks."""
        manifest = self._reference.manifest
        return list(chunks(manifest.streaming, int(manifest.audio["feature_frames"]), manifest.schedule))

    @property
    def total(self) -> int:
        """Chunks that the dump has."""
        return self._reference.chunk_count

    def expected(self, chunk: int) -> dict[str, Array]:
        """The reference's tensors of one chunk."""
        if chunk not in self._kept:
            while len(self._kept) >= 16:
                del self._kept[next(iter(self._kept))]
            self._kept[chunk] = self._reference.chunk(chunk)
        return self._kept[chunk]

    def inputs(self, chunk: int) -> Inputs:
        """What the reference's encoder was fed."""
        tensors = self.expected(chunk)
        planned = self.plan[chunk]
        return Inputs({name: tensors[f"in/{name}"] for name in ENCODER_INPUTS}, planned.drop, planned.last)

    def frames(self, start: int, stop: int, chunk: int) -> Array | None:
        """Feature frames ``[1, mel, stop - start]`` of the stream, put together from the chunks around ``chunk``.

        ``None`` where those chunks do not cover them; frames before the stream are zero.
        """
        first = self.inputs(chunk).tensors["audio_signal"]
        found = np.zeros((*first.shape[:2], stop - start), first.dtype)
        seen = np.arange(start, stop) < 0
        for index in range(max(0, chunk - 2), min(self.total, chunk + 3)):
            signal, planned = self.inputs(index).tensors["audio_signal"], self.plan[index]
            low, high = max(start, planned.history), min(stop, planned.stop)
            if low < high:
                offset = planned.zeros - planned.history
                found[:, :, low - start : high - start] = signal[:, :, low + offset : high + offset]
                seen[low - start : high - start] = True
        return found if bool(seen.all()) else None
