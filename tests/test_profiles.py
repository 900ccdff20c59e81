"""Optimization profiles from the chunk schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamparity.contract.profiles import Profile, decoder_profiles_of, profiles_of
from streamparity.errors import StreamparityError
from streamparity.schedule import StreamingConfig, chunks

DEMO = StreamingConfig((70, 1), "chunked_limited", (9, 16), (9, 16), (0, 9), (1, 8), 2, 0, 2, 70, 8)
# The published model whose engine took 41 to 57 frames: chunk_size [41, 48] behind [0, 9] frames of history.
PUBLISHED = replace(DEMO, chunk_size=(41, 48), shift_size=(17, 24), cache_drop_size=3, valid_out_len=3)
PORTS = {
    "audio_signal": (None, 128, None),
    "length": (None,),
    "cache_last_channel": (None, 3, None, 64),
    "cache_last_time": (None, 3, 64, None),
    "cache_last_channel_len": (None,),
}


def lengths(profiles: tuple[Profile, ...]) -> dict[str, tuple[int, int]]:
    return {p.name: (p.shapes["audio_signal"][0][2], p.shapes["audio_signal"][2][2]) for p in profiles}


def test_the_padded_schedule_needs_one_length_and_one_for_a_shorter_end():
    assert lengths(profiles_of(DEMO, PORTS, time_slots=8)) == {"step": (25, 25), "tail": (17, 24)}
    assert lengths(profiles_of(DEMO, PORTS, time_slots=8, tail=False)) == {"step": (25, 25)}


def test_the_native_schedule_needs_two():
    made = profiles_of(PUBLISHED, PORTS, "native", time_slots=8, tail=False)
    assert lengths(made) == {"first": (41, 41), "step": (57, 57)}


@pytest.mark.parametrize(("config", "schedule"), [(DEMO, "padded"), (PUBLISHED, "padded"), (PUBLISHED, "native")])
def test_every_chunk_of_any_stream_has_a_profile(config, schedule):
    profiles = profiles_of(config, PORTS, schedule, time_slots=8)
    caches = {"cache_last_channel": (1, 3, 70, 64), "cache_last_time": (1, 3, 64, 8)}
    for frames in range(config.chunk_size[0], 400):
        for chunk in chunks(config, frames, schedule):
            shapes = {"audio_signal": (1, 128, chunk.frames), "length": (1,), **caches}
            if schedule == "native" and chunk.index == 0 and chunk.last:
                continue  # a stream that ends in its first, native chunk is no stream
            assert any(profile.admits(shapes) for profile in profiles), chunk


def test_a_chunk_too_short_for_what_the_graph_drops_explains_itself():
    with pytest.raises(
        StreamparityError, match="9 feature frames makes 2 encoder frames, of which the graph drops 2"
    ) as caught:
        profiles_of(DEMO, PORTS, "native", time_slots=8)
    assert "--schedule padded" in caught.value.hint


def test_caches_are_fixed_and_the_batch_has_a_range():
    step = profiles_of(DEMO, PORTS, batch=(1, 2, 4), time_slots=8)[0]
    assert step.shapes["cache_last_channel"] == ((1, 3, 70, 64), (2, 3, 70, 64), (4, 3, 70, 64))
    assert step.shapes["cache_last_time"] == ((1, 3, 64, 8), (2, 3, 64, 8), (4, 3, 64, 8))
    assert step.shapes["length"] == ((1,), (2,), (4,))


def test_ports_keep_the_names_that_the_graph_gives_them():
    renamed = {"processed_signal" if name == "audio_signal" else name: shape for name, shape in PORTS.items()}
    assert "processed_signal" in profiles_of(DEMO, renamed, time_slots=8)[0].shapes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cache_last_channel": (None, 3, 56, 64)}, "cache_last_channel is fixed at 56 along C; .* needs 70"),
        ({"cache_last_time": (None, 3, 64, 6)}, "cache_last_time is fixed at 6 along K; .* needs 8"),
        ({"audio_signal": (None, 128, 41)}, "audio_signal is fixed at 41 along T"),
        ({"audio_signal": (None, 128)}, "has 2 axes, not 3"),
    ],
    ids=["channel", "time", "length", "axes"],
)
def test_a_port_fixed_at_another_size_is_named(change, expected):
    with pytest.raises(StreamparityError, match=expected):
        profiles_of(DEMO, {**PORTS, **change}, time_slots=8)


def test_what_is_fixed_at_the_right_size_is_taken():
    fixed = {**PORTS, "cache_last_channel": (1, 3, 70, 64), "cache_last_time": (1, 3, 64, 8)}
    assert profiles_of(DEMO, fixed) == profiles_of(DEMO, PORTS, time_slots=8)


def test_no_caches_no_profile():
    with pytest.raises(StreamparityError, match="no cache_last_channel, cache_last_time, cache_last_channel_len"):
        profiles_of(DEMO, {name: PORTS[name] for name in ("audio_signal", "length")})


def test_a_size_that_nothing_tells_and_a_batch_that_is_no_range_are_refused():
    with pytest.raises(StreamparityError, match="how many K cache_last_time has"):
        profiles_of(DEMO, PORTS)
    with pytest.raises(StreamparityError, match="is no range"):
        profiles_of(DEMO, PORTS, batch=(2, 1, 1), time_slots=8)


def test_the_decoder_takes_one_frame_and_one_label():
    ports = {
        "encoder_outputs": (None, 64, None),
        "targets": (None, None),
        "target_length": (None,),
        "input_states_1": (2, None, 64),
        "input_states_2": (2, None, 64),
    }
    (profile,) = decoder_profiles_of(ports)
    assert profile.shapes["encoder_outputs"][2] == (1, 64, 1)
    assert profile.shapes["targets"][2] == (1, 1)
    assert profile.shapes["input_states_1"][0] == (2, 1, 64)
    with pytest.raises(StreamparityError, match="no input_states_1"):
        decoder_profiles_of({name: ports[name] for name in ("encoder_outputs", "targets", "target_length")})


def test_a_profile_survives_json():
    for profile in profiles_of(PUBLISHED, PORTS, "native", time_slots=8):
        assert Profile.from_json(profile.to_json()) == profile
