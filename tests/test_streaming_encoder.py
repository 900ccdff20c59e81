"""What the arithmetic says of an encoder, against NeMo's own encoders."""

from __future__ import annotations

import itertools
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from streamparity.errors import StreamparityError
from streamparity.reference.contract import streaming_encoder
from streamparity.schedule import SCHEDULES, FrameGrid, StreamingEncoder, Subsampling, steps

from .nemo_encoders import ENCODERS, nemo_buffer, small_encoder

GRID = FrameGrid(16000, 160, 400)
SIZES = [(None, None), (6, 3), (4, 4), (3, 1), (1, 1)]


def configured(encoder, context=None, chunk_size=None, shift_size=None, cache_drop_size=None):
    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    options = StreamingOptions(context, chunk_size, shift_size, cache_drop_size)
    return configure_streaming(SimpleNamespace(encoder=encoder), options)


def contexts(encoder) -> list[tuple[int, ...]]:
    narrowed = [(256, -1), (30, 0)] if list(encoder.att_context_size_all[0]) == [-1, -1] else []
    return [tuple(context) for context in encoder.att_context_size_all] + narrowed


@pytest.mark.parametrize("name", ENCODERS)
def test_configurations_are_those_that_nemo_sets_up(name):
    encoder = small_encoder(name)
    ours = streaming_encoder(encoder)
    for context, (chunk, shift), drop in itertools.product(contexts(encoder), SIZES, (None, 1)):
        theirs = configured(encoder, context, chunk, shift, drop)
        assert ours.configuration(context, chunk, shift, drop) == theirs
        assert ours.same_sizes(theirs) == theirs


@pytest.mark.parametrize(
    "change",
    [
        {"style": "regular"},
        {"subsampling": Subsampling(4, 2, 3, 2, (2, 1))},
        {"style": "regular", "conv_right": 4},
    ],
)
def test_another_architecture_gives_another_configuration(change):
    encoder = small_encoder("chunked")
    theirs = configured(encoder, (70, 1))
    assert replace(streaming_encoder(encoder), **change).same_sizes(theirs) != theirs


def test_a_style_that_does_not_stream_is_refused():
    encoder = StreamingEncoder("full", 2, 0, Subsampling(8, 3, 3, 2, (2, 1)))
    with pytest.raises(StreamparityError, match="does not stream"):
        encoder.configuration((70, 1))


@pytest.mark.parametrize("name", ENCODERS)
def test_frames_out_are_those_of_nemos_subsampling(name):
    import torch

    encoder = small_encoder(name)
    ours = streaming_encoder(encoder).subsampling
    with torch.inference_mode():
        for frames in range(1, 140):
            out, lengths = encoder.pre_encode(x=torch.zeros(1, frames, 8), lengths=torch.tensor([frames]))
            assert ours.frames_out(frames) == out.shape[1] == int(lengths[0])


def nemo_steps(encoder, frames: int, schedule: str, limit: int) -> list[tuple[int, int]]:
    """Frames out and cache length of the first steps of NeMo's streaming script."""
    import torch

    buffer = nemo_buffer(encoder, schedule)
    buffer.input_features = 8
    buffer.append_processed_signal(torch.randn(1, 8, frames))
    caches = encoder.get_initial_cache_state(batch_size=1)
    seen = []
    for index, (signal, lengths) in islice(enumerate(buffer), limit):
        out, kept, *caches = encoder.cache_aware_stream_step(
            signal,
            lengths,
            *caches,
            keep_all_outputs=buffer.is_buffer_empty(),
            drop_extra_pre_encoded=0 if index == 0 and schedule == "native" else None,
        )
        assert out.shape[2] == int(kept[0])
        seen.append((int(kept[0]), int(caches[2][0])))
    return seen


RUNS = [
    *(("chunked", context, sizes) for context in ((70, 13), (70, 6), (70, 1), (70, 0)) for sizes in ((None, None),)),
    ("striding-by-4", (70, 6), (None, None)),
    ("regular", (16, 2), (None, None)),
    ("regular-causal", (20, 1), (5, 2)),
    ("unlimited", (256, -1), (6, 3)),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "context", "sizes"), RUNS)
def test_frames_out_and_cache_lengths_are_those_of_nemos_steps(name, context, sizes, schedule):
    import torch

    encoder = small_encoder(name)
    config = configured(encoder, context, *sizes)
    subsampling = streaming_encoder(encoder).subsampling
    compared = 0
    with torch.inference_mode():
        for frames in np.random.default_rng(5).integers(config.chunk_size[1], 420, 6).tolist():
            ours = list(steps(config, subsampling, GRID, (frames - 1) * GRID.hop, schedule))
            # What NeMo cannot run comes last: no frame left, or fewer than it keeps out of the caches.
            runs = [step for step in ours if step.out > 0 and step.kept >= 0]
            assert ours[: len(runs)] == runs
            told = [(step.out, step.cache_length) for step in runs]
            assert told == nemo_steps(encoder, frames, schedule, len(runs))
            compared += len(runs)
    assert compared > 10


def test_nemo_fails_where_fewer_frames_are_computed_than_kept_out_of_the_caches():
    import torch

    encoder = small_encoder("regular")
    config = configured(encoder)
    ours = list(steps(config, streaming_encoder(encoder).subsampling, GRID, 300 * GRID.hop, "padded"))
    assert min(step.kept for step in ours) < 0
    with torch.inference_mode(), pytest.raises(RuntimeError, match="size of tensor"):
        nemo_steps(encoder, 301, "padded", len(ours))
