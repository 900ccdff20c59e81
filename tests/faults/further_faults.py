"""Faults written after the rules, to see how these do on what they were not made for; some are known to be missed.

Half of a score is what it does not reach: nothing here is left out for being missed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from streamparity.demo import demo_audio, demo_recordings
from streamparity.runners import StepInput
from streamparity.tensors import Array

from .bench import Bench
from .edits import at_input, before, constant, find, matmul_weight, rewrite
from .fault import Fault, Planted
from .graph_faults import graph, mid
from .loop_faults import (
    ATTENTION,
    CHANNEL,
    CONVOLUTION,
    FRONT,
    TIME,
    Caches,
    DrivenRunner,
    driven,
    having,
    values,
)

# ------------------------------------------------------------------------------- converters that people use


def quantised(bench: Bench, strength: float) -> Planted:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = bench.edited("quantised", lambda model: None)
    path = folder / "encoder.onnx"
    logging.disable(logging.WARNING)  # it warns of every shape that it will not quantise
    try:
        quantize_dynamic(str(path), str(folder / "int8.onnx"), weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)
    (folder / "int8.onnx").replace(path)
    return Planted(folder)


def halved(bench: Bench, strength: float) -> Planted:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    folder = bench.edited("halved", lambda model: None)
    path = folder / "encoder.onnx"
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    return Planted(folder)


# ------------------------------------------------------------------------------------------------- graphs


def other_activation(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    """The sigmoid form of GELU in place of SiLU."""
    scope = f"layers.{mid(bench)}.feed_forward1.activation"
    factor = constant(model, "planted_factor", np.float32(1.702))
    node = find(model, scope, "Sigmoid")
    name = f"{node.name.rpartition('/')[0]}/Mul_extra"
    before(model, node, 0, lambda old, new: [helper.make_node("Mul", [old, factor], [new], name=name)])


def whole_residual(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    """The feed-forward module added whole where half of it belongs."""
    find(model, f"layers.{mid(bench)}", "Mul").input[1] = constant(model, "planted_one", np.float32(1))


def unscaled_scores(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    find(model, f"layers.{mid(bench)}.self_attn", "Div").input[1] = constant(model, "planted_one", np.float32(1))


def biases_exchanged(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    """Transformer-XL's two position biases, each in the other's place."""
    content, position = (find(model, f"layers.{mid(bench)}.self_attn", "Add", place) for place in (0, 1))
    content.input[1], position.input[1] = position.input[1], content.input[1]


def heads_exchanged(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    def exchanged(weights: Array) -> Array:
        return weights.reshape(weights.shape[0], 4, -1)[:, [1, 0, 2, 3]].reshape(weights.shape)

    rewrite(model, matmul_weight(model, f"layers.{mid(bench)}.self_attn.linear_k"), exchanged)


def every_epsilon(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            next(item for item in node.attribute if item.name == "epsilon").f = 1e-12


def centred_features(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
    """Subtract the chunk's mean inside the graph."""
    at_input(
        model,
        "audio_signal",
        lambda old, new: [
            helper.make_node("ReduceMean", [old], [f"{new}_mean"], axes=[2], keepdims=1, name="/planted/ReduceMean"),
            helper.make_node("Sub", [old, f"{new}_mean"], [new], name="/planted/Sub"),
        ],
    )


# -------------------------------------------------------------------------------------------------- loops


def every_second(self: DrivenRunner, now: Caches) -> Caches:
    return now if self.index % 2 == 0 else self.before[-2]


def time_lost_now_and_then(self: DrivenRunner, now: Caches) -> Caches:
    return {**now, TIME: now[TIME] * 0} if self.index % 10 == 0 else now


def newest_lost(self: DrivenRunner, now: Caches) -> Caches:
    now[CHANNEL][:, :, -1] = 0
    return now


def dithered(self: DrivenRunner, features: Array) -> Array:
    return features + np.random.default_rng(self.index).normal(0, 1e-2, features.shape)


@cache
def hamming_features(nemo: Path) -> Array:
    """The recording's features through another window."""
    from omegaconf import OmegaConf

    from streamparity.reference.audio import open_recording
    from streamparity.reference.features import FeatureStream
    from streamparity.reference.nemo import load_model

    module = load_model(str(nemo)).module
    OmegaConf.set_struct(module.cfg, False)
    module.cfg.preprocessor.window = "hamming"
    with demo_audio(demo_recordings()[1]) as audio:
        stream = FeatureStream(module, open_recording(audio, int(module.cfg.sample_rate)))
        return stream.frames(0, stream.total_frames)


def through_hamming(self: DrivenRunner, chunk: StepInput) -> StepInput:
    nemo = self.bench.folder / "model.nemo"
    if not nemo.exists():
        self.bench.loaded.module.save_to(str(nemo))
    whole, config = hamming_features(nemo), self.bench.reference().manifest.streaming
    start = config.shift_size[1] * self.index - config.pre_encode_cache_size[1]
    places = np.arange(start, start + chunk.audio_signal.shape[2])
    inside = (places >= 0) & (places < whole.shape[2])
    features = np.zeros_like(chunk.audio_signal)
    features[:, :, inside] = whole[:, :, places[inside]]
    return replace(chunk, audio_signal=features)


def scaled(_: DrivenRunner, array: Array) -> Array:
    return array * np.float32(0.999)


FAULTS = [
    Fault("quantised-by-onnxruntime", quantised, ("reduced-precision",), ("encoder.pre_encode",)),
    Fault("halved-by-onnxruntime", halved, ("reduced-precision",), ("encoder.pre_encode",)),
    graph("another-activation", "graph-differs", "encoder.layers.{mid}.feed_forward1", other_activation),
    graph("whole-residual", "graph-differs", "encoder.layers.{mid}", whole_residual),
    graph("unscaled-scores", "graph-differs", "encoder.layers.{mid}.self_attn", unscaled_scores),
    graph("position-biases-exchanged", "graph-differs", "encoder.layers.{mid}.self_attn", biases_exchanged),
    graph("heads-exchanged", "weights-differ", "encoder.layers.{mid}.self_attn.linear_k", heads_exchanged),
    graph("every-epsilon", "norm-epsilon", "encoder.layers.0.norm_feed_forward1", every_epsilon),
    graph("features-centred-in-the-graph", "features-differ", "encoder.pre_encode", centred_features),
    driven("caches-every-second-chunk", "cache-not-propagated", ATTENTION, 1, caches=every_second),
    driven("time-cache-lost-now-and-then", "time-cache-dropped", CONVOLUTION, 10, caches=time_lost_now_and_then),
    driven("newest-frame-lost", "cache-misaligned", ATTENTION, 1, caches=newest_lost),
    driven("cache-scaled", "drift", ATTENTION, 1, caches=having(cache_last_channel=scaled)),
    driven("dithered-features", "features-differ", FRONT, features=values(dithered)),
    driven("another-window", "features-differ", FRONT, features=through_hamming),
]
