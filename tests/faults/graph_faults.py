"""Faults planted in the exported graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from plant_fault import layer_cache_gathers, layer_norm_epsilon, swap_layer_caches, without_ports, zero_layer_cache
from streamparity.graph.onnx_graph import module_path

from .bench import Bench
from .edits import (
    after,
    at_input,
    before,
    cast_through,
    constant,
    find,
    matmul_weight,
    multiply,
    named,
    producer,
    rewrite,
    roll,
    value_of,
)
from .fault import Fault, Names, Planted, several

CHANNEL, TIME = "cache_last_channel", "cache_last_time"
CACHE_PORTS = (CHANNEL, TIME, "cache_last_channel_len")
CACHE_PORTS += ("cache_last_channel_next", "cache_last_time_next", "cache_last_channel_next_len")


def graph(
    name: str,
    codes: Names,
    modules: Names,
    edit: Callable[[onnx.ModelProto, Bench, float], None],
    chunk: int | Callable[[Bench], int] = 0,
    file: str = "encoder.onnx",
    allow_unmatched: tuple[str, ...] = (),
    **about,
) -> Fault:
    def plant(bench: Bench, strength: float) -> Planted:
        folder = bench.edited(name, lambda model: edit(model, bench, strength), file)
        return Planted(folder, allow_unmatched=allow_unmatched)

    return Fault(name, plant, several(codes), several(modules), chunk, **about)


def mid(bench: Bench) -> int:
    return bench.layers // 2


def last(bench: Bench) -> int:
    return bench.layers - 1


# ------------------------------------------------------------------------------------------------ caches


def returned(port: str, build) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        after(model, port, build(model, bench, strength))

    return edit


def layer_mask(model, bench, layer, inside, outside=1.0):
    mask = np.full((1, bench.layers, 1, 1), outside, np.float32)
    mask[0, layer] = inside
    return multiply(model, mask)


def take_layers(model, order):
    name = constant(model, "planted_order", np.array(order, np.int64))
    return lambda old, new: [helper.make_node("Gather", [old, name], [new], axis=1, name="/planted/Gather")]


def exchanged(bench: Bench) -> list[int]:
    order = list(range(bench.layers))
    order[0], order[-1] = order[-1], order[0]
    return order


def instead(port: str):
    """Return an input of the graph in place of what was computed."""
    return lambda model, bench, strength: (
        lambda old, new: [helper.make_node("Identity", [port], [new], name="/planted/Identity")]
    )


def length_edit(build):
    return returned("cache_last_channel_next_len", build)


def constant_length(model, bench, strength):
    slots = bench.reference().chunk(0)["in/cache_last_channel"].shape[2]
    zero, full = constant(model, "planted_zero", np.array(0)), constant(model, "planted_full", np.array(slots))
    return lambda old, new: [
        helper.make_node("Mul", [old, zero], [f"{new}_none"], name="/planted/Mul"),
        helper.make_node("Add", [f"{new}_none", full], [new], name="/planted/Add"),
    ]


def resetting_length(model, bench, strength):
    size = constant(model, "planted_size", np.array(7))
    return lambda old, new: [helper.make_node("Mod", [old, size], [new], name="/planted/Mod")]


def unbounded(model, bench, strength):
    clip = producer(model, "cache_last_channel_next_len")
    clip.op_type = "Identity"
    del clip.input[1:]


def when_full(bench: Bench) -> int:
    lengths = [int(c["out/cache_last_channel_next_len"][0]) for c in bench.reference()]
    slots = bench.reference().chunk(0)["in/cache_last_channel"].shape[2]
    starts = [int(c["in/cache_last_channel_len"][0]) for c in bench.reference()]
    frames = lengths[0]
    return next(i for i, start in enumerate(starts) if start + frames > slots)


def when_seven(bench: Bench) -> int:
    return next(i for i, c in enumerate(bench.reference()) if int(c["out/cache_last_channel_next_len"][0]) >= 7)


def layer_cache(port: str, layer: Callable[[Bench], int], build) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        after(model, layer_cache_gathers(model, port)[layer(bench)].output[0], build(model, bench, strength))

    return edit


def forget_all(model, bench, strength):
    for port in (CHANNEL, TIME):
        at_input(model, port, multiply(model, 0.0, f"planted_{port}"))
    zero = constant(model, "planted_zero", np.array(0))
    at_input(
        model,
        "cache_last_channel_len",
        lambda old, new: [helper.make_node("Mul", [old, zero], [new], name="/planted/Mul_len")],
    )


CACHES = [
    graph(
        "time-cache-zeroed",
        "time-cache-dropped",
        "encoder.layers.{mid}.conv",
        lambda m, b, s: zero_layer_cache(TIME, mid(b))(m),
        1,
    ),
    graph(
        "channel-cache-zeroed",
        "cache-not-propagated",
        "encoder.layers.{last}.self_attn",
        lambda m, b, s: zero_layer_cache(CHANNEL, last(b))(m),
        1,
    ),
    graph(
        "channel-caches-swapped",
        "cache-layers-swapped",
        "encoder.layers.0.self_attn",
        lambda m, b, s: swap_layer_caches(CHANNEL, 0, last(b))(m),
        1,
    ),
    graph(
        "time-caches-swapped",
        "cache-layers-swapped",
        "encoder.layers.{mid}.conv",
        lambda m, b, s: swap_layer_caches(TIME, mid(b), last(b))(m),
        1,
    ),
    graph(
        "layer-reads-cache-turned",
        "cache-misaligned",
        "encoder.layers.{mid}.conv",
        layer_cache(TIME, mid, lambda m, b, s: roll(m, 1, 2)),
        1,
    ),
    graph(
        "layer-reads-channel-cache-reversed",
        "cache-misaligned",
        "encoder.layers.{mid}.self_attn",
        layer_cache(CHANNEL, mid, lambda m, b, s: roll(m, 1, 1)),
        1,
    ),
    graph(
        "returned-time-zeroed",
        "time-cache-dropped",
        "cache_last_time_next",
        returned("cache_last_time_next", lambda m, b, s: layer_mask(m, b, mid(b), 0.0)),
    ),
    graph(
        "returned-channel-zeroed",
        "cache-not-propagated",
        "cache_last_channel_next",
        returned("cache_last_channel_next", lambda m, b, s: layer_mask(m, b, 0, 0.0)),
    ),
    graph(
        "returned-channel-turned",
        "cache-misaligned",
        "cache_last_channel_next",
        returned("cache_last_channel_next", lambda m, b, s: roll(m, 1, 2)),
    ),
    graph(
        "returned-time-off-by-one",
        "cache-misaligned",
        "cache_last_time_next",
        returned("cache_last_time_next", lambda m, b, s: roll(m, 7, 3)),
    ),
    graph(
        "returned-layers-swapped",
        "cache-layers-swapped",
        "cache_last_channel_next",
        returned("cache_last_channel_next", lambda m, b, s: take_layers(m, exchanged(b))),
    ),
    graph(
        "returned-channel-stale",
        "cache-not-propagated",
        "cache_last_channel_next",
        returned("cache_last_channel_next", instead(CHANNEL)),
    ),
    graph(
        "returned-time-stale",
        "cache-not-propagated",
        "cache_last_time_next",
        returned("cache_last_time_next", instead(TIME)),
    ),
    graph(
        "returned-channel-decays",
        "drift",
        "cache_last_channel_next",
        returned("cache_last_channel_next", lambda m, b, s: multiply(m, 1 - s)),
        strengths=(0.9, 1e-4),
    ),
    graph(
        "length-negative",
        "cache-length-wrong",
        "cache_last_channel_next_len",
        length_edit(lambda m, b, s: lambda old, new: [helper.make_node("Neg", [old], [new], name="/planted/Neg")]),
    ),
    graph("length-physical", "cache-length-wrong", "cache_last_channel_next_len", length_edit(constant_length)),
    graph("length-unbounded", "cache-length-wrong", "cache_last_channel_next_len", unbounded, when_full),
    graph(
        "length-resets",
        "cache-length-wrong",
        "cache_last_channel_next_len",
        length_edit(resetting_length),
        when_seven,
    ),
    graph("ports-missing", "stateless-export", "encoder", lambda m, b, s: without_ports(*CACHE_PORTS)(m)),
    graph("caches-unused", "stateless-export", "encoder.layers.0.self_attn", forget_all, 1),
]

# ----------------------------------------------------------------------------------------------- weights


def first_label(bench: Bench) -> int:
    """The chunk of the first label: until then the predictor is fed the blank, whose embedding is zero."""
    blank = bench.reference().manifest.decoder.blank_id
    return next(line["chunk"] for line in bench.reference().trace() if line["label"] != blank)


def weight(path: Callable[[Bench], str] | str, change):
    """Change the matrix of a linear layer, in the graph's own layout (columns are outputs)."""

    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        where = path if isinstance(path, str) else path(bench)
        rewrite(model, matmul_weight(model, where), lambda values: change(values, strength))

    return edit


