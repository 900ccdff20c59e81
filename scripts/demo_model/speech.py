"""Spoken digit strings from espeak-ng, deterministic from a seed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool

import numpy as np
import soxr

SAMPLE_RATE = 16_000
ESPEAK_RATE = 22_050
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# How far a voice is shifted by resampling. Training goes further: it makes up for voices it does not have.
HELD_OUT_RATES = (0.92, 1.08)
TRAINING_RATES = (0.84, 1.18)
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp")
HELD_OUT_VARIANTS = (
    "f2", "m5", "Alicia", "Denis", "Lee", "anika", "edward", "linda", "marcelo", "steph2", "iven3", "klatt4",
)  # fmt: skip
TRAINING_VARIANTS = (
    "f1", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "Alex", "Andrea", "Andy", "Annie",
    "Diogo", "Gene", "Gene2", "Hugo", "Jacky", "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam",
    "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward2", "gustave", "iven",
    "iven2", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "max", "michel", "miguel", "norbert",
    "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph3", "travis", "victor",
)  # fmt: skip


@dataclass(frozen=True)
class Utterance:
    """One thing to say and how to say it."""

    words: tuple[str, ...]
    accent: str
    variant: str
    speed: int
    pitch: int
    gap: int
    rate_factor: float
    commas: bool

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def speak(self) -> np.ndarray:
        """Synthesise; int16 samples ``[N]`` at 16 kHz."""
        command = ["espeak-ng", "--stdout", "-v", f"{self.accent}+{self.variant}", "-s", str(self.speed)]
        command += ["-p", str(self.pitch), "-g", str(self.gap), (", " if self.commas else " ").join(self.words)]
        wav = subprocess.run(command, check=True, capture_output=True).stdout
        samples = np.frombuffer(wav[44:], dtype="<i2").astype(np.float32) / 32768
        resampled = soxr.resample(samples, ESPEAK_RATE * self.rate_factor, SAMPLE_RATE)
        return np.round(np.clip(resampled, -1, 1) * 32767).astype(np.int16)


def random_utterance(
    rng: np.random.Generator,
    variants: Sequence[str],
    digits: tuple[int, int],
    *,
    repeats: bool = True,
    rates: tuple[float, float] = HELD_OUT_RATES,
) -> Utterance:
    """Draw an utterance of ``digits[0]..digits[1]`` digits; without ``repeats`` no digit follows itself."""
    words: list[str] = []
    for _ in range(int(rng.integers(digits[0], digits[1] + 1))):
        choices = [digit for digit in DIGITS if repeats or not words or digit != words[-1]]
        words.append(str(rng.choice(choices)))
    return Utterance(
        words=tuple(words),
        accent=str(rng.choice(ACCENTS)),
        variant=str(rng.choice(list(variants))),
        speed=int(rng.integers(115, 201)),
        pitch=int(rng.integers(20, 86)),
        gap=int(rng.integers(0, 9)),
        rate_factor=float(rng.uniform(*rates)),
        commas=bool(rng.random() < 0.25),
    )


def synthesise(utterances: Sequence[Utterance], processes: int = 2) -> list[np.ndarray]:
    """Speak every utterance, in order; a list of int16 arrays ``[N]``."""
    with Pool(processes) as pool:
        return pool.map(Utterance.speak, utterances, chunksize=64)


def coloured_noise(rng: np.random.Generator, length: int, exponent: float) -> np.ndarray:
    """Unit-power noise whose power falls as ``1 / f**exponent``; float32 ``[length]``."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= np.maximum(np.arange(spectrum.size), 1) ** (exponent / 2)
    noise = np.fft.irfft(spectrum, length)
    return (noise / (np.sqrt(np.mean(noise**2)) + 1e-12)).astype(np.float32)


def record(rng: np.random.Generator, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Join spoken pieces as a microphone would hear them: silence, gain, background noise; float32 ``[N]``."""
    parts = [np.zeros(int(rng.uniform(0.0, 0.6) * SAMPLE_RATE), np.float32)]
    for piece in pieces:
        parts += [piece.astype(np.float32) / 32768, np.zeros(int(rng.uniform(0.1, 0.7) * SAMPLE_RATE), np.float32)]
    signal = np.concatenate(parts)
    power = np.sqrt(np.mean(signal**2)) + 1e-9
    signal = signal * (10 ** (rng.uniform(-38, -16) / 20) / power)
    if rng.random() < 0.75:
        noise = coloured_noise(rng, signal.size, float(rng.choice([0.0, 1.0, 2.0])))
        signal = signal + noise * np.sqrt(np.mean(signal**2)) * 10 ** (-rng.uniform(12, 45) / 20)
    return np.clip(signal, -1, 1).astype(np.float32)
