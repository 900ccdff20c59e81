"""Drives any runner over a reference dump, chunk by chunk, as production would."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from .dump import DumpReader
from .dump.trace import Line
from .errors import StepFailed, StreamparityError, first_line
from .invariants import Violation, violations
from .runners import Runner, StepInput
from .schedule import chunks
from .tensors import CACHE_FEEDBACK, ENCODER_INPUTS, ENCODER_OUTPUTS, Array

Mode = Literal["closed-loop", "functional"]


@dataclass(frozen=True)
class CandidateChunk:
    """What the model under test made of one chunk.

    Attributes:
        index: the chunk.
        reference: the reference's tensors of the same chunk.
        tensors: the candidate's, under the same keys, the inputs it was fed among them.
        step_ms: time of the encoder step.
        overhead_ms: the part of it spent outside the backend.
        trace: decoding steps, once it is decoded.
        violations: what cannot be so, whatever the reference says.
    """

    index: int
    reference: dict[str, Array]
    tensors: dict[str, Array]
    step_ms: float
    overhead_ms: float
    trace: Sequence[Line] = ()
    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True)
class ChunkFailure:
    """The model under test could not run a chunk; the stream ends there."""

    index: int
    message: str
    module: str | None


def drive(
    runner: Runner, reference: DumpReader, mode: Mode, limit: int | None = None
) -> Iterator[CandidateChunk | ChunkFailure]:
    """Run the reference's chunks through a runner.

    In ``closed-loop`` mode the runner's own caches are fed back, as in production, and errors accumulate. In
    ``functional`` mode every step starts from the reference's caches, which isolates the step.

    Args:
        runner: an opened runner.
        reference: the dump whose features are fed.
        mode: how caches are fed.
        limit: stop after so many chunks.

    Yields:
        One :class:`CandidateChunk` per chunk; a :class:`ChunkFailure` ends the stream.

    Raises:
        StreamparityError: the dump does not hold what the encoder was fed.
    """
    manifest = reference.manifest
    missing = [name for name in ENCODER_INPUTS if f"in/{name}" not in {spec.name for spec in manifest.tensors}]
    if missing:
        raise StreamparityError(
            f"{reference.folder} does not hold the encoder's inputs {', '.join(missing)}: nothing can be fed from it",
            "use a dump of the reference, or write in/ tensors too",
        )
    plan = chunks(manifest.streaming, int(manifest.audio["feature_frames"]), manifest.schedule)
    fed: dict[str, Array] = {}
    for index, chunk in enumerate(islice(plan, total_chunks(reference, limit))):
        expected = reference.chunk(index)
        if index == 0 or mode == "functional":
            fed = {name: expected[f"in/{name}"] for name in CACHE_FEEDBACK.values()}
            runner.set_caches(fed)
        step = StepInput(expected["in/audio_signal"], expected["in/length"], chunk.drop, chunk.last)
        started = time.perf_counter()
        try:
            tensors = runner.step(step)
        except StepFailed as failure:
            yield ChunkFailure(index, failure.message, failure.module)
            return
        except StreamparityError:
            raise
        except Exception as error:
            raise StreamparityError(
                f"backend {runner.name} broke at chunk {index}: {type(error).__name__} {first_line(error)}",
                "this is a fault of the backend: where the model cannot run a chunk it should raise StepFailed",
            ) from error
        _check_outputs(runner, tensors)
        step_ms = (time.perf_counter() - started) * 1000
        tensors["in/audio_signal"], tensors["in/length"] = step.audio_signal, step.length
        tensors.update({f"in/{name}": array for name, array in fed.items()})
        frames, before = int(step.audio_signal.shape[-1]), fed.get("cache_last_channel_len")
        broken = violations(manifest.streaming, index, frames, before, tensors, drop=chunk.drop, last=chunk.last)
        done = CandidateChunk(index, expected, tensors, step_ms, step_ms - runner.backend_ms, violations=broken)
        fed = {taken: tensors[f"out/{given}"] for given, taken in CACHE_FEEDBACK.items()}
        yield done


def _check_outputs(runner: Runner, tensors: object) -> None:
    """Refuse what a backend returns if it is not what the protocol asks for."""
    if not isinstance(tensors, dict) or not all(isinstance(array, np.ndarray) for array in tensors.values()):
        raise StreamparityError(f"backend {runner.name} does not return a dict of numpy arrays", "see Runner.step")
    missing = [name for name in ENCODER_OUTPUTS if f"out/{name}" not in tensors]
    if missing:
        raise StreamparityError(
            f"backend {runner.name} does not return out/{', out/'.join(missing)}; it returns {', '.join(tensors)}",
            "return every output port as out/NAME, under NeMo's export names",
        )


def total_chunks(reference: DumpReader, limit: int | None) -> int:
    """How many chunks a run should compare."""
    return reference.chunk_count if limit is None else min(limit, reference.chunk_count)