def parameter(name: Callable[[Bench], str] | str, change):
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        where = name if isinstance(name, str) else name(bench)
        rewrite(model, where, lambda values: change(values, strength))

    return edit


def noisy(values: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(values.shape)
    return (values + strength * values.std() * noise).astype(values.dtype)


def row_lost(values: np.ndarray, strength: float) -> np.ndarray:
    values[:, 3] = 0
    return values


def halves(axis: int):
    return lambda values, strength: np.roll(values, values.shape[axis] // 2, axis)


def depthwise(change):
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        node = find(model, f"layers.{mid(bench)}.conv.depthwise_conv", "Conv")
        rewrite(model, node.input[1], lambda values: change(values, strength))

    return edit


def lstm_gates(model, bench, strength):
    """The order of gates that torch has, handed to ONNX."""
    node = next(n for n in model.graph.node if n.op_type == "LSTM")

    def reordered(values):
        parts = np.split(values, 4, axis=1)
        return np.concatenate([parts[i] for i in (0, 2, 3, 1)], axis=1)

    rewrite(model, node.input[1], reordered)


def every_matrix(change) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        for tensor in model.graph.initializer:
            if len(tensor.dims) >= 2 and tensor.data_type == TensorProto.FLOAT:
                changed = change(numpy_helper.to_array(tensor).astype(np.float32))
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed, np.float32), tensor.name))

    return edit


