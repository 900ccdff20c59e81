"""Features of a port's own, in numpy or in the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamparity.runners import StepInput
from streamparity.tensors import Array

from ..bench import Bench
from ..loop_faults import FRONT, DrivenRunner, driven, history, signal
from .build import graph
from .graft import Graft
from .log_mel import chunk_by_chunk, through


def late_a_chunk(self: DrivenRunner, chunk: StepInput) -> StepInput:
    return through(shift=self.bench.reference().manifest.streaming.shift_size[1])(self, chunk)


def history_of_silence(self: DrivenRunner, features: Array) -> Array:
    if self.index:
        features[:, :, : history(self)] = np.log(2.0**-24)
    return features


def history_repeated(self: DrivenRunner, features: Array) -> Array:
    """Edge padding in place of the frames before."""
    if self.index:
        count = history(self)
        features[:, :, :count] = features[:, :, count : count + 1]
    return features


def whole_last_chunk(self: DrivenRunner, chunk: StepInput) -> StepInput:
    """An engine of fixed shape: the last chunk filled up with zeros and said to be as long as the others."""
    full = self.bench.reference().chunk(0)["in/audio_signal"].shape[2]
    missing = full - chunk.audio_signal.shape[2]
    filled = np.pad(chunk.audio_signal, ((0, 0), (0, 0), (0, missing)))
    return replace(chunk, audio_signal=filled, length=chunk.length + missing)


def first_short(bench: Bench) -> int:
    full = bench.reference().chunk(0)["in/audio_signal"].shape[2]
    return next(i for i, c in enumerate(bench.reference()) if c["in/audio_signal"].shape[2] < full)


def bands_flipped_in_the_graph(model, bench) -> None:
    g = Graft(model, "")
    g.after(
        "/Transpose_2_output_0",
        lambda x: g("Gather", x, g.const(np.arange(128)[::-1].copy(), "Gather"), axis=2),
    )


FAULTS = [
    driven("mel-htk", "features-differ", FRONT, features=through(htk=True)),
    driven("mel-not-normalised", "features-differ", FRONT, features=through(norm=None)),
    driven("mel-to-7600-hertz", "features-differ", FRONT, features=through(fmax=7600.0)),
    driven("no-preemphasis", "features-differ", FRONT, features=through(preemphasis=0.0)),
    driven("window-periodic", "features-differ", FRONT, features=through(periodic=True)),
    driven("window-padded-on-the-right", "features-differ", FRONT, features=through(right_padded=True)),
    driven("edges-reflected", "features-differ", FRONT, features=through(edges="reflect")),
    driven("magnitude-for-power", "features-differ", FRONT, features=through(power=1.0)),
    driven("log-clamped", "features-differ", FRONT, features=through(logarithm="clamp")),
    driven("log-to-base-ten", "features-differ", FRONT, features=through(logarithm="log10")),
    driven("dither-left-on", "features-differ", FRONT, features=through(dither=1e-5)),
    driven("normalised-per-feature", "features-differ", FRONT, features=through(normalised=True)),
    driven("mel-by-chunks", "features-differ", FRONT, features=chunk_by_chunk),
    driven(
        "features-in-float16",
        ("features-differ", "reduced-precision"),
        FRONT,
        features=signal(lambda _, f: f.astype(np.float16).astype(np.float32)),
    ),
    driven("features-a-frame-early", "features-differ", FRONT, features=through(shift=-1)),
    driven("features-a-chunk-late", "features-differ", FRONT, features=late_a_chunk),
    driven("history-of-silence", "pre-encode-overlap-wrong", FRONT, 1, features=signal(history_of_silence)),
    driven("history-repeats-a-frame", "pre-encode-overlap-wrong", FRONT, 1, features=signal(history_repeated)),
    driven(
        "last-chunk-filled-up",
        ("features-differ", "encoded-length-wrong"),
        (FRONT, "encoded_lengths"),
        first_short,
        features=whole_last_chunk,
    ),
    graph("bands-flipped-in-the-graph", ("features-differ", "layout-transposed"), FRONT, bands_flipped_in_the_graph),
]
