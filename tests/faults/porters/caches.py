"""Caches as a graph reads and returns them."""

from __future__ import annotations

import numpy as np

from plant_fault import layer_cache_gathers

from ..edits import find, named, producer, value_of
from ..graph_faults import mid
from ..loop_faults import ATTENTION, CHANNEL
from .build import CHANNEL_OUT, CONV, LENGTH_OUT, TIME_OUT, every, graph, only, slots
from .graft import Graft, sorted_by_need


def cache_of_outputs(model, bench) -> None:
    """One layer caches attention's output where its input belongs."""
    scope = f"layers.{mid(bench)}.self_attn"
    kept = next(
        n
        for n in model.graph.node
        if n.op_type == "Slice"
        and n.input[0] == find(model, f"layers.{mid(bench)}.norm_self_att", "LayerNormalization").output[0]
        and n.name.startswith(f"/layers.{mid(bench)}/self_attn")
    )
    kept.input[0] = find(model, f"{scope}.linear_out", "Add").output[0]
    sorted_by_need(model)


def cache_before_the_norm(model, bench) -> None:
    """Every layer caches what comes before the norm, not what attention sees."""
    for layer in every(bench):
        norm = find(model, f"layers.{layer}.norm_self_att", "LayerNormalization")
        for node in model.graph.node:
            inside = node.name.startswith(f"/layers.{layer}/self_attn/")
            if node.op_type == "Slice" and inside and node.input[0] == norm.output[0]:
                node.input[0] = norm.input[0]


def time_cache_of_outputs(model, bench) -> None:
    """One layer keeps what its depthwise convolution returns, not what it is given."""
    scope = f"layers.{mid(bench)}.conv.depthwise_conv"
    conv, join = find(model, scope, "Conv"), find(model, scope, "Concat", -1)
    keep = find(model, scope, "Slice", -1)
    g = Graft(model, f"/layers.{mid(bench)}/conv/depthwise_conv")
    g.before(keep, 0, lambda _: g("Concat", join.input[0], conv.output[0], axis=-1))
    sorted_by_need(model)


def time_cache_a_frame_old(model, bench) -> None:
    scope = f"layers.{mid(bench)}.conv.depthwise_conv"
    keep = find(model, scope, "Slice", -1)
    g = Graft(model, f"/layers.{mid(bench)}/conv/depthwise_conv")
    g.before(keep, 1, lambda x: g("Sub", x, g.const(np.array([1]), "Sub")))
    keep.input[2] = g.const(np.array([-1]), "Slice")


def channel_cache_a_frame_old(model, bench) -> None:
    node = named(model, "/Slice_5")
    g = Graft(model)
    node.input[1], node.input[2] = (
        g.const(value_of(model, node.input[1]) - 1, "Slice"),
        g.const(np.array([-1]), "Slice"),
    )


def short_cache(model, bench) -> None:
    """The oldest six slots come back empty: the cache holds fewer frames than it has room for."""
    mask = np.ones((1, 1, slots(bench), 1), np.float32)
    mask[:, :, :6] = 0
    g = Graft(model)
    g.after(CHANNEL_OUT, lambda x: g("Mul", x, g.floats(mask)))


def length_in_feature_frames(model, bench) -> None:
    node = producer(model, producer(model, LENGTH_OUT).input[0])
    g = Graft(model)
    g.before(node, 1, lambda x: g("Mul", x, g.const(np.array(8), "Mul")))


def cache_written_before_it_is_read(model, bench) -> None:
    """The new time cache overwrites the old in place, and then the convolution reads it."""
    scope = f"layers.{mid(bench)}.conv.depthwise_conv"
    join, conv, keep = find(model, scope, "Concat", -1), find(model, scope, "Conv"), find(model, scope, "Slice", -1)
    g = Graft(model, f"/layers.{mid(bench)}/conv/depthwise_conv")
    g.before(conv, 0, lambda _: g("Concat", keep.output[0], join.input[1], axis=-1))
    sorted_by_need(model)


def convolution_centred(layers):
    """Kernels centred on their frame: four frames from the cache, four of zeros behind."""

    def edit(model, bench) -> None:
        for layer in layers(bench):
            scope = f"layers.{layer}.conv.depthwise_conv"
            conv = find(model, scope, "Conv")
            g = Graft(model, f"/layers.{layer}/conv/depthwise_conv")
            half = value_of(model, conv.input[1]).shape[-1] // 2

            def build(x: str, g=g, half=half) -> str:
                axis, start, end = (g.const(np.array([n]), "Slice") for n in (2, half, np.iinfo(np.int64).max))
                return g("Pad", g("Slice", x, start, end, axis), g.const(np.array([0, 0, 0, 0, 0, half]), "Pad"))

            g.before(conv, 0, build)

    return edit


def first_slot_for_all(model, bench) -> None:
    """One layer gives every stream of a batch the first one's cache."""
    gather = layer_cache_gathers(model, CHANNEL)[mid(bench)]
    g = Graft(model)

    def build(x: str) -> str:
        first = g("Gather", x, g.const(np.array([0]), "Gather"), axis=0)
        return g("Expand", first, g("Shape", x))

    g.after(gather.output[0], build)


FAULTS = [
    graph(
        "cache-of-attention-outputs", "graph-differs", (CHANNEL_OUT, "encoder.layers.{mid}.self_attn"), cache_of_outputs
    ),
    graph("cache-before-the-norm", "graph-differs", (CHANNEL_OUT, ATTENTION), cache_before_the_norm),
    graph("time-cache-of-outputs", "graph-differs", (TIME_OUT, CONV), time_cache_of_outputs),
    graph("time-cache-a-frame-old", "cache-misaligned", (TIME_OUT, CONV), time_cache_a_frame_old),
    graph("channel-cache-a-frame-old", "cache-misaligned", CHANNEL_OUT, channel_cache_a_frame_old),
    graph(
        "cache-short-of-slots",
        ("cache-not-propagated", "wrong-attention-context"),
        CHANNEL_OUT,
        short_cache,
        lambda b: next(
            i for i, c in enumerate(b.reference()) if int(c["out/cache_last_channel_next_len"][0]) > slots(b) - 6
        ),
    ),
    graph("length-in-feature-frames", "cache-length-wrong", LENGTH_OUT, length_in_feature_frames),
    graph(
        "cache-overwritten-before-read", ("cache-misaligned", "graph-differs"), CONV, cache_written_before_it_is_read
    ),
    graph(
        "convolutions-centred",
        ("cache-misaligned", "graph-differs"),
        "encoder.layers.0.conv",
        convolution_centred(every),
    ),
    graph("convolution-centred-in-one", ("cache-misaligned", "graph-differs"), CONV, convolution_centred(only(mid))),
    graph("first-slot-for-all", "batch-dependence", (), first_slot_for_all, any_chunk=True),
]