def as_bfloat16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def as_int8(values):
    step = np.abs(values).max() / 127 or 1.0
    return np.round(values / step) * step


WEIGHTS = [
    graph(
        "weight-scaled",
        "weights-differ",
        "encoder.layers.{mid}.feed_forward1",
        weight(lambda b: f"layers.{mid(b)}.feed_forward1.linear1", lambda w, s: w * np.float32(1 + s)),
        strengths=(8.0, 1e-3),
    ),
    graph(
        "weight-noisy",
        "weights-differ",
        "encoder.layers.0.feed_forward2",
        weight("layers.0.feed_forward2.linear2", noisy),
        strengths=(8.0, 1e-3),
    ),
    graph(
        "weight-transposed",
        "weights-differ",
        "encoder.layers.{last}.self_attn.linear_q",
        weight(lambda b: f"layers.{last(b)}.self_attn.linear_q", lambda w, s: w.T),
    ),
    graph(
        "weight-negated",
        "weights-differ",
        "encoder.layers.{mid}.self_attn.linear_out",
        weight(lambda b: f"layers.{mid(b)}.self_attn.linear_out", lambda w, s: -w),
    ),
    graph(
        "weight-row-lost",
        "weights-differ",
        "encoder.layers.0.self_attn.linear_v",
        weight("layers.0.self_attn.linear_v", row_lost),
        # Keys and values of chunk 0 come from the chunk itself.
        0,
    ),
    graph(
        "glu-halves-swapped",
        "weights-differ",
        "encoder.layers.{mid}.conv.pointwise_conv1",
        parameter(lambda b: f"layers.{mid(b)}.conv.pointwise_conv1.weight", halves(0)),
    ),
    graph(
        "depthwise-reversed",
        "weights-differ",
        "encoder.layers.{mid}.conv.depthwise_conv",
        depthwise(lambda w, s: w[..., ::-1]),
    ),
    graph(
        "bias-lost",
        "weights-differ",
        "encoder.layers.{last}.feed_forward1.linear1",
        parameter(lambda b: f"layers.{last(b)}.feed_forward1.linear1.bias", lambda w, s: w * 0),
    ),
    graph(
        "norm-gain-scaled",
        "weights-differ",
        "encoder.layers.0.norm_out",
        parameter("layers.0.norm_out.weight", lambda w, s: w * np.float32(1 + s)),
        strengths=(8.0, 1e-3),
    ),
    graph(
        "front-end-weight-noisy",
        "weights-differ",
        "encoder.pre_encode",
        parameter("pre_encode.conv.0.weight", noisy),
        strengths=(4.0, 1e-3),
    ),
    graph(
        "lstm-gates-reordered",
        "weights-differ",
        "decoder.prediction",
        lstm_gates,
        first_label,
        file="decoder_joint.onnx",
    ),
    graph(
        "blank-biased",
        "weights-differ",
        "joint",
        parameter("joint.joint_net.1.bias", lambda w, s: np.concatenate([w[:-1], w[-1:] + np.float32(20 * s)])),
        file="decoder_joint.onnx",
        strengths=(1.0, 1e-2),
    ),
    graph(
        "embedding-off-by-one",
        "weights-differ",
        "decoder.prediction",
        parameter("decoder.prediction.embed.weight", lambda w, s: np.roll(w, 1, 0)),
        file="decoder_joint.onnx",
    ),
    graph("weights-in-bfloat16", "reduced-precision", "encoder.pre_encode", every_matrix(as_bfloat16)),
    graph(
        "weights-in-float16",
        "reduced-precision",
        "encoder.pre_encode",
        every_matrix(lambda w: w.astype(np.float16).astype(np.float32)),
    ),
    graph("weights-in-int8", "reduced-precision", "encoder.pre_encode", every_matrix(as_int8)),
]

