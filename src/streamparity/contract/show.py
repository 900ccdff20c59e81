"""The schedule explained: the chunk table of a contract, for a recording of some length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import StreamparityError
from ..schedule import FrameGrid, Schedule, Step, StreamingConfig, steps
from . import derive
from .model import Contract
from .network import Encoder

HEADINGS = (
    "chunk",
    "frames",
    "history",
    "zeros",
    "fed",
    "samples",
    "count",
    "overlap",
    "ms",
    "ready at ms",
    "computed",
    "dropped",
    "discarded",
    "out",
    "cache length",
)
LEGEND = (
    "frames: new feature frames; fed: zeros, then history, then new frames; samples: what the new frames need, with",
    "their count, the overlap with the chunk before, and their duration in ms; ready at: when the last is spoken;",
    "computed: encoder frames made of what is fed; dropped: those of the history; discarded: look-ahead that the",
    "step does not return; cache length: cache_last_channel_len after the step",
)
LONGEST_SECONDS = 3600
UNLIMITED_HINT = "write the contract with --chunk-size and --shift-size, in encoder frames"


@dataclass(frozen=True)
class Explained:
    """A contract's schedule for a recording.

    Attributes:
        schedule: which of the two.
        config: the streaming configuration.
        grid: where feature frames lie in the audio.
        samples: length of the recording.
        steps: the turns of the loop.
    """

    schedule: Schedule
    config: StreamingConfig
    grid: FrameGrid
    samples: int
    steps: Sequence[Step]

    @property
    def left_over(self) -> int:
        """Feature frames at the end that make no chunk."""
        frames = self.grid.frames(self.samples)
        return frames - self.steps[-1].chunk.stop if self.steps else frames

    def rows(self) -> list[tuple[str, ...]]:
        """One per step, under :data:`HEADINGS`."""
        return [self._row(step) for step in self.steps]

    def _row(self, step: Step) -> tuple[str, ...]:
        chunk, audio, ms = step.chunk, step.audio, self.grid.milliseconds
        cells = (
            chunk.index,
            f"{chunk.start}..{chunk.stop - 1}",
            chunk.start - chunk.history,
            chunk.zeros,
            chunk.frames,
            f"{audio.start}..{audio.stop - 1}",
            audio.samples,
            step.overlap,
            f"{ms(audio.samples):g}",
            f"{ms(audio.stop):g}",
            step.computed,
            step.dropped,
            step.discarded,
            step.out,
            step.cache_length,
        )
        return tuple(str(cell) for cell in cells)

    def lines(self) -> list[str]:
        """What there is to say beside the table."""
        config, grid = self.config, self.grid
        context = ",".join(map(str, config.att_context_size))
        said = [
            f"schedule {self.schedule}, attention context {context} ({config.att_context_style}), "
            f"{self.samples} samples, {grid.frames(self.samples)} feature frames, {len(self.steps)} chunks"
        ]
        if self.left_over > 0:
            said.append(
                f"the last {self.left_over} feature frames are too few for another chunk: NeMo does not run them"
            )
        failing = next((step.chunk.index for step in self.steps if step.out < 1 or step.kept < 0), None)
        if failing is not None:
            said.append(
                f"NeMo fails at chunk {failing} or at the next: it has no frame to return, or fewer than the "
                f"{config.cache_drop_size} that stay out of the caches"
            )
        return said


def explain(contract: Contract, context: tuple[int, ...] | None, seconds: float, schedule: Schedule) -> Explained:
    """The chunk table.

    Args:
        contract: says how the model streams.
        context: an attention context of the contract, ``None`` for the one under ``streaming``.
        seconds: length of the recording.
        schedule: which of the two.

    Raises:
        StreamparityError: the contract has no such context, does not say enough, or never moves on; or no such length.
    """
    encoder, grid = contract.encoder, derive.frame_grid(contract.features)
    if encoder is None or grid is None:
        raise StreamparityError(
            f"the contract does not say {'how its encoder subsamples' if encoder is None else 'where its frames lie'}",
            "write it again, from the .nemo: `streamparity contract write`",
        )
    config = contract.streaming if context is None else _configuration(contract, encoder, context)
    if config.shift_size[1] < 1 or config.chunk_size[1] < config.sampling_frames[1]:
        raise StreamparityError(
            f"at attention context {list(config.att_context_size)} a chunk is {list(config.chunk_size)} frames and "
            f"moves on by {list(config.shift_size)}: it cannot stream",
            UNLIMITED_HINT,
        )
    if not 1 / grid.sample_rate <= seconds <= LONGEST_SECONDS:
        raise StreamparityError(
            f"{seconds:g} seconds of audio make no table", f"give --audio-seconds up to {LONGEST_SECONDS}"
        )
    samples = round(seconds * grid.sample_rate)
    return Explained(schedule, config, grid, samples, list(steps(config, encoder.subsampling, grid, samples, schedule)))


def _configuration(contract: Contract, encoder: Encoder, context: tuple[int, ...]) -> StreamingConfig:
    for each in contract.contexts:
        if each.att_context_size == context:
            return each.streaming
    if contract.streaming.att_context_size == context:
        return contract.streaming
    listed = " ".join(",".join(map(str, size)) for size in encoder.att_context_sizes)
    raise StreamparityError(
        f"the contract has no attention context {list(context)}", f"use --att-context with one of: {listed}"
    )
