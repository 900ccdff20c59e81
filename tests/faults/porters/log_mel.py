"""A port's own log-mel front end, in numpy: right by default, wrong in one way where told."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from streamparity.demo import demo_audio, demo_recordings
from streamparity.runners import StepInput
from streamparity.tensors import Array

from ..loop_faults import DrivenRunner

RATE, N_FFT, WINDOW, HOP, MELS, GUARD = 16000, 512, 400, 160, 128, 2.0**-24


@cache
def samples() -> Array:
    import soundfile

    with demo_audio(demo_recordings()[1]) as audio:
        return soundfile.read(audio, dtype="float32")[0].astype(np.float64)


@cache
def log_mel(
    htk: bool = False,
    norm: str | None = "slaney",
    fmax: float | None = None,
    preemphasis: float = 0.97,
    periodic: bool = False,
    right_padded: bool = False,
    edges: str = "constant",
    power: float = 2.0,
    logarithm: str = "add",
    dither: float = 0.0,
    normalised: bool = False,
) -> Array:
    """Features ``[mel, frames]`` of the recording that the dump is of; the last frame is zero, as NeMo's is."""
    import librosa

    signal = samples()
    signal = signal + dither * np.random.default_rng(0).standard_normal(signal.shape)
    signal = np.concatenate([signal[:1], signal[1:] - preemphasis * signal[:-1]])
    count = len(signal) // HOP + 1
    padded = np.pad(signal, N_FFT // 2, mode=edges)
    window = np.hanning(WINDOW + 1)[:-1] if periodic else np.hanning(WINDOW)
    before = 0 if right_padded else (N_FFT - WINDOW) // 2
    window = np.pad(window, (before, N_FFT - WINDOW - before))
    frames = np.stack([padded[i * HOP : i * HOP + N_FFT] * window for i in range(count)])
    spectrum = np.abs(np.fft.rfft(frames)) ** power
    bank = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS, fmax=fmax, htk=htk, norm=norm)
    energies = bank.astype(np.float64) @ spectrum.T
    if logarithm == "add":
        features = np.log(energies + GUARD)
    elif logarithm == "clamp":
        features = np.log(np.maximum(energies, 1e-5))
    else:
        features = np.log10(energies + GUARD)
    if normalised:
        features = (features - features.mean(1, keepdims=True)) / (features.std(1, keepdims=True, ddof=1) + 1e-5)
    features[:, -1] = 0
    return features.astype(np.float32)


def through(shift: int = 0, **how):
    """Feed the port's own features in place of the dump's, ``shift`` frames late."""

    def features(self: DrivenRunner, chunk: StepInput) -> StepInput:
        return replace(chunk, audio_signal=placed(self, chunk, log_mel(**how), shift))

    return features


def placed(self: DrivenRunner, chunk: StepInput, whole: Array, shift: int = 0) -> Array:
    config = self.bench.reference().manifest.streaming
    width = chunk.audio_signal.shape[2]
    at = np.arange(width) + config.shift_size[1] * self.index - config.pre_encode_cache_size[1] - shift
    inside = (at >= 0) & (at < whole.shape[1])
    fed = np.zeros_like(chunk.audio_signal)
    fed[:, :, inside] = whole[:, at[inside]]
    return fed


def chunk_by_chunk(self: DrivenRunner, chunk: StepInput) -> StepInput:
    """Features of each chunk from its own samples only: pre-emphasis and windows start anew at every edge."""
    config = self.bench.reference().manifest.streaming
    return replace(chunk, audio_signal=placed(self, chunk, by_chunks(config.shift_size[1])))


@cache
def by_chunks(frames: int) -> Array:
    import librosa

    bank = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS).astype(np.float64)
    window = np.pad(np.hanning(WINDOW), (N_FFT - WINDOW) // 2)
    count, parts = len(samples()) // HOP + 1, []
    for first in range(0, count, frames):
        mine = samples()[first * HOP : (first + frames) * HOP]
        if len(mine) == 0:
            break
        mine = np.concatenate([mine[:1], mine[1:] - 0.97 * mine[:-1]])
        padded = np.pad(mine, N_FFT // 2)
        padded = np.pad(padded, (0, max(0, frames * HOP + N_FFT - len(padded))))
        cut = np.stack([padded[i * HOP : i * HOP + N_FFT] * window for i in range(frames)])
        parts.append(np.log(bank @ (np.abs(np.fft.rfft(cut)) ** 2).T + GUARD))
    features = np.concatenate(parts, axis=1)[:, :count]
    features = np.pad(features, ((0, 0), (0, count - features.shape[1])))
    features[:, -1] = 0
    return features.astype(np.float32)
