"""Features of the samples that a chunk needs, against those of the whole recording, by NeMo's own preprocessor."""

from __future__ import annotations

import numpy as np
import pytest

from streamparity.schedule import SCHEDULES, AudioPiece, FrameGrid, chunks

RATE = 16000
CONTEXTS = [(70, 13), (70, 6), (70, 1), (70, 0)]
# window and hop in samples, n_fft: NeMo's usual, its default, an odd window, one no longer than the hop, a long one.
GRIDS = [(400, 160, 512), (320, 160, 512), (401, 160, 512), (160, 160, 512), (1024, 160, 1024), (400, 100, 512)]


def preprocessor(window: int, hop: int, n_fft: int):
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    made = AudioToMelSpectrogramPreprocessor(
        sample_rate=RATE,
        window_size=None,
        window_stride=None,
        n_window_size=window,
        n_window_stride=hop,
        n_fft=n_fft,
        features=40,
        normalize="NA",
        dither=0.0,
        pad_to=0,
    )
    return made.eval()


def features(made, samples: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        computed, _ = made(input_signal=torch.from_numpy(samples)[None], length=torch.tensor([samples.size]))
    return computed[0].numpy()


def kept(made, samples: np.ndarray, piece: AudioPiece) -> np.ndarray:
    return features(made, samples[piece.start : piece.stop])[:, piece.skip : piece.skip + piece.frames]


def noise(samples: int) -> np.ndarray:
    """Coloured noise that swells and fades, so that no two frames are alike."""
    white = np.random.default_rng(samples).normal(size=samples + 4)
    swell = 0.55 + 0.45 * np.sin(np.arange(samples) / 3000)
    return (0.1 * swell * np.convolve(white, [0.4, 0.3, 0.2, 0.1, 0.05], "valid")).astype(np.float32)


@pytest.fixture(scope="module")
def configurations(loaded):
    from streamparity.reference.contract import streaming_encoder

    encoder = streaming_encoder(loaded.module.encoder)
    return {
        **{context: encoder.configuration(context) for context in CONTEXTS},
        "overlapping": encoder.configuration((70, 1), 6, 3),
    }


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("context", [*CONTEXTS, "overlapping"], ids=str)
def test_features_of_every_chunks_samples_are_the_offline_ones(loaded, configurations, context, schedule):
    made, grid = loaded.module.preprocessor, FrameGrid(RATE, 160, 400)
    compared = 0
    for length in np.random.default_rng(11).integers(3000, 3 * RATE, 10).tolist():
        samples = noise(length)
        offline = features(made, samples)
        assert offline.shape[1] == grid.frames(length)
        for chunk in chunks(configurations[context], grid.frames(length), schedule):
            piece = grid.piece(chunk.start, chunk.stop, length)
            live = kept(made, samples, piece)
            assert live.shape == (offline.shape[0], chunk.stop - chunk.start)
            np.testing.assert_allclose(live, offline[:, chunk.start : chunk.stop], rtol=0, atol=1e-5)
            compared += live.size
    assert compared > 100_000


@pytest.mark.parametrize(("window", "hop", "n_fft"), GRIDS)
def test_whatever_the_window_and_hop(window, hop, n_fft):
    made, grid, samples = preprocessor(window, hop, n_fft), FrameGrid(RATE, hop, window), noise(12_345)
    offline = features(made, samples)
    for first in range(0, offline.shape[1] - 1, 3):
        for stop in (first + 1, min(first + 9, offline.shape[1])):
            live = kept(made, samples, grid.piece(first, stop, samples.size))
            np.testing.assert_allclose(live, offline[:, first:stop], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "hop", "n_fft"), GRIDS)
def test_fewer_samples_give_other_features(window, hop, n_fft):
    """Without the frames in front, or an eighth of a window behind, the features at that edge are others."""
    made, grid, samples = preprocessor(window, hop, n_fft), FrameGrid(RATE, hop, window), noise(12_345)
    offline = features(made, samples)[:, 20:29]
    piece = grid.piece(20, 29)
    in_front = AudioPiece(piece.start + hop * piece.skip, piece.stop, 0, piece.frames)
    behind = AudioPiece(piece.start, piece.stop - window // 8, piece.skip, piece.frames)
    assert np.abs(kept(made, samples, in_front) - offline)[:, 0].max() > 1e-3
    assert np.abs(kept(made, samples, behind) - offline)[:, -1].max() > 1e-3


def test_live_audio_needs_no_more_than_what_the_end_of_a_recording_cuts_off():
    grid = FrameGrid(RATE, 160, 400)
    assert grid.piece(16, 32) == AudioPiece(start=2240, stop=5160, skip=2, frames=16)
    assert grid.piece(16, 32, 100_000) == grid.piece(16, 32)
    assert grid.piece(16, 32, 5000).stop == 5000
    assert grid.piece(0, 16).start == grid.piece(0, 16).skip == 0
    assert grid.piece(1, 16).skip == 1
