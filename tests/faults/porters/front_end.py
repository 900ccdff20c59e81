"""The striding front end and what scales its frames."""

from __future__ import annotations

import numpy as np

from ..edits import find, rewrite, value_of
from ..loop_faults import FRONT
from .build import graph, width
from .graft import Graft, bypass, rename_initializer


def front_pads(pads: list[int]):
    """Pads of the strided convolutions, ``[time left, mel left, time right, mel right]``; NeMo's are 2, 2, 1, 1."""

    def edit(model, bench) -> None:
        for node in [n for n in model.graph.node if n.op_type == "Pad" and n.name.startswith("/pre_encode")]:
            node.input[1] = Graft(model).const(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]), "Pad")

    return edit


def frequency_first(model, bench) -> None:
    """Flatten mel before channels, as channels-last frameworks do."""
    find(model, "pre_encode", "Transpose").attribute[0].ints[:] = [0, 2, 3, 1]


def front_without_first_activation(model, bench) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Relu" and n.name.startswith("/pre_encode"))
    bypass(model, node, node.input[0])


def scaled_embedding(model, bench) -> None:
    """``xscaling: true`` assumed: frames times the root of d_model before the first layer."""
    g = Graft(model, "/pos_enc")
    g.after("/Slice_output_0", lambda x: g("Mul", x, g.floats(width(bench) ** 0.5)))


def front_out_rows(model, bench) -> None:
    """The flattened channels and mels of pre_encode.out permuted in the converter."""
    name = find(model, "pre_encode.out", "MatMul").input[1]
    channels = value_of(model, "pre_encode.conv.0.weight").shape[0]
    rewrite(model, name, lambda w: w.reshape(channels, -1, w.shape[1]).swapaxes(0, 1).reshape(w.shape))
    rename_initializer(model, name, "onnx::MatMul_9001")


FAULTS = [
    graph("front-pads-swapped", "graph-differs", FRONT, front_pads([1, 1, 2, 2])),
    graph("front-pads-time-symmetric", "graph-differs", FRONT, front_pads([1, 2, 1, 1])),
    graph("front-flattens-mel-first", ("layout-transposed", "graph-differs"), FRONT, frequency_first),
    graph("front-lacks-an-activation", "graph-differs", FRONT, front_without_first_activation),
    graph("front-out-rows-permuted", ("weights-differ", "layout-transposed"), FRONT, front_out_rows),
    graph("xscale-where-there-is-none", "graph-differs", ("encoder.pos_enc", "encoder.layers.0"), scaled_embedding),
]
