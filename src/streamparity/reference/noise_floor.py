"""What arithmetic alone costs: the reference's loop again in other arithmetics, all held against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..dump import DumpReader
from ..dump.chunk_files import ChunkFiles
from ..dump.manifest import Decoder
from ..dump.noise_floor import FloorFigures, NoiseFloor
from ..dump.store import float64_files
from ..dump.trace import Line
from ..errors import first_line
from ..progress import Note, Progress, no_note, no_progress
from ..schedule import Chunk
from ..tensors import Array, TensorSpec, integer_tensors, valid_regions
from .arithmetic import FLOAT64, LOWER, computing_in
from .decoding import PREFIX
from .features import FeatureStream
from .streamer import ReferenceChunk, ReferenceStreamer
from .taps import PREPROCESSOR, choose_taps

DECISIONS = f"{PREFIX}decisions"
# Frame, label and duration, -1 where there is none: with other durations the same labels come from other frames.
Decision = tuple[int, int, int]


def measure(
    module: Any,
    reader: DumpReader,
    features: FeatureStream,
    plan: Sequence[Chunk],
    progress: Progress = no_progress,
    note: Note = no_note,
) -> NoiseFloor:
    """Run the loop of a finished dump again in float64 and in coarser arithmetics, same features, caches fed back.

    What float64 makes of it is kept in the dump; where a kill left some of that, the rest is added.

    Args:
        module: the NeMo model the dump was made with, set up as it was then.
        reader: the dump.
        features: the recording's features.
        plan: the dump's chunks.
        progress: called with chunks done and chunks in all.
        note: told of an arithmetic that PyTorch cannot run the model in.

    Returns:
        Errors per arithmetic and tensor, inside the valid regions.
    """
    loop = _Loop(module, reader, features, plan)
    total = len(plan) * (len(LOWER) + 2)
    files = float64_files(reader.folder)
    _keep_float64(loop, files, lambda done: progress(done, total))
    meter = _Meter(reader, files)
    for index in range(len(plan)):
        meter.add(index, reader.chunk(index), loop.decisions_of_dump(index))
        progress(len(plan) + index + 1, total)
    errors, largest, unmeasured = {"float32": meter.figures()}, meter.largest, {}
    for position, name in enumerate(LOWER, start=2):
        meter = _Meter(reader, files)
        try:
            for index, produced in loop.run(name):
                meter.add(index, produced.tensors, _decisions(produced.trace))
                progress(position * len(plan) + index + 1, total)
        except (RuntimeError, NotImplementedError) as error:
            unmeasured[name] = first_line(error)
            note(f"PyTorch cannot run this model in {name}, its floor is scaled from float32's: {unmeasured[name]}")
            continue
        errors[name] = meter.figures()
    return NoiseFloor(errors, largest, unmeasured)


class _Loop:
    """A dump's loop, to be run again."""

    def __init__(self, module: Any, reader: DumpReader, features: FeatureStream, plan: Sequence[Chunk]) -> None:
        self._module, self._features, self._plan = module, features, plan
        self._manifest = reader.manifest
        self._lines: dict[int, list[Line]] = {}
        for line in reader.trace():
            self._lines.setdefault(line["chunk"], []).append(line)

    @property
    def chunks(self) -> int:
        """How many there are."""
        return len(self._plan)

    @property
    def decoder(self) -> Decoder | None:
        """Rules of decoding."""
        return self._manifest.decoder

    def decisions_of_dump(self, index: int) -> list[Decision]:
        """Decisions of the dump in one chunk, blanks included."""
        return _decisions(self._lines.get(index, []))

    def run(
        self, arithmetic: str, first: int = 0, resume: Callable[[ReferenceStreamer], None] | None = None
    ) -> Iterator[tuple[int, ReferenceChunk]]:
        """Chunks from ``first`` on, computed in an arithmetic."""
        encoder_taps, other_taps = choose_taps(self._module, self._manifest.taps)
        inner = [tap for tap in other_taps if tap != PREPROCESSOR]
        with computing_in(self._module, arithmetic):
            streamer = ReferenceStreamer(self._module, self.decoder, encoder_taps, inner)
            if resume is not None:
                resume(streamer)
            chunks = self._plan[first:]
            for chunk, produced in zip(chunks, streamer.run(self._features, iter(chunks)), strict=True):
                yield chunk.index, produced


