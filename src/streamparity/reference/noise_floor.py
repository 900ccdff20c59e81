"""What arithmetic alone costs: the reference's loop again in other dtypes, held against the dump."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..dump import DumpReader
from ..dump.noise_floor import FloorFigures, NoiseFloor
from ..progress import Note, Progress, no_note, no_progress
from ..schedule import Chunk
from ..tensors import Array, TensorSpec, integer_tensors, valid_regions
from .features import FeatureStream
from .streamer import ReferenceStreamer
from .taps import PREPROCESSOR, choose_taps

# The dump holds float32: what float64 makes of the same loop is what float32 costs.
DTYPES = {"float32": "float64", "bfloat16": "bfloat16", "float16": "float16"}


@contextmanager
def arithmetic(module: Any, dtype: Any) -> Iterator[None]:
    """Have a model compute in ``dtype`` for as long as the context lasts; its own numbers come back unharmed.

    Parameters, buffers and tensors that modules keep outside either are converted.
    """
    import torch

    loose = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    held = [(tensor, tensor.data) for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()]
    try:
        for tensor, data in held:
            tensor.data = data.to(dtype)
        for part, name, value in loose:
            vars(part)[name] = value.to(dtype)
        yield
    finally:
        for tensor, data in held:
            tensor.data = data
        for part, name, value in loose:
            vars(part)[name] = value


def measure(
    module: Any,
    reader: DumpReader,
    features: FeatureStream,
    plan: Sequence[Chunk],
    progress: Progress = no_progress,
    note: Note = no_note,
) -> NoiseFloor:
    """Run the loop of a finished dump again in float64, bfloat16 and float16, same features, caches fed back.

    Args:
        module: the NeMo model the dump was made with, set up as it was then.
        reader: the dump.
        features: the recording's features.
        plan: the dump's chunks.
        progress: called with chunks done and chunks in all.
        note: told of a dtype that PyTorch cannot run the model in.

    Returns:
        Errors per dtype and tensor, inside the valid regions.
    """
    errors, largest = {}, {}
    for position, (name, other) in enumerate(DTYPES.items()):
        meter = _Meter(reader)
        try:
            _run(
                module,
                other,
                reader,
                features,
                plan,
                meter,
                lambda done, p=position: progress(done + p * len(plan), len(DTYPES) * len(plan)),
            )
        except (RuntimeError, NotImplementedError) as error:
            if name == "float32":
                raise
            note(f"PyTorch cannot run this model in {name}, so the floor says nothing of it: {error}".splitlines()[0])
            continue
        errors[name] = meter.figures()
        if name == "float32":
            largest = meter.largest
    return NoiseFloor(errors, largest)


def _run(
    module: Any,
    dtype: str,
    reader: DumpReader,
    features: FeatureStream,
    plan: Sequence[Chunk],
    meter: _Meter,
    done: Any,
) -> None:
    import torch

    manifest = reader.manifest
    encoder_taps, other_taps = choose_taps(module, manifest.taps)
    with arithmetic(module, getattr(torch, dtype)):
        streamer = ReferenceStreamer(
            module, manifest.decoder, encoder_taps, [tap for tap in other_taps if tap != PREPROCESSOR]
        )
        for chunk, produced in zip(plan, streamer.run(features, iter(plan)), strict=True):
            labels = [line["label"] for line in produced.trace]
            meter.add(chunk.index, reader.chunk(chunk.index), produced.tensors, labels)
            done(chunk.index + 1)


class _Meter:
    """Accumulates errors of a run against a dump."""

    def __init__(self, reader: DumpReader) -> None:
        self._specs = [
            spec
            for spec in reader.manifest.tensors
            if spec.kind not in ("input", "length") and not spec.dtype.startswith(("int", "uint"))
        ]
        self._labels: dict[int, list[int]] = {}
        for line in reader.trace():
            self._labels.setdefault(line["chunk"], []).append(line["label"])
        self._same_decisions = True
        self._sums = {spec.label: [0.0, 0.0, 0] for spec in self._specs}
        self.largest = dict.fromkeys(self._sums, 0.0)

    def add(self, index: int, reference: dict[str, Array], other: dict[str, Array], labels: list[int]) -> None:
        """Add one chunk. Once a decision differs, decoder rows no longer belong together."""
        self._same_decisions &= labels == self._labels.get(index, [])
        counts = integer_tensors(reference)
        for spec in self._specs:
            if spec.name not in reference or (spec.kind == "decoder" and not self._same_decisions):
                continue
            self._add(spec, reference[spec.name], other[spec.name], counts)

    def _add(self, spec: TensorSpec, reference: Array, other: Array, counts: dict[str, Array]) -> None:
        if reference.shape != other.shape:
            return
        for region in valid_regions(spec, reference.shape, counts):
            expected = reference[region].astype(np.float64)
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
