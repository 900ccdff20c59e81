"""What a planted change does, without streamparity's judgement: the port is driven beside the sound export.

A fault that changes nothing is no fault, and the first chunk in which it changes something is where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamparity.decode import CandidateDecoder
from streamparity.errors import StreamparityError
from streamparity.loop import ChunkFailure, drive
from streamparity.runners import RunnerOptions
from streamparity.tensors import Array

from .bench import Bench
from .fault import Planted

FELT = 2e-5  # of a tensor's largest value: ten times what float32 costs over a stream


def effect(bench: Bench, planted: Planted) -> tuple[int | None, float]:
    """The first chunk in which a port does other than the sound export, and by how much at most.

    The amount is relative to a tensor's largest value; infinite for another shape, another number of decoder steps,
    values that are not finite, a chunk that fails and a model that cannot be opened.
    """
    sound = _outcome(bench, Planted(bench.edited("unharmed", lambda model: None)))
    first, most = None, 0.0
    for index, (right, found) in enumerate(zip(sound, _outcome(bench, planted), strict=False)):
        size = np.inf if found is None else max(_change(array, found.get(name)) for name, array in right.items())
        if size > FELT and first is None:
            first = index
        most = max(most, size)
        if found is None:
            break
    return first, most


def _outcome(bench: Bench, planted: Planted) -> Iterator[dict[str, Array] | None]:
    """Per chunk, what leaves the port: outputs, caches, lengths and the decoder's scores; ``None`` where that fails."""
    reference = bench.reference(planted.reference)
    options = RunnerOptions((), (), reference.manifest.streaming, planted.settings)
    try:
        runner = planted.runner.open(planted.model, options)
    except StreamparityError:
        yield None
        return
    decoder = CandidateDecoder(runner.transducer, reference.manifest.decoder)
    for done in drive(runner, reference, "closed-loop"):
        if isinstance(done, ChunkFailure):
            yield None
            return
        described, _ = decoder.chunk(done.tensors)
        scored = {spec.name: array for spec, array in described}
        yield {name: array for name, array in done.tensors.items() if name.startswith("out/")} | scored


def _change(right: Array, found: Array | None) -> float:
    if found is None or found.shape != right.shape or not np.isfinite(found).all():
        return np.inf
    if not right.size:
        return 0.0
    return float(np.abs(right.astype(float) - found).max() / max(np.abs(right).max(), 1e-3))
