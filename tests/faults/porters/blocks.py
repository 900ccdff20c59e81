"""Inside a layer: activations, gates and residuals."""

from __future__ import annotations

import numpy as np

from ..edits import find, producer
from ..graph_faults import last, mid
from .build import every, graph, only
from .graft import ANONYMOUS, EXPORTER, NONE, Graft, bypass, nodes


def activations(paths, how: str, style: str = EXPORTER):
    """SiLU becomes another activation. ``paths``: module paths (of ``activation``) given the bench."""

    def edit(model, bench) -> None:
        for path in paths(bench):
            sigmoid = find(model, path, "Sigmoid")
            product = next(n for n in model.graph.node if n.op_type == "Mul" and sigmoid.output[0] in n.input)
            value = sigmoid.input[0]
            g = Graft(model, f"/{path.replace('.', '/').replace('layers/', 'layers.')}", style)
            g.instead(product, lambda *_, g=g, value=value: ACTIVATIONS[how](g, value))
            bypass(model, sigmoid, value)

    return edit


def gelu_tanh(g: Graft, x: str) -> str:
    cubed = g("Mul", g("Mul", g("Mul", x, x), x), g.floats(0.044715))
    inner = g("Tanh", g("Mul", g("Add", x, cubed), g.floats((2 / np.pi) ** 0.5)))
    return g("Mul", g("Mul", x, g.floats(0.5)), g("Add", inner, g.floats(1.0, "Add")))


def gelu_erf(g: Graft, x: str) -> str:
    grown = g("Add", g("Erf", g("Div", x, g.floats(2**0.5, "Div"))), g.floats(1.0, "Add"))
    return g("Mul", g("Mul", x, grown), g.floats(0.5))


ACTIVATIONS = {"relu": lambda g, x: g("Relu", x), "gelu-tanh": gelu_tanh, "gelu-erf": gelu_erf}
EVERY_ACTIVATION = ("feed_forward1", "conv", "feed_forward2")


def act(parts, layers):
    return lambda bench: [f"layers.{layer}.{part}.activation" for layer in layers(bench) for part in parts]


def halves_whole(layers):
    def edit(model, bench) -> None:
        for layer in layers(bench):
            for node in nodes(model, "Mul", f"layers.{layer}"):
                bypass(model, node, node.input[0])

    return edit


def lost_residual(model, bench) -> None:
    """The convolution module's output in place of its sum with the residual."""
    node = find(model, f"layers.{mid(bench)}", "Add", 2)
    bypass(model, node, node.input[1])


def residual_behind_the_norm(model, bench) -> None:
    """Post-norm habit: the normalised tensor is what attention is added to."""
    node = find(model, f"layers.{mid(bench)}", "Add", 1)
    node.input[0] = find(model, f"layers.{mid(bench)}.norm_self_att", "LayerNormalization").output[0]


def glu_halves(layers):
    def edit(model, bench) -> None:
        for layer in layers(bench):
            split = find(model, f"layers.{layer}.conv", "Split")
            split.output[0], split.output[1] = split.output[1], split.output[0]

    return edit


def glu_without_sigmoid(model, bench) -> None:
    for layer in every(bench):
        find(model, f"layers.{layer}.conv", "Sigmoid").op_type = "Tanh"


def a_layer_skipped(model, bench) -> None:
    """Outputs taken one layer too early."""
    earlier = find(model, f"layers.{last(bench) - 1}.norm_out", "LayerNormalization").output[0]
    producer(model, producer(model, "outputs").input[0]).input[0] = earlier


FF = "encoder.layers.{mid}.feed_forward2"
FAULTS = [
    graph("relu-in-one", "graph-differs", FF, activations(act(["feed_forward2"], only(mid)), "relu")),
    graph("relu-in-one-no-name", "graph-differs", FF, activations(act(["feed_forward2"], only(mid)), "relu", NONE)),
    graph(
        "gelu-tanh-everywhere",
        "graph-differs",
        "encoder.layers.0.feed_forward1",
        activations(act(EVERY_ACTIVATION, every), "gelu-tanh"),
    ),
    graph(
        "gelu-erf-in-convolutions",
        "graph-differs",
        "encoder.layers.0.conv",
        activations(act(["conv"], every), "gelu-erf", ANONYMOUS),
    ),
    graph(
        "gelu-erf-in-the-last",
        "graph-differs",
        "encoder.layers.{last}.feed_forward1",
        activations(act(["feed_forward1"], only(last)), "gelu-erf", ANONYMOUS),
    ),
    graph("halves-whole-everywhere", "graph-differs", "encoder.layers.0", halves_whole(every)),
    graph("halves-whole-in-the-last", "graph-differs", "encoder.layers.{last}", halves_whole(only(last))),
    graph("residual-lost", "graph-differs", "encoder.layers.{mid}", lost_residual),
    graph("residual-behind-the-norm", "graph-differs", "encoder.layers.{mid}", residual_behind_the_norm),
    graph("glu-wired-the-other-way", ("weights-differ", "graph-differs"), "encoder.layers.0.conv", glu_halves(every)),
    graph(
        "glu-wired-the-other-way-in-one",
        ("weights-differ", "graph-differs"),
        "encoder.layers.{mid}.conv",
        glu_halves(only(mid)),
    ),
    graph("glu-gate-tanh", "graph-differs", "encoder.layers.0.conv", glu_without_sigmoid),
    graph("outputs-a-layer-early", "graph-differs", ("outputs", "encoder.layers.{last}"), a_layer_skipped),
]