# --------------------------------------------------------------------------------------------- arithmetic


def at_tap(path: Callable[[Bench], str], op: str, build) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        after(model, find(model, path(bench), op, -1).output[0], build(model, bench, strength))

    return edit


def tf32(old: str, new: str, splitter: str):
    """Veltkamp's splitting: exactly the upper 11 bits of a float32, as tensor cores take them."""
    return [
        helper.make_node("Mul", [old, splitter], [f"{new}_c"], name=f"/planted/Mul_{new}"),
        helper.make_node("Sub", [f"{new}_c", old], [f"{new}_d"], name=f"/planted/Sub_{new}"),
        helper.make_node("Sub", [f"{new}_c", f"{new}_d"], [new], name=f"/planted/Sub1_{new}"),
    ]


def every_matmul_in(kind: str) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        splitter = constant(model, "planted_splitter", np.float32(2**13 + 1))
        for count, node in enumerate([n for n in model.graph.node if n.op_type == "MatMul"]):
            for position in (0, 1):
                if kind == "tf32":

                    def build(old: str, new: str, tag=f"p{count}_{position}"):
                        nodes = tf32(old, f"{tag}", splitter)
                        return [*nodes, helper.make_node("Identity", [tag], [new], name=f"/planted/Id_{tag}")]

                    before(model, node, position, build)
                else:
                    before(model, node, position, cast_through(TensorProto.BFLOAT16))

    return edit


