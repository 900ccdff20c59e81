"""Attention: scores, masks, heads and positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..bench import Bench
from ..edits import find, matmul_weight, named, rewrite, value_of
from ..graph_faults import mid
from ..loop_faults import ATTENTION
from .build import SHIFT, every, graph, heads, only, width
from .graft import ANONYMOUS, EXPORTER, Graft, bypass, sorted_by_need


def first_with(bench: Bench, valid: int) -> int:
    """The first chunk before which the cache holds so many frames."""
    return next(i for i, c in enumerate(bench.reference()) if int(c["in/cache_last_channel_len"][0]) >= valid)


def score_scale(layers, style=None):
    """Scores divided by the root of d_model, not of the head's width."""

    def edit(model, bench) -> None:
        for layer in layers(bench):
            node = find(model, f"layers.{layer}.self_attn", "Div")
            g = Graft(model, f"/layers.{layer}/self_attn", style or EXPORTER)
            if style is None:
                node.input[1] = g.floats(width(bench) ** 0.5, "Div")
            else:
                g.instead(node, lambda x, _, g=g: g("Mul", x, g.floats(width(bench) ** -0.5)))

    return edit


def softmax_over_queries(model, bench) -> None:
    find(model, f"layers.{mid(bench)}.self_attn", "Softmax").attribute[0].i = -2


def weak_mask(layers):
    """An additive mask of -1 (a Boolean mask taken for an additive one), and nothing after the softmax."""

    def edit(model, bench) -> None:
        for layer in layers(bench):
            before, behind = (find(model, f"layers.{layer}.self_attn", "Where", place) for place in (0, 1))
            g = Graft(model, f"/layers.{layer}/self_attn")
            g.instead(before, lambda mask, _, x, g=g: g("Sub", x, g("Cast", mask, to=1)))
            bypass(model, behind, behind.input[2])

    return edit


def padding_attended(model, bench) -> None:
    """The offset of the valid cache is zero: slots that hold nothing yet take part."""
    node = named(model, "/Add_2")
    g = Graft(model)
    g.instead(node, lambda x, _: g("Mul", x, g.const(np.array(0), "Mul")))


