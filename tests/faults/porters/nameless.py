"""Faults of exports in which no node has a name and tensors are numbers."""

from __future__ import annotations

from ..edits import find
from ..graph_faults import mid
from .attention import padding_attended
from .blocks import FF, act, activations, lost_residual
from .build import CHANNEL_OUT, CONV, TIME_OUT, graph, only
from .caches import time_cache_a_frame_old
from .graft import rename_initializer
from .weights import DEPTHWISE, kernels_flipped


def kernel_flipped_all_renamed(model, bench) -> None:
    kernels_flipped(only(mid), nameless=True)(model, bench)
    for count, tensor in enumerate(model.graph.initializer):
        rename_initializer(model, tensor.name, f"w{count}")


def norm_epsilon_at(path):
    def edit(model, bench) -> None:
        node = find(model, path(bench), "LayerNormalization")
        next(a for a in node.attribute if a.name == "epsilon").f = 1e-2

    return edit


SOMEWHERE = ("encoder", "outputs", CHANNEL_OUT, TIME_OUT)
FAULTS = [
    graph("kernel-flipped-all-renamed", "weights-differ", SOMEWHERE, kernel_flipped_all_renamed, nameless=True),
    graph(
        "norm-epsilon-nothing-named",
        "norm-epsilon",
        SOMEWHERE,
        norm_epsilon_at(lambda b: f"layers.{mid(b)}.norm_conv"),
        nameless=True,
    ),
    graph("empty-slots-attended-nothing-named", "mask-missing", SOMEWHERE, padding_attended, nameless=True),
    graph("residual-lost-nothing-named", "graph-differs", SOMEWHERE, lost_residual, nameless=True),
    graph(
        "kernel-flipped-nothing-named",
        "weights-differ",
        f"encoder.layers.{{mid}}.{DEPTHWISE}",
        kernels_flipped(only(mid), nameless=True),
        nameless=True,
        only="demo",  # in the other model the exporter renamed the kernel when it folded the batch norm
    ),
    graph(
        "relu-in-one-nothing-named",
        "graph-differs",
        (FF, "encoder", "outputs"),
        activations(act(["feed_forward2"], only(mid)), "relu"),
        nameless=True,
    ),
    graph(
        "time-cache-a-frame-old-nothing-named",
        "cache-misaligned",
        (TIME_OUT, CONV),
        time_cache_a_frame_old,
        nameless=True,
    ),
]