def overflowing(model, bench, strength):
    big, small = constant(model, "planted_big", np.float32(3e5)), constant(model, "planted_small", np.float32(1 / 3e5))
    return lambda old, new: [
        helper.make_node("Mul", [old, big], [f"{new}_big"], name="/planted/Mul"),
        helper.make_node("Cast", [f"{new}_big"], [f"{new}_half"], to=TensorProto.FLOAT16, name="/planted/Cast"),
        helper.make_node("Cast", [f"{new}_half"], [f"{new}_full"], to=1, name="/planted/Cast_1"),
        helper.make_node("Mul", [f"{new}_full", small], [new], name="/planted/Mul_1"),
    ]


def clipped(model, bench, strength):
    low, high = (
        constant(model, "planted_low", np.float32(-strength)),
        constant(model, "planted_high", np.float32(strength)),
    )
    return lambda old, new: [helper.make_node("Clip", [old, low, high], [new], name="/planted/Clip")]


def square_root(model, bench, strength):
    return lambda old, new: [
        helper.make_node("Sqrt", [old], [f"{new}_root"], name="/planted/Sqrt"),
        helper.make_node("Mul", [f"{new}_root", f"{new}_root"], [new], name="/planted/Mul"),
    ]


def batch_statistics(model, bench, strength):
    """What batch norm does in training: mean and variance of the chunk, then the gain and offset that it learnt."""
    layer = mid(bench)
    state = bench.loaded.module.state_dict()
    path = f"encoder.layers.{layer}.conv.batch_norm"
    vectors = {
        name: state[f"{path}.{name}"].numpy().reshape(1, -1, 1)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    gain, offset = (
        constant(model, "planted_gain", vectors["weight"]),
        constant(model, "planted_offset", vectors["bias"]),
    )
    tiny = constant(model, "planted_epsilon", np.float32(1e-5))
    scope = f"/layers.{layer}/conv/batch_norm"

    def build(old: str, new: str):
        return [
            helper.make_node("ReduceMean", [old], [f"{new}_mean"], axes=[2], keepdims=1, name=f"{scope}/ReduceMean"),
            helper.make_node("Sub", [old, f"{new}_mean"], [f"{new}_centred"], name=f"{scope}/Sub"),
            helper.make_node("Mul", [f"{new}_centred", f"{new}_centred"], [f"{new}_square"], name=f"{scope}/Mul"),
            helper.make_node(
                "ReduceMean", [f"{new}_square"], [f"{new}_var"], axes=[2], keepdims=1, name=f"{scope}/ReduceMean_1"
            ),
            helper.make_node("Add", [f"{new}_var", tiny], [f"{new}_safe"], name=f"{scope}/Add"),
            helper.make_node("Sqrt", [f"{new}_safe"], [f"{new}_root"], name=f"{scope}/Sqrt"),
            helper.make_node("Div", [f"{new}_centred", f"{new}_root"], [f"{new}_unit"], name=f"{scope}/Div"),
            helper.make_node("Mul", [f"{new}_unit", gain], [f"{new}_scaled"], name=f"{scope}/Mul_1"),
            helper.make_node("Add", [f"{new}_scaled", offset], [new], name=f"{scope}/Add_1"),
        ]

    after(model, find(model, f"layers.{layer}.conv.depthwise_conv", "Conv").output[0], build)


ARITHMETIC = [
    graph(
        "norm-epsilon-in-conv",
        "norm-epsilon",
        "encoder.layers.{mid}.norm_conv",
        lambda m, b, s: layer_norm_epsilon(f"layers.{mid(b)}.norm_conv", s)(m),
        strengths=(100.0, 1e-4),
    ),
    graph(
        "norm-epsilon-at-the-end",
        "norm-epsilon",
        "encoder.layers.{last}.norm_out",
        lambda m, b, s: layer_norm_epsilon(f"layers.{last(b)}.norm_out", s)(m),
        strengths=(100.0, 1e-4),
    ),
    graph(
        "norm-epsilon-in-attention",
        "norm-epsilon",
        "encoder.layers.0.norm_self_att",
        lambda m, b, s: layer_norm_epsilon("layers.0.norm_self_att", s)(m),
        strengths=(100.0, 1e-4),
    ),
    graph(
        "batch-norm-in-training",
        "batchnorm-training-mode",
        "encoder.layers.{mid}.conv",
        batch_statistics,
        only="regular",
    ),
    graph("matmuls-in-tf32", "reduced-precision", "encoder.pre_encode", every_matmul_in("tf32")),
    graph("matmuls-in-bfloat16", "reduced-precision", "encoder.pre_encode", every_matmul_in("bfloat16")),
    graph(
        "one-piece-in-float16",
        "reduced-precision",
        "encoder.layers.{mid}.feed_forward2",
        at_tap(
            lambda b: f"layers.{mid(b)}.feed_forward2.linear2", "Add", lambda m, b, s: cast_through(TensorProto.FLOAT16)
        ),
    ),
    graph(
        "one-piece-in-bfloat16",
        "reduced-precision",
        "encoder.layers.{last}.conv",
        at_tap(
            lambda b: f"layers.{last(b)}.conv.pointwise_conv2",
            "Conv",
            lambda m, b, s: cast_through(TensorProto.BFLOAT16),
        ),
    ),
    graph(
        "float16-overflows",
        "overflow",
        "encoder.layers.{mid}.feed_forward1",
        at_tap(lambda b: f"layers.{mid(b)}.feed_forward1.linear2", "Add", overflowing),
    ),
    graph(
        "values-clipped",
        "overflow",
        "encoder.layers.0.norm_out",
        at_tap(lambda b: "layers.0.norm_out", "LayerNormalization", clipped),
        strengths=(0.05, 2.5),
    ),
    graph(
        "square-root-of-negative",
        "nan-introduced",
        "encoder.layers.{last}.feed_forward1",
        at_tap(lambda b: f"layers.{last(b)}.feed_forward1.linear1", "Add", square_root),
    ),
]

# ------------------------------------------------------------------------------------- positions and masks


def shift_positions(model, bench, strength):
    """Take the positional encodings one place later."""
    one = constant(model, "planted_one", np.array(1))
    subtract, add = named(model, "/pos_enc/Sub"), named(model, "/pos_enc/Sub_1")
    for node in (subtract, add):
        after(
            model,
            node.output[0],
            lambda old, new: [helper.make_node("Add", [old, one], [new], name=f"/pos_enc/Add_{new.split('/')[-1]}")],
        )


def shift_scores(model, bench, strength):
    """The relative shift of one layer, off by one distance."""
    node = find(model, f"layers.{mid(bench)}.self_attn", "MatMul", 0)
    after(model, node.output[0], roll(model, 1, 3))


def unmask(layers: Callable[[Bench], list[int]]) -> Callable[[onnx.ModelProto, Bench, float], None]:
    def edit(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        for layer in layers(bench):
            for node in [find(model, f"layers.{layer}.self_attn", "Where", position) for position in (0, 1)]:
                node.op_type = "Identity"
                kept = node.input[2]
                del node.input[:]
                node.input.append(kept)

    return edit


def shorten_context(model, bench, strength):
    """Hide the older half of the cache from one layer."""
    layer = mid(bench)
    slots = bench.reference().chunk(0)["in/cache_last_channel"].shape[2]
    frames = bench.reference().chunk(0)["tap/encoder.layers.0"].shape[1]
    hidden = np.zeros((1, 1, 1, slots + frames), np.float32)
    hidden[..., : slots // 2] = -20000
    name = constant(model, "planted_hidden", hidden)
    node = find(model, f"layers.{layer}.self_attn", "Softmax")
    before(model, node, 0, lambda old, new: [helper.make_node("Add", [old, name], [new], name="/planted/Add")])


def half_valid(bench: Bench) -> int:
    """The first chunk whose cache reaches into the older half."""
    for index, chunk in enumerate(bench.reference()):
        if int(chunk["in/cache_last_channel_len"][0]) > chunk["in/cache_last_channel"].shape[2] // 2:
            return index
    raise AssertionError("the cache never fills")


ATTENTION = [
    graph("positions-shifted", "positional-encoding-shift", "encoder.pos_enc", shift_positions),
    graph("relative-shift-off", "positional-encoding-shift", "encoder.layers.{mid}.self_attn", shift_scores),
    graph("mask-missing-in-a-layer", "mask-missing", "encoder.layers.{mid}.self_attn", unmask(lambda b: [mid(b)])),
    graph("mask-missing", "mask-missing", "encoder.layers.0.self_attn", unmask(lambda b: list(range(b.layers)))),
    graph(
        "context-too-short", "wrong-attention-context", "encoder.layers.{mid}.self_attn", shorten_context, half_valid
    ),
]

# ------------------------------------------------------------------------------- layouts, drops, batch, constants


def swap_output_axes(model, bench, strength):
    after(
        model,
        "outputs",
        lambda old, new: [helper.make_node("Transpose", [old], [new], perm=[0, 2, 1], name="/planted/Transpose")],
    )


def misread_cache(model, bench, strength):
    """Write the returned cache with its last two axes in the other order."""
    shape = constant(model, "planted_shape", np.array(bench.reference().chunk(0)["out/cache_last_time_next"].shape))
    after(
        model,
        "cache_last_time_next",
        lambda old, new: [
            helper.make_node("Transpose", [old], [f"{new}_t"], perm=[0, 1, 3, 2], name="/planted/Transpose"),
            helper.make_node("Reshape", [f"{new}_t", shape], [new], name="/planted/Reshape"),
        ],
    )


def drop_one_more(model, bench, strength):
    """Drop three encoder frames of history where the schedule says two."""
    node = named(model, "/Slice")
    start = value_of(model, node.input[1])
    node.input[1] = constant(model, "planted_start", start + 1)


def drop_the_other_end(model, bench, strength):
    """Keep the history and drop as many frames at the end."""
    node = named(model, "/Slice")
    start = int(value_of(model, node.input[1])[0])
    node.input[1] = constant(model, "planted_start", np.array([0]))
    node.input[2] = constant(model, "planted_stop", np.array([-start]))


def mix_batch(model, bench, strength):
    """Subtract from every stream how far it is from the batch's mean: nothing, for a stream alone."""
    path = f"layers.{mid(bench)}.norm_out"
    node = find(model, path, "LayerNormalization")
    after(
        model,
        node.output[0],
        lambda old, new: [
            helper.make_node("ReduceMean", [old], [f"{new}_mean"], axes=[0], keepdims=1, name="/planted/ReduceMean"),
            helper.make_node("Sub", [f"{new}_mean", old], [f"{new}_off"], name="/planted/Sub"),
            helper.make_node("Add", [old, f"{new}_off"], [new], name="/planted/Add"),
        ],
    )


def zero_tensor(tensor: str):
    return lambda model, bench, strength: after(model, tensor, multiply(model, 0.0))


def silence_joint(model, bench, strength):
    node = next(n for n in model.graph.node if n.op_type == "Relu" and module_path(n.name).startswith("joint"))
    after(model, node.output[0], multiply(model, 0.0))


OTHERS = [
    graph("output-axes-exchanged", "layout-transposed", "outputs", swap_output_axes),
    graph("returned-cache-misread", "layout-transposed", "cache_last_time_next", misread_cache),
    # The frames that are left set how many positions are encoded, before the first layer sees them.
    graph("drops-one-frame-more", "pre-encode-overlap-wrong", "encoder.pos_enc", drop_one_more),
    graph("drops-the-wrong-end", "pre-encode-overlap-wrong", "encoder.layers.0", drop_the_other_end),
    graph("batch-mixed", "batch-dependence", (), mix_batch, any_chunk=True),
    graph("output-constant", "degenerate-output", "outputs", zero_tensor("outputs")),
    graph("joint-constant", "degenerate-output", "joint", silence_joint, file="decoder_joint.onnx"),
]

FAULTS = [*CACHES, *WEIGHTS, *ARITHMETIC, *ATTENTION, *OTHERS]