def chunk_mask(chunk: int | None = None, left: Callable[[int], int] | None = None):
    """The mask of chunked_limited attention for chunks of another size, or another number of them."""

    def edit(model, bench) -> None:
        g = Graft(model)
        if chunk is not None:
            node = named(model, "/Div")
            was = value_of(model, node.input[1])
            size = int(was)
            node.input[1] = g.const(np.array(chunk, was.dtype), "Div")
            limit = named(model, "/LessOrEqual")
            limit.input[1] = g.const(np.array(int(value_of(model, limit.input[1])) * size // chunk), "LessOrEqual")
        if left is not None:
            node = named(model, "/LessOrEqual")
            node.input[1] = g.const(np.array(left(int(value_of(model, node.input[1])))), "LessOrEqual")

    return edit


def shift_leaks(model, bench) -> None:
    """The relative shift without dropping the first row: its padding zero stays in."""
    for layer in every(bench):
        pad = find(model, f"layers.{layer}.self_attn", "Pad")
        reshaped = next(n for n in model.graph.node if n.op_type == "Reshape" and pad.output[0] in n.input)
        cut = next(n for n in model.graph.node if n.op_type == "Slice" and reshaped.output[0] in n.input)
        g = Graft(model)
        cut.input[1], cut.input[2] = g.const(np.array([0]), "Slice"), g.const(np.array([-1]), "Slice")


def biases_exchanged_in_the_file(model, bench) -> None:
    for layer in every(bench):
        u, v = (f"layers.{layer}.self_attn.pos_bias_{letter}" for letter in "uv")
        first, second = value_of(model, u), value_of(model, v)
        rewrite(model, u, lambda _, second=second: second)
        rewrite(model, v, lambda _, first=first: first)


def biases_read_the_other_way(model, bench) -> None:
    for letter in "uv":
        rewrite(model, f"layers.{mid(bench)}.self_attn.pos_bias_{letter}", lambda w: w.T.reshape(w.shape))


def value_heads_interleaved(model, bench) -> None:
    """Values split into heads as [width, heads] where they are [heads, width]."""
    scope = f"layers.{mid(bench)}.self_attn"
    add = find(model, f"{scope}.linear_v", "Add")
    reshape = next(n for n in model.graph.node if n.op_type == "Reshape" and add.output[0] in n.input)
    turn = next(n for n in model.graph.node if n.op_type == "Transpose" and reshape.output[0] in n.input)
    g = Graft(model)
    reshape.input[1] = g.const(np.array([1, -1, width(bench) // heads(bench), heads(bench)]), "Reshape")
    turn.attribute[0].ints[:] = [0, 3, 1, 2]


def position_table(change):
    def edit(model, bench) -> None:
        node = find(model, "pos_enc", "Slice")
        node.input[0] = Graft(model).floats(change(value_of(model, node.input[0])), "Slice")

    return edit


def content_scaled_only(model, bench) -> None:
    """Only the content scores are divided; the position scores are added to them undivided."""
    for layer in every(bench):
        scope = f"layers.{layer}.self_attn"
        add, divide = find(model, scope, "Add", 2), find(model, scope, "Div")
        g = Graft(model, f"/layers.{layer}/self_attn")
        scale = divide.input[1]
        bypass(model, divide, add.output[0])
        g.before(add, 0, lambda x, g=g, scale=scale: g("Div", x, scale))
    sorted_by_need(model)


def positions_left_out(model, bench) -> None:
    node = find(model, f"layers.{mid(bench)}.self_attn", "Add", 2)
    bypass(model, node, node.input[0])


def first_layers_positions(model, bench) -> None:
    """Every layer uses layer 0's projection of positions, as where it was taken to be shared."""
    shared = matmul_weight(model, "layers.0.self_attn.linear_pos")
    for layer in every(bench)[1:]:
        find(model, f"layers.{layer}.self_attn.linear_pos", "MatMul").input[1] = shared


SA = "encoder.layers.{mid}.self_attn"
FAULTS = [
    graph("scores-by-root-of-d-model", "graph-differs", ATTENTION, score_scale(every)),
    graph("scores-by-root-of-d-model-in-one", "graph-differs", SA, score_scale(only(mid), ANONYMOUS)),
    # Over queries, frames behind the mask do have an effect where a chunk has several.
    graph("softmax-over-queries", ("graph-differs", "mask-missing"), SA, softmax_over_queries),
    graph("mask-of-minus-one", "mask-missing", ATTENTION, weak_mask(every)),
    graph("mask-of-minus-one-in-one", "mask-missing", SA, weak_mask(only(mid))),
    graph("empty-slots-attended", "mask-missing", ATTENTION, padding_attended),
    graph("look-ahead-masked", "wrong-attention-context", ATTENTION, chunk_mask(chunk=1), only="demo"),
    graph(
        "left-context-halved",
        "wrong-attention-context",
        ATTENTION,
        chunk_mask(left=lambda chunks: chunks // 2),
        lambda b: first_with(b, 35),
        only="demo",
    ),
    graph("relative-shift-leaks-padding", SHIFT, ATTENTION, shift_leaks),
    graph("position-biases-exchanged-in-the-file", "weights-differ", ATTENTION, biases_exchanged_in_the_file),
    graph("position-biases-read-the-other-way", ("weights-differ", "layout-transposed"), SA, biases_read_the_other_way),
    graph("value-heads-interleaved", ("layout-transposed", "graph-differs"), SA, value_heads_interleaved),
    graph("positions-in-ascending-order", SHIFT, "encoder.pos_enc", position_table(lambda w: w[:, ::-1])),
    graph(
        "sines-then-cosines",
        (SHIFT, "layout-transposed"),
        "encoder.pos_enc",
        position_table(lambda w: np.concatenate([w[..., 0::2], w[..., 1::2]], -1)),
    ),
    graph("content-scores-scaled-only", "graph-differs", ATTENTION, content_scaled_only),
    graph("position-scores-left-out", (SHIFT, "graph-differs"), SA, positions_left_out),
    graph(
        "position-projection-shared",
        ("weights-differ", "graph-differs"),
        "encoder.layers.1.self_attn",
        first_layers_positions,
    ),
]
