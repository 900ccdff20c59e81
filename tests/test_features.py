from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streamparity.errors import StreamparityError
from streamparity.reference.audio import BLOCK_SECONDS, Recording, open_recording
from streamparity.reference.features import BLOCK_FRAMES, FeatureStream

RATE = 16000
HOP = 160
BLOCK = BLOCK_FRAMES * HOP
LENGTHS = [
    *(1, HOP - 1, HOP, HOP + 1, 3 * HOP),  # less than one block
    *(BLOCK - HOP, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + HOP, BLOCK + 3 * HOP, 2 * BLOCK),
    *(BLOCK_SECONDS * RATE - 1, BLOCK_SECONDS * RATE, BLOCK_SECONDS * RATE + 1),
    *np.random.default_rng(3).integers(HOP, 8 * RATE, 8).tolist(),
]

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write samples as a sound file, float WAV unless told otherwise."""
    import soundfile

    def write(samples: np.ndarray, rate: int = RATE, name: str = "speech.wav", subtype: str = "FLOAT") -> Path:
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        return tmp_path / name

    return write


@pytest.fixture
def normalize(loaded) -> Iterator[Callable[[str], None]]:
    config = loaded.module.cfg.preprocessor
    original = config.normalize
    yield lambda kind: setattr(config, "normalize", kind)
    config.normalize = original


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Coloured noise that swells and fades, so that no two frames are alike."""
    white = np.random.default_rng(seed + samples).normal(size=samples + 4)
    swell = 0.55 + 0.45 * np.sin(np.arange(samples) / 3000)
    return (0.1 * swell * np.convolve(white, [0.4, 0.3, 0.2, 0.1, 0.05], "valid")).astype(np.float32)


def nemo_features(model, samples: np.ndarray) -> np.ndarray:
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(model)
    buffer.append_audio(samples)
    return buffer.buffer.numpy()


def stream_of(model, path: Path) -> FeatureStream:
    return FeatureStream(model, open_recording(path, RATE))


@pytest.mark.parametrize("length", LENGTHS)
def test_features_are_those_of_nemos_buffer(loaded, write, length):
    samples = noise(length)
    expected = nemo_features(loaded.module, samples)
    stream = stream_of(loaded.module, write(samples))
    actual = stream.frames(0, stream.total_frames)
    assert stream.total_frames == length // HOP + 1 == expected.shape[2]
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert not actual[:, :, -1].any()
    assert actual[:, :, :-1].any(axis=1).all()


