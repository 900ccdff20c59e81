"""Weights that a converter loses, turns or puts elsewhere."""

from __future__ import annotations

from ..edits import find, named, rewrite, value_of
from ..graph_faults import last, mid
from ..loop_faults import ATTENTION, FRONT
from .build import every, graph
from .graft import Graft, bypass, rename_initializer


def kernels_flipped(layers, nameless=False):
    def edit(model, bench) -> None:
        for count, layer in enumerate(layers(bench)):
            name = find(model, f"layers.{layer}.conv.depthwise_conv", "Conv").input[1]
            rewrite(model, name, lambda w: w[..., ::-1])
            if not nameless:
                rename_initializer(model, name, f"onnx::Conv_{9100 + count}")

    return edit


def square_untransposed(model, bench) -> None:
    """Square matrices kept as torch has them and turned in the graph, but for attention's output, which is not."""
    for layer in every(bench):
        for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
            node = find(model, f"layers.{layer}.self_attn.{part}", "MatMul")
            rewrite(model, node.input[1], lambda w: w.T)
            if part != "linear_out":
                g = Graft(model, f"/layers.{layer}/self_attn/{part}")
                g.before(node, 1, lambda w, g=g: g("Transpose", w, perm=[1, 0]))
    for count, tensor in enumerate([t for t in model.graph.initializer if t.name.startswith("onnx::MatMul_")]):
        rename_initializer(model, tensor.name, f"val_{count}")


def biases_dropped(model, bench) -> None:
    """``use_bias: false`` assumed: no linear layer has its offset."""
    for node in list(model.graph.node):
        if node.op_type == "Add" and "/linear" in node.name and node.input[0].endswith(".bias"):
            bypass(model, node, node.input[1])


def bias_dropped(model, bench) -> None:
    node = find(model, f"layers.{last(bench)}.self_attn.linear_v", "Add")
    bypass(model, node, node.input[1])


def layers_exchanged(model, bench) -> None:
    """All weights of two layers exchanged, as by names sorted wrongly."""
    one, two = mid(bench), last(bench)
    taken: dict[str, list[str]] = {}
    for layer in (one, two):
        found = [n for n in model.graph.node if n.name.startswith(f"/layers.{layer}/")]
        known = {t.name for t in model.graph.initializer}
        taken[str(layer)] = [
            name
            for part in sorted({n.name for n in found if n.op_type in ("MatMul", "Add", "Conv", "LayerNormalization")})
            for name in named(model, part).input
            if name in known
        ]
    for first, second in zip(taken[str(one)], taken[str(two)], strict=True):
        a, b = value_of(model, first), value_of(model, second)
        rewrite(model, first, lambda _, b=b: b)
        rewrite(model, second, lambda _, a=a: a)


def front_kernel_turned(model, bench) -> None:
    """Kernels of one strided convolution with time and mel exchanged, as by another layout of weights."""
    node = find(model, "pre_encode.conv.2", "Conv")
    rewrite(model, node.input[1], lambda w: w.swapaxes(2, 3))
    rename_initializer(model, node.input[1], "onnx::Conv_9300")


DEPTHWISE = "conv.depthwise_conv"
FAULTS = [
    graph("front-kernel-turned", ("weights-differ", "layout-transposed"), FRONT, front_kernel_turned),
    graph("kernels-flipped", "weights-differ", f"encoder.layers.0.{DEPTHWISE}", kernels_flipped(every)),
    graph("square-matrices-untransposed", "weights-differ", ATTENTION, square_untransposed),
    graph("biases-dropped", ("weights-differ", "graph-differs"), "encoder.layers.0.feed_forward1", biases_dropped),
    graph("bias-dropped", ("weights-differ", "graph-differs"), "encoder.layers.{last}.self_attn", bias_dropped),
    graph(
        "layers-weights-exchanged", ("weights-differ", "cache-layers-swapped"), "encoder.layers.{mid}", layers_exchanged
    ),
]
