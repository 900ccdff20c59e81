"""Ways to get the encoder's features wrong, each a small function of those that should have been fed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..schedule import StreamingConfig
from ..tensors import Array
from .inputs import Inputs, Script

# NeMo adds 2^-24 before the logarithm; others clamp, or add what other toolkits add.
LOG_GUARD = 2.0**-24
OTHER_GUARDS = (0.0, 1e-10, 1e-9, 1e-6, 1e-5)


@dataclass(frozen=True)
class FeatureChange:
    """Inputs with features in place of the right ones; ``code`` and ``text`` as for cache changes."""

    code: str
    port: str
    text: str
    inputs: Inputs


def feature_changes(script: Script, chunk: int, config: StreamingConfig) -> Iterator[FeatureChange]:
    """Every way known, for the inputs of one chunk."""
    right = script.inputs(chunk)
    signal = right.tensors["audio_signal"]
    planned = script.plan[chunk]
    known = planned.start - planned.history + planned.zeros  # frames of history in front, zeros among them

    def fed(code: str, text: str, changed: Array) -> FeatureChange:
        return FeatureChange(code, "audio_signal", text, right.having(audio_signal=changed.astype(signal.dtype)))

    yield from (fed(*change) for change in _history(script, chunk, signal, known))
    yield from (fed(*change) for change in _moved(script, chunk, signal))
    yield from (fed(*change) for change in _values(signal, planned.zeros))
    yield from (fed(*change) for change in _layouts(signal))
    yield from _filled(script, chunk, right)
    for text, length in _lengths(signal.shape[2], known, right.tensors["length"]):
        yield FeatureChange("features-differ", "length", text, right.having(length=length))


def _filled(script: Script, chunk: int, right: Inputs) -> Iterator[FeatureChange]:
    """A short chunk, the last, made as long as the others."""
    signal = right.tensors["audio_signal"]
    width = script.inputs(max(chunk - 1, 0)).tensors["audio_signal"].shape[2]
    missing = width - signal.shape[2]
    if missing <= 0:
        return
    silence = np.full((*signal.shape[:2], missing), np.log(LOG_GUARD), signal.dtype)
    repeated = np.repeat(signal[:, :, -1:], missing, axis=2)
    for what, more in (("zeros", np.zeros_like(silence)), ("silence", silence), ("its last frame", repeated)):
        filled = np.concatenate([signal, more], axis=2)
        for says, length in (("", np.full_like(right.tensors["length"], width)), (" but for its length", None)):
            tensors = {"audio_signal": filled, "length": right.tensors["length"] if length is None else length}
            text = f"fills the last chunk up with {what}{says}"
            yield FeatureChange("features-differ", "audio_signal", text, right.having(**tensors))


def _history(script: Script, chunk: int, signal: Array, known: int) -> Iterator[tuple[str, str, Array]]:
    code = "pre-encode-overlap-wrong"
    first = script.plan[chunk].index == 0
    if first:
        code = "first-chunk-schedule"
    if not known:
        return
    for text, value in (
        ("zeros in place of the frames before the chunk", 0.0),
        ("silence in place of the frames before the chunk", float(np.log(LOG_GUARD))),
    ):
        blank = signal.copy()
        blank[:, :, :known] = value
        yield code, f"feeds {text}", blank
    repeated = signal.copy()
    repeated[:, :, :known] = signal[:, :, known : known + 1]
    yield code, "repeats the chunk's first frame in front of it", repeated
    late = np.concatenate([signal[:, :, known:], np.zeros_like(signal[:, :, :known])], axis=2)
    yield code, "feeds the chunk without the frames before it, zeros behind", late
    start = script.plan[chunk].start
    for shift in (-2, -1, 1, 2, -known, known):
        history = script.frames(start - known + shift, start + shift, chunk)
        if history is not None and not first:
            moved = signal.copy()
            moved[:, :, :known] = history
            yield code, f"takes the frames before the chunk {abs(shift)} too {'early' if shift < 0 else 'late'}", moved
    for count in (1, 2, known // 2, known - 1):
        if 0 < count < known and not first:
            short = signal.copy()
            short[:, :, : known - count] = 0
            yield code, f"feeds {count} frames before the chunk in place of {known}", short


def _moved(script: Script, chunk: int, signal: Array) -> Iterator[tuple[str, str, Array]]:
    planned = script.plan[chunk]
    width = signal.shape[2]
    for shift in (-1, 1, -2, 2, -4, 4, -8, 8):
        frames = script.frames(planned.stop - width + shift, planned.stop + shift, chunk)
        if frames is not None:
            text = f"feeds frames {abs(shift)} too {'early' if shift < 0 else 'late'}"
            yield "features-differ", text, frames
        rolled = np.roll(signal, -shift, 2)
        rolled[:, :, width - shift :] = 0
        if shift > 0:
            yield "features-differ", f"drops the first {shift} frames of each chunk, zeros behind", rolled
    last = signal.copy()
    last[:, :, -1:] = 0
    yield "features-differ", "leaves the last frame of each chunk empty (features computed chunk by chunk)", last
    for edge in (1, 2):
        held = signal.copy()
        held[:, :, -edge:] = signal[:, :, -edge - 1 : -edge]
        yield "features-differ", f"repeats a frame in place of the last {edge} of each chunk", held


def _values(signal: Array, zeros: int) -> Iterator[tuple[str, str, Array]]:
    """Changes of value; the frames of zeros in front of a stream stay zero."""
    code = "features-differ"
    real = signal[:, :, zeros:].astype(np.float64)

    def whole(part: Array) -> Array:
        changed = signal.astype(np.float64)
        changed[:, :, zeros:] = part
        return changed

    power = np.maximum(np.exp(real) - LOG_GUARD, 0)
    for guard in OTHER_GUARDS:
        with np.errstate(divide="ignore"):
            added = np.log(power + guard) if guard else np.log(np.maximum(power, np.finfo(np.float32).tiny))
        yield code, f"adds {guard:g} before the logarithm in place of 2^-24", whole(added)
        if guard:
            yield code, f"clamps at {guard:g} before the logarithm", whole(np.log(np.maximum(power, guard)))
    yield code, "takes the decimal logarithm", whole(real / np.log(10))
    yield code, "takes decibels", whole(real * 10 / np.log(10))
    yield code, "takes the logarithm to base 2", whole(real / np.log(2))
    yield code, "uses magnitudes in place of powers", whole(np.log(np.sqrt(power) + LOG_GUARD))
    yield code, "squares the powers", whole(np.log(power**2 + LOG_GUARD))
    yield code, "does not take the logarithm", whole(power)
    for gain, what in ((32768.0, "16-bit numbers in place of -1..1"), (1 / 32768.0, "samples divided by 32768 twice")):
        yield code, f"computes features of {what}", whole(np.log(power * gain**2 + LOG_GUARD))
    for axes, what in (((2,), "every mel band"), ((1, 2), "every chunk")):
        mean, deviation = real.mean(axis=axes, keepdims=True), real.std(axis=axes, keepdims=True, ddof=1)
        yield code, f"normalises {what} within the chunk", whole((real - mean) / (deviation + 1e-5))
        yield code, f"subtracts the mean of {what} within the chunk", whole(real - mean)
    yield code, "has the mel bands upside down", whole(real[:, ::-1])
    for shift in (1, -1):
        yield code, f"has the mel bands off by {shift}", whole(np.roll(real, shift, 1))


def _layouts(signal: Array) -> Iterator[tuple[str, str, Array]]:
    batch, mel, width = signal.shape
    misread = np.ascontiguousarray(signal.swapaxes(1, 2)).reshape(batch, mel, width)
    yield "layout-transposed", "hands over the features frame by frame where mel by mel is asked for", misread
    written = signal.reshape(batch, width, mel).swapaxes(1, 2)
    yield "layout-transposed", "reads the features in the other order", written
    yield "features-differ", "feeds the frames in reverse", signal[:, :, ::-1]


def _lengths(width: int, known: int, length: Array) -> Iterator[tuple[str, Array]]:
    for text, value in (
        ("says one frame too few", width - 1),
        ("says the new frames only, without those before the chunk", width - known),
        ("says one frame too many", width + 1),
        ("says no frame", 0),
        ("says half the frames", width // 2),
    ):
        if value != int(length.reshape(-1)[0]):
            yield text, np.full_like(length, value)