@pytest.mark.parametrize("at", [5 * HOP, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_one_changed_sample_changes_the_frames_that_see_it_and_no_others(loaded, write, at):
    samples = noise(4 * BLOCK)
    original = nemo_features(loaded.module, samples)
    samples[at] += 0.5
    stream = stream_of(loaded.module, write(samples))
    moved = np.abs(stream.frames(0, stream.total_frames) - original)[0].max(axis=0) > 1e-5
    touched = np.flatnonzero(moved)
    assert touched.size >= 2
    assert touched.min() * HOP >= at - 400
    assert touched.max() * HOP <= at + 400


@pytest.mark.parametrize("kind", ["NA", "per_feature", "all_features"])
def test_the_same_bytes_come_whatever_the_access_pattern(loaded, write, normalize, kind):
    normalize(kind)
    path = write(noise(5 * BLOCK + 777))
    stream = stream_of(loaded.module, path)
    total = stream.total_frames
    whole = stream.frames(0, total)
    starts = np.random.default_rng(1).integers(0, total - 1, 12).tolist()
    ordered = [(start, min(start + 25, total)) for start in range(0, total, 16)]
    jumps = [(start, min(start + 140, total)) for start in starts]
    for pieces in (ordered, ordered[len(ordered) // 2 :], jumps, [(total - 1, total), (0, 1), (0, total)]):
        fresh = stream_of(loaded.module, path)
        for start, stop in pieces:
            assert fresh.frames(start, stop).tobytes() == whole[:, :, start:stop].tobytes()


def steady(samples: int) -> np.ndarray:
    """A pulse per frame, 3 % louder or softer: features deviate so little that the floor under that counts."""
    pulses = np.zeros(samples, np.float32)
    pulses[HOP // 2 :: HOP] = 1 + 0.03 * np.random.default_rng(4).normal(size=pulses[HOP // 2 :: HOP].size)
    return 0.5 * pulses


SOUNDS = [*(noise(length) for length in (5 * HOP, BLOCK, 2 * BLOCK + 333, 9 * RATE)), steady(3 * BLOCK)]


@pytest.mark.parametrize("samples", SOUNDS, ids=["short", "one block", "odd length", "long", "steady"])
@pytest.mark.parametrize("kind", ["per_feature", "all_features"])
def test_normalised_features_are_those_of_nemos_buffer(loaded, write, normalize, kind, samples):
    path = write(samples)
    plain = stream_of(loaded.module, path)
    raw = plain.frames(0, plain.total_frames)
    normalize(kind)
    stream = stream_of(loaded.module, path)
    actual = stream.frames(0, stream.total_frames)
    np.testing.assert_allclose(actual, nemo_features(loaded.module, samples), rtol=0, atol=1e-4)
    assert np.abs(actual - raw).max() > 1
    assert not actual[:, :, -1].any()


def test_memory_does_not_grow_with_the_recording(loaded, write):
    path = write(np.tile(noise(10 * RATE), 12))
    tracemalloc.start()
    try:
        stream = stream_of(loaded.module, path)
        for start in range(0, stream.total_frames - 25, 16):
            stream.frames(start, start + 25)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.total_frames * 128 * 4 > 6_000_000
    assert peak < 3_000_000


def samples_of(recording: Recording) -> np.ndarray:
    return np.concatenate(list(recording.blocks()))


def test_a_recording_at_the_models_rate_is_handed_out_unchanged(write):
    samples = noise(2 * BLOCK_SECONDS * RATE + 5)
    recording = open_recording(write(samples), RATE)
    assert recording.notes == ()
    assert recording.samples == samples.size
    assert recording.seconds == samples.size / RATE
    assert samples_of(recording).tobytes() == samples.tobytes()


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_are_averaged_and_the_user_is_told(write, channels):
    samples = np.stack([noise(BLOCK_SECONDS * RATE + 99, seed) for seed in range(channels)], axis=1)
    recording = open_recording(write(samples), RATE)
    np.testing.assert_allclose(samples_of(recording), samples.astype(np.float64).mean(axis=1), rtol=0, atol=1e-7)
    assert [f"{channels} channels averaged" in note for note in recording.notes] == [True]


@pytest.mark.parametrize("seconds", [1.234, 2 * BLOCK_SECONDS])
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_another_rate_is_resampled_as_a_whole_would_be_and_the_user_is_told(write, rate, seconds):
    import soxr

    samples = noise(int(rate * seconds))
    recording = open_recording(write(samples, rate), RATE)
    expected = soxr.resample(samples, rate, RATE, quality="VHQ")
    actual = samples_of(recording)
    middle = slice(RATE // 10, expected.size - RATE // 10)
    assert recording.samples == actual.size == expected.size
    np.testing.assert_allclose(actual[middle], expected[middle], rtol=0, atol=1e-4)
    assert np.abs(expected[middle]).max() > 0.1
    assert [f"from {rate} to {RATE} Hz" in note for note in recording.notes] == [True]


def test_stereo_at_another_rate_is_averaged_and_resampled(write):
    import soxr

    left, right = noise(48000, 1), noise(48000, 2)
    recording = open_recording(write(np.stack([left, right], axis=1), 48000), RATE)
    expected = soxr.resample((left + right) / 2, 48000, RATE, quality="VHQ")
    np.testing.assert_allclose(samples_of(recording), expected, rtol=0, atol=1e-4)
    assert len(recording.notes) == 2


def test_the_hash_is_of_the_samples_and_not_of_the_file(write):
    sixteen_bit = np.round(noise(3 * RATE) * 32768).astype(np.int16)
    samples = sixteen_bit.astype(np.float32) / 32768
    first = open_recording(write(samples), RATE)
    assert first.sha256 == hashlib.sha256(samples.tobytes()).hexdigest()
    assert open_recording(first.path, RATE).sha256 == first.sha256
    assert open_recording(write(sixteen_bit, name="same.flac", subtype="PCM_16"), RATE).sha256 == first.sha256
    samples[RATE] += 1 / 32768
    assert open_recording(write(samples, name="other.wav"), RATE).sha256 != first.sha256


def with_value(value: float) -> np.ndarray:
    samples = noise(RATE * 5)
    samples[RATE * 9 // 2] = value
    return samples


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda write, folder: write(with_value(np.nan)), "NaN or infinite"),
        (lambda write, folder: write(with_value(-np.inf)), "NaN or infinite"),
        (lambda write, folder: write(np.stack([with_value(np.nan), noise(RATE * 5)], axis=1)), "NaN or infinite"),
        (lambda write, folder: write(with_value(np.nan), 48000), "NaN or infinite"),
        (lambda write, folder: write(np.zeros(0, np.float32)), "no samples"),
        (lambda write, folder: folder / "absent.wav", "does not exist"),
        (lambda write, folder: not_audio(folder / "words.wav"), "not a readable sound file"),
        (lambda write, folder: not_audio(folder / "words.raw"), "not a readable sound file"),
    ],
    ids=["nan", "infinity", "nan in one channel", "nan resampled", "empty", "missing", "text", "headerless"],
)
def test_a_bad_recording_is_refused_in_one_line(write, tmp_path, make, says):
    with pytest.raises(StreamparityError, match=says) as refused:
        open_recording(make(write, tmp_path), RATE)
    assert "\n" not in refused.value.message
    assert refused.value.hint


def not_audio(path: Path) -> Path:
    path.write_text("these are words, not sounds " * 20)
    return path


def test_a_large_but_finite_sample_is_no_reason_to_refuse(write):
    assert open_recording(write(with_value(3e38)), RATE).samples == RATE * 5
