"""Tensors and products kept in fewer bits."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..edits import find, rewrite, value_of
from ..graph_faults import mid
from ..loop_faults import FRONT
from .build import HALF, JOINT_FILE, graph
from .graft import ANONYMOUS, EXPORTER, NONE, Graft


def layer_in_half(model, bench) -> None:
    known = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    for node in list(model.graph.node):
        if node.name.startswith(f"/layers.{mid(bench)}/") and node.op_type in ("MatMul", "Conv"):
            for name in node.input:
                if name in known:
                    rewrite(model, name, lambda w: w.astype(np.float16).astype(np.float32))


def tensor_in_int8(model, bench) -> None:
    """One matrix stored in eight bits, a scale per column, and dequantised in the graph."""
    node = find(model, f"layers.{mid(bench)}.feed_forward2.linear1", "MatMul")
    weight = value_of(model, node.input[1])
    scale = (np.abs(weight).max(0) / 127).astype(np.float32)
    g = Graft(model, f"/layers.{mid(bench)}/feed_forward2/linear1")
    packed = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
    zero = np.zeros(scale.shape, np.int8)
    g.before(
        node,
        1,
        lambda _: g("DequantizeLinear", g.const(packed, "Q"), g.const(scale, "Q"), g.const(zero, "Q"), axis=1),
    )


def stream_in(kind: int, style: str):
    """What passes from part to part of each layer is rounded."""

    def edit(model, bench) -> None:
        for node in list(model.graph.node):
            if node.op_type == "Add" and node.name.count("/") == 2 and node.name.startswith("/layers."):
                g = Graft(model, node.name.rpartition("/")[0], style)
                g.after(node.output[0], lambda x, g=g: g("Cast", g("Cast", x, to=kind), to=1))

    return edit


def positions_in_half(model, bench) -> None:
    node = find(model, "pos_enc", "Slice")
    table = value_of(model, node.input[0]).astype(np.float16).astype(np.float32)
    node.input[0] = Graft(model).floats(table, "Slice")


def front_in_tf32(model, bench) -> None:
    """The strided convolutions multiply what they are given to ten bits, as tensor cores do by default."""
    for node in [n for n in model.graph.node if n.op_type == "Conv" and n.name.startswith("/pre_encode")]:
        for position in (0, 1):
            g = Graft(model, "/pre_encode/conv", NONE)

            def rounded(x: str, g=g) -> str:
                grown = g("Mul", x, g.floats(2**13 + 1))
                return g("Sub", grown, g("Sub", grown, x))

            g.before(node, position, rounded)


def joint_in_bfloat16(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "MatMul"]:
        g = Graft(model, "/joint")
        for position in (0, 1):
            g.before(
                node, position, lambda x, g=g: g("Cast", g("Cast", x, to=TensorProto.BFLOAT16), to=TensorProto.FLOAT)
            )


FAULTS = [
    graph("positions-in-float16", HALF, "encoder.pos_enc", positions_in_half),
    graph("front-in-tf32", HALF, FRONT, front_in_tf32),
    graph("joint-in-bfloat16", HALF, "joint", joint_in_bfloat16, file=JOINT_FILE),
    graph("layer-in-float16", HALF, "encoder.layers.{mid}", layer_in_half),
    graph("tensor-in-int8", HALF, "encoder.layers.{mid}.feed_forward2", tensor_in_int8),
    graph("stream-in-bfloat16", HALF, "encoder.layers.0", stream_in(TensorProto.BFLOAT16, EXPORTER)),
    graph("stream-in-float16", HALF, "encoder.layers.0", stream_in(TensorProto.FLOAT16, ANONYMOUS)),
]
