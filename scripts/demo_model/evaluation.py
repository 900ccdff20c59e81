"""Word error rate of the demo model by streaming, on voices it never heard."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from nemo.collections.asr.metrics.wer import word_error_rate

from streamparity.reference.audio import open_recording
from streamparity.reference.dumper import spoken
from streamparity.reference.features import FeatureStream
from streamparity.reference.nemo import LoadedModel, StreamingOptions, configure_streaming, decoder_of
from streamparity.reference.streamer import ReferenceStreamer
from streamparity.schedule import Schedule, chunks

from .model import ATT_CONTEXTS
from .speech import HELD_OUT_VARIANTS, SAMPLE_RATE, random_utterance, record, synthesise

SETS = {"1 to 6 digits": (240, (1, 6)), "12 to 24 digits": (40, (12, 24))}


@dataclass(frozen=True)
class HeldOut:
    """One held-out recording: float32 samples ``[N]`` at 16 kHz and what was said."""

    samples: np.ndarray
    text: str
    voice: str


def held_out(seed: int, count: int, digits: tuple[int, int], repeats: bool = True) -> list[HeldOut]:
    """Utterances in held-out voices, recorded under the conditions of training."""
    rng = np.random.default_rng(seed)
    utterances = [random_utterance(rng, HELD_OUT_VARIANTS, digits, repeats=repeats) for _ in range(count)]
    spoken_samples = synthesise(utterances)
    return [
        HeldOut(record(rng, [samples]), utterance.text, f"{utterance.accent}+{utterance.variant}")
        for utterance, samples in zip(utterances, spoken_samples, strict=True)
    ]


def transcribe(model: LoadedModel, samples: np.ndarray, context: list[int], schedule: Schedule = "padded") -> str:
    """Stream ``samples`` chunk by chunk through the model at one attention context."""
    config = configure_streaming(model.module, StreamingOptions(tuple(context)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        features = FeatureStream(model.module, open_recording(path, SAMPLE_RATE))
        streamer = ReferenceStreamer(model.module, decoder_of(model.module))
        for _ in streamer.run(features, chunks(config, features.total_frames, schedule)):
            pass
    return spoken(model.module, streamer.tokens)


def measure(model: LoadedModel, seed: int) -> dict[str, dict[str, float]]:
    """Word error rate per set and attention context, by streaming with the padded schedule."""
    rates: dict[str, dict[str, float]] = {}
    for name, (count, digits) in SETS.items():
        recordings = held_out(seed, count, digits)
        rates[name] = {}
        for context in ATT_CONTEXTS:
            heard = [transcribe(model, recording.samples, context) for recording in recordings]
            rate = word_error_rate(hypotheses=heard, references=[recording.text for recording in recordings])
            rates[name][str(context)] = rate
            print(f"{name} at {context}: {100 * rate:.2f} % of {len(recordings)} utterances", flush=True)
    return rates
