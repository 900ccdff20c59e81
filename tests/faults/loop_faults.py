"""Faults planted in what drives a sound export: its state, its features, its schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from streamparity.runners import StepInput
from streamparity.runners.ort import OrtRunner
from streamparity.tensors import Array

from .bench import Bench
from .fault import Fault, Names, Planted, several

CHANNEL, TIME, LENGTH = "cache_last_channel", "cache_last_time", "cache_last_channel_len"
Caches = dict[str, Array]
GUARD = 2.0**-24


class DrivenRunner(OrtRunner):
    """An export whose caches and features are changed on their way in; what calls its decoder can be wrong as well."""

    strength = 1.0
    bench: Bench

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.transducer = self.called(self.transducer)
        self.index = -1
        self.before: list[Caches] = []

    def called(self, transducer: Any) -> Any:
        return transducer

    def caches(self, now: Caches) -> Caches:
        return now

    def features(self, chunk: StepInput) -> StepInput:
        return chunk

    def step(self, chunk: StepInput) -> dict[str, Array]:
        self.index += 1
        now = {name: value.numpy().copy() for name, value in self._caches.items()}
        self.before.append(now)
        if self.index:
            self.set_caches(self.caches({name: array.copy() for name, array in now.items()}))
        return super().step(self.features(chunk))


def driven(
    name: str, codes: Names, modules: Names, chunk=0, *, caches=None, features=None, calls=None, **about
) -> Fault:
    methods = {"caches": caches, "features": features}
    if calls is not None:
        methods["called"] = lambda self, transducer: calls(transducer, self.bench)
    changed = {method: change for method, change in methods.items() if change is not None}

    def plant(bench: Bench, strength: float) -> Planted:
        runner = type("Faulty", (DrivenRunner,), {"strength": strength, "bench": bench, **changed})
        return Planted(bench.edited("sound", lambda model: None), runner)

    return Fault(name, plant, several(codes), several(modules), chunk, **about)


ATTENTION, CONVOLUTION, FRONT = "encoder.layers.0.self_attn", "encoder.layers.0.conv", "encoder.pre_encode"

# --------------------------------------------------------------------------------------------------- state


def having(**changes: Callable[[DrivenRunner, Array], Array]):
    """Change some of the caches."""

    def change(self: DrivenRunner, now: Caches) -> Caches:
        return {**now, **{name: np.ascontiguousarray(how(self, now[name])) for name, how in changes.items()}}

    return change


def forgotten(self: DrivenRunner, now: Caches) -> Caches:
    return {name: np.zeros_like(array) for name, array in now.items()}


def left_aligned(self: DrivenRunner, now: Caches) -> Caches:
    valid = int(now[LENGTH][0])
    return {**now, CHANNEL: np.roll(now[CHANNEL], valid, axis=2)}


def exchanged(self: DrivenRunner, array: Array) -> Array:
    order = list(range(array.shape[1]))
    order[0], order[1] = order[1], order[0]
    return array[:, order]


def late(self: DrivenRunner, now: Caches) -> Caches:
    return self.before[-2] if len(self.before) > 1 else now


def now_and_then(self: DrivenRunner, now: Caches) -> Caches:
    """Start a new stream every seven chunks."""
    return {name: np.zeros_like(array) for name, array in now.items()} if self.index % 7 == 0 else now


def bfloat16(self: DrivenRunner, array: Array) -> Array:
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def written_otherwise(self: DrivenRunner, array: Array) -> Array:
    return np.ascontiguousarray(array.swapaxes(2, 3)).reshape(array.shape)


STATE = [
    driven("caches-forgotten", "cache-not-propagated", ATTENTION, 1, caches=forgotten),
    driven(
        "length-forgotten", "cache-length-wrong", ATTENTION, 1, caches=having(cache_last_channel_len=lambda _, a: a * 0)
    ),
    driven(
        "channel-cache-forgotten",
        "cache-not-propagated",
        ATTENTION,
        1,
        caches=having(cache_last_channel=lambda _, a: a * 0),
    ),
    driven(
        "time-cache-forgotten", "time-cache-dropped", CONVOLUTION, 1, caches=having(cache_last_time=lambda _, a: a * 0)
    ),
    driven("caches-one-chunk-late", "cache-not-propagated", ATTENTION, 1, caches=late),
    driven("stream-restarted", "cache-not-propagated", ATTENTION, 7, caches=now_and_then),
    driven("kept-left-aligned", "cache-misaligned", ATTENTION, 1, caches=left_aligned),
    driven(
        "kept-off-by-one",
        "cache-misaligned",
        ATTENTION,
        1,
        caches=having(cache_last_channel=lambda _, a: np.roll(a, -1, 2)),
    ),
    driven(
        "time-cache-newest-first",
        "cache-misaligned",
        CONVOLUTION,
        1,
        caches=having(cache_last_time=lambda _, a: a[..., ::-1]),
    ),
    driven(
        "layers-in-reverse",
        "cache-layers-swapped",
        ATTENTION,
        1,
        caches=having(cache_last_channel=lambda _, a: a[:, ::-1], cache_last_time=lambda _, a: a[:, ::-1]),
    ),
    driven("layers-exchanged", "cache-layers-swapped", ATTENTION, 1, caches=having(cache_last_channel=exchanged)),
    driven(
        "length-physical-fed",
        "cache-length-wrong",
        ATTENTION,
        1,
        caches=having(cache_last_channel_len=lambda self, a: a * 0 + self.before[0][CHANNEL].shape[2]),
    ),
    driven(
        "length-one-too-many",
        "cache-length-wrong",
        ATTENTION,
        1,
        caches=having(cache_last_channel_len=lambda _, a: a + 1),
    ),
    driven(
        "caches-in-bfloat16",
        "reduced-precision",
        ATTENTION,
        1,
        caches=having(cache_last_channel=bfloat16, cache_last_time=bfloat16),
    ),
    driven(
        "cache-written-otherwise",
        "layout-transposed",
        ATTENTION,
        1,
        caches=having(cache_last_channel=written_otherwise),
    ),
]

# ------------------------------------------------------------------------------------- features and schedule


def values(change: Callable[[DrivenRunner, Array], Array]):
    """Change the features; the zeros in front of a stream stay zero."""

    def features(self: DrivenRunner, chunk: StepInput) -> StepInput:
        zeros = leading_zeros(chunk.audio_signal)
        changed = change(self, chunk.audio_signal.astype(np.float64))
        changed[:, :, :zeros] = 0
        return replace(chunk, audio_signal=changed.astype(np.float32))

    return features


def leading_zeros(signal: Array) -> int:
    blank = ~signal.any(axis=(0, 1))
    return int(np.argmin(blank)) if not blank.all() else 0


def signal(change: Callable[[DrivenRunner, Array], Array]):
    return lambda self, chunk: replace(
        chunk, audio_signal=np.ascontiguousarray(change(self, chunk.audio_signal.copy()), np.float32)
    )


def history(self: DrivenRunner) -> int:
    return self.bench.reference().manifest.streaming.pre_encode_cache_size[1]


def no_history(self: DrivenRunner, features: Array) -> Array:
    if self.index:
        features[:, :, : history(self)] = 0
    return features


def stale_history(self: DrivenRunner, features: Array) -> Array:
    """History that is one frame too early."""
    count = history(self)
    if self.index:
        whole = stream(self.bench)
        start = self.bench.reference().manifest.streaming.shift_size[1] * self.index
        features[:, :, :count] = whole[:, :, start - count - 1 : start - 1]
    return features


def silent_start(self: DrivenRunner, features: Array) -> Array:
    if self.index == 0:
        features[:, :, : history(self)] = np.log(GUARD)
    return features


def native_start(self: DrivenRunner, features: Array) -> Array:
    """The first chunk without the zeros in front, zeros behind."""
    count = history(self)
    if self.index == 0:
        features = np.concatenate([features[:, :, count:], np.zeros_like(features[:, :, :count])], axis=2)
    return features


@cache
def _stream(folder: str) -> Array:
    from streamparity.dump import DumpReader

    reference = DumpReader(Path(folder))
    config = reference.manifest.streaming
    parts = [
        c["in/audio_signal"][:, :, config.pre_encode_cache_size[1] :][:, :, : config.shift_size[1]] for c in reference
    ]
    return np.concatenate(parts, axis=2)


def stream(bench: Bench) -> Array:
    return _stream(str(bench.reference().folder))


def moved(shift: int):
    """The whole stream of features begins ``shift`` frames late."""

    def change(self: DrivenRunner, features: Array) -> Array:
        config = self.bench.reference().manifest.streaming
        start = config.shift_size[1] * self.index - config.pre_encode_cache_size[1]
        whole, width = stream(self.bench), features.shape[2]
        places = np.arange(start + shift, start + shift + width)
        inside = (places >= 0) & (places < whole.shape[2]) & (np.arange(start, start + width) >= 0)
        changed = np.zeros_like(features)
        changed[:, :, inside] = whole[:, :, places[inside]]
        return changed

    return change


def per_chunk_normalised(_: DrivenRunner, features: Array) -> Array:
    return (features - features.mean(2, keepdims=True)) / (features.std(2, keepdims=True, ddof=1) + 1e-5)


def last_frame_lost(_: DrivenRunner, features: Array) -> Array:
    features[:, :, -1] = 0
    return features


def other_order(_: DrivenRunner, features: Array) -> Array:
    return features.swapaxes(1, 2).reshape(features.shape)


def shorter(self: DrivenRunner, chunk: StepInput) -> StepInput:
    return replace(chunk, length=chunk.length - 1)


FEATURES = [
    driven(
        "log-guard",
        "features-differ",
        FRONT,
        features=values(lambda self, f: np.log(np.exp(f) - GUARD + self.strength)),
        strengths=(1e-2, 1e-9),
    ),
    driven("decimal-logarithm", "features-differ", FRONT, features=values(lambda _, f: f / np.log(10))),
    driven("normalised-by-chunk", "features-differ", FRONT, features=values(per_chunk_normalised)),
    driven(
        "sixteen-bit-samples",
        "features-differ",
        FRONT,
        features=values(lambda _, f: np.log((np.exp(f) - GUARD) * 32768.0**2 + GUARD)),
    ),
    driven("features-a-frame-late", "features-differ", FRONT, features=signal(moved(-1))),
    driven("last-frame-lost", "features-differ", FRONT, features=signal(last_frame_lost)),
    driven("mel-upside-down", "features-differ", FRONT, features=values(lambda _, f: f[:, ::-1])),
    driven("gain", "features-differ", FRONT, features=values(lambda self, f: f + self.strength), strengths=(8.0, 1e-3)),
    driven("length-short", "features-differ", FRONT, features=shorter),
    driven("features-transposed", "layout-transposed", FRONT, features=signal(other_order)),
    driven("no-history", "pre-encode-overlap-wrong", FRONT, 1, features=signal(no_history)),
    driven("history-a-frame-early", "pre-encode-overlap-wrong", FRONT, 1, features=signal(stale_history)),
    driven("first-chunk-after-silence", "first-chunk-schedule", FRONT, features=signal(silent_start)),
    driven("first-chunk-native", "first-chunk-schedule", FRONT, features=signal(native_start)),
]


def native_dump(bench: Bench, strength: float) -> Planted:
    bench.reference("native", schedule="native")
    return Planted(bench.edited("sound", lambda model: None), reference="native")


SCHEDULE = [Fault("native-dump", native_dump, ("first-chunk-schedule",), ("encoder",))]

FAULTS = [*STATE, *FEATURES, *SCHEDULE]
