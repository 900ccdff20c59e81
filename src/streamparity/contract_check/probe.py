"""What an exported encoder does with a few steps of noise, whatever its ports say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import StepFailed, StreamparityError
from ..runners import RunnerOptions, StepInput
from ..runners.ort import OrtRunner
from ..schedule import StreamingConfig, Subsampling
from ..tensors import CACHE_FEEDBACK, Array

# Frames of an input so long that an encoder that cuts what it returns must cut: past the longest look-ahead known.
LONG_INPUT = 256
LARGEST_CACHE = 2**30  # elements: 24 layers of 10,000 slots of 1024, NeMo's largest, are a quarter of it


@dataclass(frozen=True)
class Observed:
    """What one step did.

    Attributes:
        frames: ``encoded_lengths``.
        cache_length: ``cache_last_channel_next_len``.
        shapes: of the caches returned, by the input port that they become.
        finite: whether every value returned is finite.
        failure: the backend's words where the step could not run; nothing else is known then.
    """

    frames: int = 0
    cache_length: int = 0
    shapes: Mapping[str, tuple[int, ...]] | None = None
    finite: bool = True
    failure: str | None = None


def empty_caches(channel: tuple[int, ...], time: tuple[int, ...]) -> dict[str, Array]:
    """The caches of a stream that begins.

    Raises:
        StreamparityError: no caches have these shapes.
    """
    if min(*channel, *time) < 0 or max(math.prod(channel), math.prod(time)) > LARGEST_CACHE:
        raise StreamparityError(
            f"the contract promises caches of shapes {list(channel)} and {list(time)}, which no graph has",
            "write it again with `streamparity contract write`",
        )
    return {
        "cache_last_channel": np.zeros(channel, np.float32),
        "cache_last_time": np.zeros(time, np.float32),
        "cache_last_channel_len": np.zeros(1, np.int64),
    }


def observe(
    encoder: Path, mels: int, config: StreamingConfig, caches: Mapping[str, Array], inputs: Sequence[int]
) -> list[Observed]:
    """Run an encoder from empty caches over inputs of so many frames, each step's caches fed to the next.

    Stops at a step that fails.

    Raises:
        BackendMissing: onnxruntime is not there.
        StreamparityError: it refuses the graph, or no graph takes inputs of this size.
    """
    if mels * max(inputs) > LARGEST_CACHE:
        raise StreamparityError(
            f"the contract promises chunks of {max(inputs)} frames of {mels} mel bands, which no graph takes",
            "write it again with `streamparity contract write`",
        )
    runner = OrtRunner.open(encoder, RunnerOptions())
    runner.set_caches(caches)
    random = np.random.default_rng(0)
    seen: list[Observed] = []
    try:
        for frames in inputs:
            noise = random.standard_normal((1, mels, frames), dtype=np.float32)
            try:
                outputs = runner.step(
                    StepInput(noise, np.array([frames], np.int64), config.drop_extra_pre_encoded, False)
                )
            except StepFailed as failure:
                return [*seen, Observed(failure=failure.message)]
            seen.append(
                Observed(
                    frames=int(outputs["out/encoded_lengths"][0]),
                    cache_length=int(outputs["out/cache_last_channel_next_len"][0]),
                    shapes={taken: outputs[f"out/{given}"].shape for given, taken in CACHE_FEEDBACK.items()},
                    finite=all(np.isfinite(array).all() for array in outputs.values()),
                )
            )
    finally:
        runner.close()
    return seen


def expected(
    config: StreamingConfig, subsampling: Subsampling, caches: Mapping[str, Array], inputs: Sequence[int]
) -> list[Observed]:
    """What :func:`observe` sees of an encoder that has ``config`` baked in."""
    shapes = {name: array.shape for name, array in caches.items()}
    length, steps = 0, []
    for frames in inputs:
        seen = max(subsampling.frames_out(frames) - config.drop_extra_pre_encoded, 0)
        length = min(length + seen - config.cache_drop_size, config.last_channel_cache_size)
        kept = min(seen, config.valid_out_len) if config.valid_out_len > 0 else seen
        steps.append(Observed(kept, length, shapes))
    return steps
