"""Layer norms and folded batch norms: what they compute, and with which epsilon."""

from __future__ import annotations

import numpy as np

from ..bench import Bench
from ..edits import find, rewrite
from ..graph_faults import last, mid
from .build import CONV, graph, width
from .graft import ANONYMOUS, EXPORTER, NONE, Graft


def written_out(paths, style=EXPORTER, epsilon=None, centred=True, unbiased=False):
    """Layer norms as a port writes them: epsilon, centring, divisor its own."""

    def edit(model, bench) -> None:
        for node in [n for n in model.graph.node if n.op_type == "LayerNormalization"]:
            path = node.name.strip("/").rpartition("/")[0]
            if not paths(path.replace("/", "."), bench):
                continue
            eps = epsilon or next(a.f for a in node.attribute if a.name == "epsilon")
            g, count = Graft(model, f"/{path}", style), width(bench)

            def build(x: str, gain: str, offset: str, g=g, eps=eps, count=count) -> str:
                centre = g("Sub", x, g("ReduceMean", x, axes=[-1], keepdims=1)) if centred else x
                variance = g("ReduceMean", g("Pow", centre, g.floats(2, "Pow")), axes=[-1], keepdims=1)
                if unbiased:
                    variance = g("Mul", variance, g.floats(count / (count - 1)))
                unit = g("Div", centre, g("Sqrt", g("Add", variance, g.floats(eps, "Add"))))
                return g("Add", g("Mul", unit, gain), offset)

            g.instead(node, build)

    return edit


def norm_without_offset(model, bench) -> None:
    node = find(model, f"layers.{mid(bench)}.norm_conv", "LayerNormalization")
    del node.input[2]


def every_norm(path: str, bench: Bench) -> bool:
    return True


def normalisation_folded_with_another_epsilon(model, bench) -> None:
    """A converter that folds batch norms with an epsilon of its own."""
    state = bench.loaded.module.state_dict()
    path = f"encoder.layers.{mid(bench)}.conv"
    of = {n: state[f"{path}.batch_norm.{n}"].numpy() for n in ("weight", "bias", "running_mean", "running_var")}
    kernel, offset = (state[f"{path}.depthwise_conv.{n}"].numpy() for n in ("weight", "bias"))
    gain = of["weight"] / np.sqrt(of["running_var"] + 1e-3)
    node = find(model, f"layers.{mid(bench)}.conv.depthwise_conv", "Conv")
    rewrite(model, node.input[1], lambda _: (kernel * gain[:, None, None]).astype(np.float32))
    rewrite(model, node.input[2], lambda _: ((offset - of["running_mean"]) * gain + of["bias"]).astype(np.float32))


NORM0 = "encoder.layers.0.norm_feed_forward1"
FAULTS = [
    graph(
        "norm-without-offset",
        ("weights-differ", "graph-differs"),
        "encoder.layers.{mid}.norm_conv",
        norm_without_offset,
    ),
    graph("rms-norms", "graph-differs", NORM0, written_out(every_norm, centred=False)),
    graph(
        "rms-norm-in-one",
        "graph-differs",
        "encoder.layers.{mid}.norm_out",
        written_out(lambda path, b: path == f"layers.{mid(b)}.norm_out", ANONYMOUS, centred=False),
    ),
    # In the other model what enters layer 0 has a variance of hundreds: there no epsilon is felt.
    graph("norms-epsilon-keras", "norm-epsilon", NORM0, written_out(every_norm, epsilon=1e-3), only="demo"),
    graph(
        "norm-epsilon-in-one-written-out",
        "norm-epsilon",
        ("encoder.layers.{last}.norm_feed_forward2", "encoder.layers.{last}.feed_forward2"),
        written_out(lambda path, b: path == f"layers.{last(b)}.norm_feed_forward2", NONE, epsilon=1e-3),
    ),
    graph(
        "norms-epsilon-bert",
        "norm-epsilon",
        "encoder.layers.0",  # which norm's variance is small enough to show it first depends on the weights
        written_out(every_norm, ANONYMOUS, epsilon=1e-12),
        only="demo",
    ),
    graph("norms-with-sample-variance", "graph-differs", NORM0, written_out(every_norm, unbiased=True)),
    graph(
        "norm-folded-with-another-epsilon",
        ("norm-epsilon", "weights-differ"),
        CONV,
        normalisation_folded_with_another_epsilon,
        only="regular",
    ),
]
