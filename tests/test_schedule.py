from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from streamparity.errors import StreamparityError
from streamparity.schedule import SCHEDULES, Chunk, StreamingConfig, chunks

from .nemo_encoders import nemo_buffer, small_encoder

CONTEXTS = [(70, 13), (70, 6), (70, 1), (70, 0)]
OVERRIDES = [(6, 3), (4, 1), (2, 2), (1, 1)]
# Every length up to two dozen frames (where streams are too short to be cut), then a random sample.
LENGTHS = [*range(1, 25), *np.random.default_rng(7).integers(25, 700, 976).tolist()]

Configure = Callable[..., StreamingConfig]


@pytest.fixture
def configure(loaded) -> Iterator[Configure]:
    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    original = tuple(loaded.module.encoder.att_context_size)
    yield lambda **options: configure_streaming(loaded.module, StreamingOptions(**options))
    configure_streaming(loaded.module, StreamingOptions(att_context=original))


@pytest.fixture
def buffer(loaded):
    return lambda schedule: nemo_buffer(loaded.module.encoder, schedule)


def numbered(total: int) -> np.ndarray:
    """Frame i holds i + 1, so that no frame looks like another, nor like padding."""
    return np.arange(1, total + 1, dtype=np.float32)


def nemo_chunks(buffer, total: int) -> list[tuple[list[float], int, bool]]:
    import torch

    buffer.reset_buffer()
    buffer.append_processed_signal(torch.from_numpy(numbered(total)).expand(1, buffer.input_features, total))
    cut = []
    for signal, lengths in buffer:
        cut.append((signal[0, 0].tolist(), int(lengths[0]), buffer.is_buffer_empty()))
    return cut


def our_chunks(config: StreamingConfig, total: int, schedule: str) -> list[tuple[list[float], int, bool]]:
    frames = numbered(total)

    def fed(chunk: Chunk) -> list[float]:
        return [0.0] * chunk.zeros + frames[chunk.history : chunk.stop].tolist()

    return [(fed(chunk), chunk.frames, chunk.last) for chunk in chunks(config, total, schedule)]


def differing_lengths(config: StreamingConfig, buffer, schedule: str) -> list[int]:
    return [total for total in LENGTHS if our_chunks(config, total, schedule) != nemo_chunks(buffer, total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_chunks_are_those_of_nemos_buffer(configure, buffer, context, schedule):
    config = configure(att_context=context)
    assert config.att_context_size == context
    assert differing_lengths(config, buffer(schedule), schedule) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("chunk_size", "shift_size"), OVERRIDES)
def test_chunks_under_overridden_sizes_are_those_of_nemos_buffer(configure, buffer, chunk_size, shift_size, schedule):
    config = configure(att_context=(70, 1), chunk_size=chunk_size, shift_size=shift_size)
    assert config.cache_drop_size == chunk_size - shift_size
    assert differing_lengths(config, buffer(schedule), schedule) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("name", "sizes"), [("regular", (None, None)), ("regular-causal", (5, 2)), ("unlimited", (6, 3))]
)
def test_chunks_of_regular_attention_are_those_of_nemos_buffer(name, sizes, schedule):
    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    encoder = small_encoder(name)
    config = configure_streaming(SimpleNamespace(encoder=encoder), StreamingOptions(None, *sizes))
    assert config.cache_drop_size > 0
    assert differing_lengths(config, nemo_buffer(encoder, schedule), schedule) == []


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_size": (9, 17)},
        {"shift_size": (9, 15)},
        {"pre_encode_cache_size": (0, 8)},
        {"sampling_frames": (1, 9)},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sizes_that_are_one_frame_off_give_other_chunks(configure, buffer, change, schedule):
    config = replace(configure(att_context=(70, 1)), **change)
    assert differing_lengths(config, buffer(schedule), schedule) != []


def test_padded_and_native_chunks_differ_and_only_the_native_first_one_drops_nothing(configure):
    config = configure(att_context=(70, 1))
    padded, native = (list(chunks(config, 200, schedule)) for schedule in SCHEDULES)
    assert {chunk.drop for chunk in padded} == {config.drop_extra_pre_encoded}
    assert [chunk.drop for chunk in native] == [0] + [config.drop_extra_pre_encoded] * (len(native) - 1)
    assert len({chunk.frames for chunk in padded[:-1]}) == 1
    assert (native[0].frames, native[0].zeros) == (config.chunk_size[0], 0)
    assert (padded[0].frames, padded[0].zeros) == (25, config.pre_encode_cache_size[1])


@pytest.mark.parametrize("context", CONTEXTS)
def test_config_survives_json_and_a_changed_field_does_not_go_unseen(configure, context):
    config = configure(att_context=context)
    document = json.loads(json.dumps(config.to_json()))
    assert StreamingConfig.from_json(document) == config
    assert StreamingConfig.from_json({**document, "shift_size": [1, 2]}) != config
    with pytest.raises(KeyError, match="shift_size"):
        StreamingConfig.from_json({key: value for key, value in document.items() if key != "shift_size"})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_shift_that_never_advances_is_refused_and_one_frame_is_enough(configure, schedule):
    stuck = configure(att_context=(70, 1), chunk_size=6, shift_size=0)
    with pytest.raises(StreamparityError, match="never moves on") as refused:
        list(chunks(stuck, 100, schedule))
    assert "--shift-size" in refused.value.hint
    assert len(list(chunks(replace(stuck, shift_size=(1, 1)), 100, schedule))) > 80


def test_a_first_shift_that_never_advances_is_refused_too(configure):
    config = replace(configure(att_context=(70, 1)), shift_size=(0, 16))
    with pytest.raises(StreamparityError, match="never moves on"):
        list(chunks(config, 100, "native"))