def _keep_float64(loop: _Loop, files: ChunkFiles, progress: Callable[[int], None]) -> None:
    """Write what float64 computes, going on behind the whole chunks that are there already.

    Rows of the decoder end with the first decision that is not the dump's: from there on they do not belong together.
    """
    files.prepare()
    done = files.whole()
    if any(DECISIONS not in files.read(index) for index in range(done)):
        done = 0  # an earlier version's
    earlier = [_read(files.read(index)) for index in range(done)]
    same = all(decisions == loop.decisions_of_dump(index) for index, decisions in enumerate(earlier))

    def resume(streamer: ReferenceStreamer) -> None:
        blank = None if loop.decoder is None else loop.decoder.blank_id
        streamer.resume(files.read(done - 1), [label for chunk in earlier for _, label, _ in chunk if label != blank])

    for index, produced in loop.run(FLOAT64, done, resume if done else None):
        decisions = _decisions(produced.trace)
        same = same and decisions == loop.decisions_of_dump(index)
        rows = {spec.name for spec in produced.specs if spec.kind == "decoder"}
        kept = {
            name: array
            for name, array in produced.tensors.items()
            if not name.startswith("in/") and (same or name not in rows)
        }
        files.write(index, {**kept, DECISIONS: np.array(decisions, np.int64).reshape(-1, 3)})
        progress(index + 1)
    files.cut(loop.chunks)


def _decisions(lines: Sequence[Line]) -> list[Decision]:
    durations = [line.get("duration") for line in lines]
    return [
        (line["frame"], line["label"], -1 if duration is None else duration)
        for line, duration in zip(lines, durations, strict=True)
    ]


def _read(tensors: Mapping[str, Array]) -> list[Decision]:
    return [(frame, label, duration) for frame, label, duration in tensors[DECISIONS].tolist()]


class _Meter:
    """Accumulates errors of a run against float64."""

    def __init__(self, reader: DumpReader, files: ChunkFiles) -> None:
        self._reader, self._files = reader, files
        self._specs = [
            spec
            for spec in reader.manifest.tensors
            if spec.kind not in ("input", "length") and not spec.dtype.startswith(("int", "uint"))
        ]
        self._same_decisions = True
        self._sums = {spec.label: [0.0, 0.0, 0] for spec in self._specs}
        self.largest = dict.fromkeys(self._sums, 0.0)

    def add(self, index: int, tensors: Mapping[str, Array], decisions: list[Decision]) -> None:
        """Add one chunk. Once a decision differs, decoder rows no longer belong together."""
        true = self._files.read(index)
        self._same_decisions &= decisions == _read(true)
        counts = integer_tensors(self._reader.chunk(index))
        for spec in self._specs:
            if spec.name in true and (spec.kind != "decoder" or self._same_decisions):
                self._add(spec, true[spec.name], tensors[spec.name], counts)

    def _add(self, spec: TensorSpec, true: Array, other: Array, counts: Mapping[str, Array]) -> None:
        if true.shape != other.shape:
            return
        for region in valid_regions(spec, true.shape, counts):
            expected = true[region].astype(np.float64)
            error = np.abs(other[region].astype(np.float64) - expected)
            if error.size and np.isfinite(error).all():
                sums = self._sums[spec.label]
                sums[0] = max(sums[0], float(error.max()))
                sums[1] += float(np.square(error).sum())
                sums[2] += error.size
                self.largest[spec.label] = max(self.largest[spec.label], float(np.abs(expected).max()))

    def figures(self) -> dict[str, FloorFigures]:
        """Errors of the tensors that were met."""
        return {
            label: FloorFigures(largest, math.sqrt(squares / count))
            for label, (largest, squares, count) in self._sums.items()
            if count
        }
