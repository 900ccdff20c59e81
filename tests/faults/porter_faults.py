"""Faults as people who port FastConformers make them, written without looking at the rules that look for them.

Where two causes or two places are as good, all that are right are given. What has no code of its own in
docs/diagnosis.md is expected to be called by the nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from plant_fault import layer_cache_gathers
from streamparity.runners import StepInput
from streamparity.runners.transducer import State, TransducerStep
from streamparity.tensors import Array

from .bench import Bench
from .edits import find, matmul_weight, named, producer, rewrite, value_of
from .fault import Fault, Planted
from .loop_faults import ATTENTION, CHANNEL, FRONT, TIME, Caches, DrivenRunner, having, signal
from .porter_edits import (
    ANONYMOUS,
    EXPORTER,
    NONE,
    Graft,
    bypass,
    nodes,
    rename_initializer,
    sorted_by_need,
    without_names,
)
from .porter_features import chunk_by_chunk, through

Codes = str | tuple[str, ...]
CHANNEL_OUT, TIME_OUT, LENGTH_OUT = f"{CHANNEL}_next", f"{TIME}_next", "cache_last_channel_next_len"
ENCODER = ("encoder.*",)
LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class PorterFault(Fault):
    """A fault with more than one right answer.

    Attributes:
        codes: every diagnosis that is right; none where docs/diagnosis.md has none that would be.
        modules: every module that is right.
        any_chunk: the chunk says nothing, as for what only a batch shows.
    """

    codes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    any_chunk: bool = False

    def right(self, bench: Bench, module: str | None, code: str | None, chunk: int | None) -> tuple[bool, bool, bool]:
        """Whether chunk, module and code are."""
        wanted = [name.format(mid=bench.layers // 2, last=bench.layers - 1) for name in self.modules]
        inside = any((module or "") == name or (module or "").startswith(f"{name}.") for name in wanted)
        named_right = not self.codes or code in self.codes
        return self.any_chunk or chunk == self.expected_chunk(bench), not wanted or inside, named_right


def several(value: Codes) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def graph(name, codes: Codes, modules: Codes, edit, chunk=0, *, file="encoder.onnx", nameless=False, **about) -> Fault:
    def plant(bench: Bench, strength: float) -> Planted:
        def whole(model: onnx.ModelProto) -> None:
            edit(model, bench)
            if nameless:
                without_names(model)

        return Planted(bench.edited(name, whole, file), allow_unmatched=ENCODER if nameless else ())

    codes, modules = several(codes), several(modules)
    return PorterFault(
        name,
        plant,
        codes[0] if codes else "",
        modules[0] if modules else "",
        chunk,
        codes=codes,
        modules=modules,
        **about,
    )


def driven(name, codes: Codes, modules: Codes, chunk=0, **methods: Any) -> Fault:
    def plant(bench: Bench, strength: float) -> Planted:
        runner = type("Faulty", (PortedRunner,), {"strength": strength, "bench": bench, **methods})
        return Planted(bench.edited("sound", lambda model: None), runner)

    codes, modules = several(codes), several(modules)
    return PorterFault(name, plant, codes[0] if codes else "", modules[0], chunk, codes=codes, modules=modules)


class PortedRunner(DrivenRunner):
    """As :class:`DrivenRunner`; what calls predictor and joint can be wrong as well."""

    calls: Any = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if self.calls is not None:
            self.transducer = self.calls(self.transducer, self.bench)


def mid(bench: Bench) -> int:
    return bench.layers // 2


def last(bench: Bench) -> int:
    return bench.layers - 1


def every(bench: Bench) -> list[int]:
    return list(range(bench.layers))


def only(layer: Callable[[Bench], int]) -> Callable[[Bench], list[int]]:
    return lambda bench: [layer(bench)]


def width(bench: Bench) -> int:
    return int(bench.loaded.module.encoder.d_model)


def heads(bench: Bench) -> int:
    return int(bench.loaded.module.encoder.layers[0].self_attn.h)


def slots(bench: Bench) -> int:
    return int(bench.reference().chunk(0)["in/cache_last_channel"].shape[2])


def per_chunk(bench: Bench) -> int:
    return int(bench.reference().chunk(0)["out/outputs"].shape[2])


def first_with(bench: Bench, valid: int) -> int:
    """The first chunk before which the cache holds so many frames."""
    return next(i for i, c in enumerate(bench.reference()) if int(c["in/cache_last_channel_len"][0]) >= valid)


def first_label(bench: Bench) -> int:
    blank = bench.reference().manifest.decoder.blank_id
    return next(line["chunk"] for line in bench.reference().trace() if line["label"] != blank)


# ------------------------------------------------------------------------------------------- front end


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


FRONT_END = [
    graph("front-pads-swapped", "graph-differs", FRONT, front_pads([1, 1, 2, 2])),
    graph("front-pads-time-symmetric", "graph-differs", FRONT, front_pads([1, 2, 1, 1])),
    graph("front-flattens-mel-first", ("layout-transposed", "graph-differs"), FRONT, frequency_first),
    graph("front-lacks-an-activation", "graph-differs", FRONT, front_without_first_activation),
    graph("front-out-rows-permuted", ("weights-differ", "layout-transposed"), FRONT, front_out_rows),
    graph("xscale-where-there-is-none", "graph-differs", ("encoder.pos_enc", "encoder.layers.0"), scaled_embedding),
]

# --------------------------------------------------------------------------------------------- features


def late_a_chunk(self: DrivenRunner, chunk: StepInput) -> StepInput:
    return through(shift=self.bench.reference().manifest.streaming.shift_size[1])(self, chunk)


def history_of_silence(self: DrivenRunner, features: Array) -> Array:
    if self.index:
        features[:, :, : _history(self)] = np.log(2.0**-24)
    return features


def history_repeated(self: DrivenRunner, features: Array) -> Array:
    """Edge padding in place of the frames before."""
    if self.index:
        count = _history(self)
        features[:, :, :count] = features[:, :, count : count + 1]
    return features


def _history(self: DrivenRunner) -> int:
    return self.bench.reference().manifest.streaming.pre_encode_cache_size[1]


def whole_last_chunk(self: DrivenRunner, chunk: StepInput) -> StepInput:
    """An engine of fixed shape: the last chunk filled up with zeros and said to be as long as the others."""
    full = self.bench.reference().chunk(0)["in/audio_signal"].shape[2]
    missing = full - chunk.audio_signal.shape[2]
    filled = np.pad(chunk.audio_signal, ((0, 0), (0, 0), (0, missing)))
    return replace(chunk, audio_signal=filled, length=chunk.length + missing)


def first_short(bench: Bench) -> int:
    full = bench.reference().chunk(0)["in/audio_signal"].shape[2]
    return next(i for i, c in enumerate(bench.reference()) if c["in/audio_signal"].shape[2] < full)


def bands_flipped_in_the_graph(model, bench) -> None:
    g = Graft(model, "")
    g.after(
        "/Transpose_2_output_0",
        lambda x: g("Gather", x, g.const(np.arange(128)[::-1].copy(), "Gather"), axis=2),
    )


FEATURES = [
    driven("mel-htk", "features-differ", FRONT, features=through(htk=True)),
    driven("mel-not-normalised", "features-differ", FRONT, features=through(norm=None)),
    driven("mel-to-7600-hertz", "features-differ", FRONT, features=through(fmax=7600.0)),
    driven("no-preemphasis", "features-differ", FRONT, features=through(preemphasis=0.0)),
    driven("window-periodic", "features-differ", FRONT, features=through(periodic=True)),
    driven("window-padded-on-the-right", "features-differ", FRONT, features=through(right_padded=True)),
    driven("edges-reflected", "features-differ", FRONT, features=through(edges="reflect")),
    driven("magnitude-for-power", "features-differ", FRONT, features=through(power=1.0)),
    driven("log-clamped", "features-differ", FRONT, features=through(logarithm="clamp")),
    driven("log-to-base-ten", "features-differ", FRONT, features=through(logarithm="log10")),
    driven("dither-left-on", "features-differ", FRONT, features=through(dither=1e-5)),
    driven("normalised-per-feature", "features-differ", FRONT, features=through(normalised=True)),
    driven("mel-by-chunks", "features-differ", FRONT, features=chunk_by_chunk),
    driven(
        "features-in-float16",
        ("features-differ", "reduced-precision"),
        FRONT,
        features=signal(lambda _, f: f.astype(np.float16).astype(np.float32)),
    ),
    driven("features-a-frame-early", "features-differ", FRONT, features=through(shift=-1)),
    driven("features-a-chunk-late", "features-differ", FRONT, features=late_a_chunk),
    driven("history-of-silence", "pre-encode-overlap-wrong", FRONT, 1, features=signal(history_of_silence)),
    driven("history-repeats-a-frame", "pre-encode-overlap-wrong", FRONT, 1, features=signal(history_repeated)),
    driven(
        "last-chunk-filled-up",
        ("features-differ", "encoded-length-wrong"),
        (FRONT, "encoded_lengths"),
        first_short,
        features=whole_last_chunk,
    ),
    graph("bands-flipped-in-the-graph", ("features-differ", "layout-transposed"), FRONT, bands_flipped_in_the_graph),
]

# --------------------------------------------------------------------------------------- activations, residuals


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
    node = producer(model, find_outputs(model).input[0])
    node.input[0] = earlier


def find_outputs(model) -> onnx.NodeProto:
    return producer(model, "outputs")


FF = "encoder.layers.{mid}.feed_forward2"
ACTIVATION = [
    graph("relu-in-one", "graph-differs", FF, activations(act(["feed_forward2"], only(mid)), "relu")),
    graph("relu-in-one-no-name", "graph-differs", FF, activations(act(["feed_forward2"], only(mid)), "relu", NONE)),
    graph(
        "relu-in-one-nothing-named",
        "graph-differs",
        (FF, "encoder", "outputs"),
        activations(act(["feed_forward2"], only(mid)), "relu"),
        nameless=True,
    ),
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

# ------------------------------------------------------------------------------------------------- norms


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


NORM0 = "encoder.layers.0.norm_feed_forward1"
NORMS = [
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
]

# --------------------------------------------------------------------------------------------- attention


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
        divided = divide.output[0]
        bypass(model, divide, add.output[0])
        g.before(add, 0, lambda x, g=g, scale=scale: g("Div", x, scale))
        assert divided
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
SHIFT = "positional-encoding-shift"
ATTENTIONS = [
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

# ------------------------------------------------------------------------------------------------ caches


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
                axis = g.const(np.array([2]), "Slice")
                late = g("Slice", x, g.const(np.array([half]), "Slice"), g.const(np.array([LAST]), "Slice"), axis)
                return g("Pad", late, g.const(np.array([0, 0, 0, 0, 0, half]), "Pad"))

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


CONV = "encoder.layers.{mid}.conv"
CACHES = [
    graph(
        "cache-of-attention-outputs", "graph-differs", (CHANNEL_OUT, "encoder.layers.{mid}.self_attn"), cache_of_outputs
    ),
    graph("cache-before-the-norm", "graph-differs", (CHANNEL_OUT, ATTENTION), cache_before_the_norm),
    graph("time-cache-of-outputs", "graph-differs", (TIME_OUT, CONV), time_cache_of_outputs),
    graph("time-cache-a-frame-old", "cache-misaligned", (TIME_OUT, CONV), time_cache_a_frame_old),
    graph(
        "time-cache-a-frame-old-nothing-named",
        "cache-misaligned",
        (TIME_OUT, CONV),
        time_cache_a_frame_old,
        nameless=True,
    ),
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

# ------------------------------------------------------------------------------------- lengths and outputs


def lengths_before_the_drop(model, bench) -> None:
    """encoded_lengths counts the frames dropped as well."""
    clip = producer(model, "encoded_lengths")
    node = named(model, "/Sub")
    g = Graft(model)
    g.instead(clip, lambda *_: g("Identity", node.input[0]))


def lengths_one_short(model, bench) -> None:
    g = Graft(model)
    g.after("encoded_lengths", lambda x: g("Sub", x, g.const(np.array(1), "Sub")))


def a_frame_fewer(model, bench) -> None:
    node = producer(model, "outputs")
    node.input[2] = Graft(model).const(np.array([per_chunk(bench) - 1]), "Slice")


OUTPUTS = [
    graph("lengths-before-the-drop", "encoded-length-wrong", "encoded_lengths", lengths_before_the_drop),
    graph("lengths-one-short", "encoded-length-wrong", "encoded_lengths", lengths_one_short),
    graph(
        "outputs-a-frame-fewer",
        ("encoded-length-wrong", "wrong-attention-context"),
        ("outputs", "encoded_lengths"),
        a_frame_fewer,
    ),
]

# ----------------------------------------------------------------------------------------------- weights


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


def front_kernel_turned(model, bench) -> None:
    """Kernels of one strided convolution with time and mel exchanged, as by another layout of weights."""
    node = find(model, "pre_encode.conv.2", "Conv")
    rewrite(model, node.input[1], lambda w: w.swapaxes(2, 3))
    rename_initializer(model, node.input[1], "onnx::Conv_9300")


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
DEPTHWISE = "conv.depthwise_conv"
HALF = "reduced-precision"
WEIGHTS = [
    graph("front-kernel-turned", ("weights-differ", "layout-transposed"), FRONT, front_kernel_turned),
    graph("positions-in-float16", HALF, "encoder.pos_enc", positions_in_half),
    graph("front-in-tf32", HALF, FRONT, front_in_tf32),
    graph("joint-in-bfloat16", HALF, "joint", joint_in_bfloat16, file="decoder_joint.onnx"),
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
    graph("kernels-flipped", "weights-differ", f"encoder.layers.0.{DEPTHWISE}", kernels_flipped(every)),
    graph(
        "kernel-flipped-nothing-named",
        "weights-differ",
        f"encoder.layers.{{mid}}.{DEPTHWISE}",
        kernels_flipped(only(mid), nameless=True),
        nameless=True,
        only="demo",  # in the other model the exporter renamed the kernel when it folded the batch norm
    ),
    graph("square-matrices-untransposed", "weights-differ", ATTENTION, square_untransposed),
    graph("biases-dropped", ("weights-differ", "graph-differs"), "encoder.layers.0.feed_forward1", biases_dropped),
    graph("bias-dropped", ("weights-differ", "graph-differs"), "encoder.layers.{last}.self_attn", bias_dropped),
    graph(
        "layers-weights-exchanged", ("weights-differ", "cache-layers-swapped"), "encoder.layers.{mid}", layers_exchanged
    ),
    graph("layer-in-float16", HALF, "encoder.layers.{mid}", layer_in_half),
    graph("tensor-in-int8", HALF, "encoder.layers.{mid}.feed_forward2", tensor_in_int8),
    graph("stream-in-bfloat16", HALF, "encoder.layers.0", stream_in(TensorProto.BFLOAT16, EXPORTER)),
    graph("stream-in-float16", HALF, "encoder.layers.0", stream_in(TensorProto.FLOAT16, ANONYMOUS)),
    graph(
        "norm-folded-with-another-epsilon",
        ("norm-epsilon", "weights-differ"),
        CONV,
        normalisation_folded_with_another_epsilon,
        only="regular",
    ),
]

# ------------------------------------------------------------------------------------- predictor and joint


def lstms(model) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "LSTM"]


def gates_as_torch(model, bench) -> None:
    """The second layer's gates in torch's order: input, forget, cell, output where ONNX has i, o, f, c."""
    for name in lstms(model)[1].input[1:4]:
        axis = 1
        values = value_of(model, name)
        if values.ndim == 2:
            halves = np.split(values, 2, axis)
            changed = np.concatenate([_torch_order(half) for half in halves], axis)
        else:
            changed = _torch_order(values)
        rewrite(model, name, lambda _, changed=changed: changed)


def _torch_order(values: Array) -> Array:
    parts = np.split(values, 4, axis=1)
    return np.concatenate([parts[place] for place in (0, 2, 3, 1)], axis=1)


def states_exchanged(model, bench) -> None:
    """Hidden and cell state come back under each other's name."""
    first, second = producer(model, "output_states_1"), producer(model, "output_states_2")
    first.output[0], second.output[0] = second.output[0], first.output[0]


def state_layers_exchanged(model, bench) -> None:
    for port in ("output_states_1", "output_states_2"):
        node = producer(model, port)
        node.input[0], node.input[1] = node.input[1], node.input[0]


def lstm_layers_exchanged(model, bench) -> None:
    first, second = lstms(model)
    for position in (1, 2, 3):
        first.input[position], second.input[position] = second.input[position], first.input[position]


def recurrent_bias_lost(model, bench) -> None:
    for node in lstms(model):
        rewrite(
            model, node.input[3], lambda b: np.concatenate([b[:, : b.shape[1] // 2], b[:, b.shape[1] // 2 :] * 0], 1)
        )


def joint_activation(op: str):
    def edit(model, bench) -> None:
        next(n for n in model.graph.node if n.op_type == "Relu").op_type = op

    return edit


def projections_exchanged(model, bench) -> None:
    first, second = find(model, "joint.enc", "MatMul"), find(model, "joint.pred", "MatMul")
    first.input[1], second.input[1] = second.input[1], first.input[1]


def joint_bias_lost(model, bench) -> None:
    node = find(model, "joint.enc", "Add")
    bypass(model, node, next(name for name in node.input if not name.endswith(".bias")))


def blank_first(model, bench) -> None:
    """The vocabulary rolled by one: the blank's row is the first, not the last."""
    scope = next(n.name for n in model.graph.node if n.op_type == "MatMul" and "joint_net" in n.name)
    node = named(model, scope)
    rewrite(model, node.input[1], lambda w: np.roll(w, 1, 1))
    rewrite(
        model,
        "joint.joint_net.1.bias" if _initial(model, "joint.joint_net.1.bias") else "joint.joint_net.2.bias",
        lambda b: np.roll(b, 1),
    )


def _initial(model, name: str) -> bool:
    return any(t.name == name for t in model.graph.initializer)


def probabilities(model, bench) -> None:
    """Softmax where logits or their log-softmax belong: the same labels, other scores."""
    g = Graft(model, "/joint")
    g.after("outputs", lambda x: g("Softmax", x, axis=-1))


def joint_multiplies(model, bench) -> None:
    find(model, "joint", "Add").op_type = "Mul"


class Calls:
    """Predictor and joint, called wrongly."""

    def __init__(self, inner: Any, bench: Bench) -> None:
        self.inner, self.bench = inner, bench
        self.blank = bench.reference().manifest.decoder.blank_id

    def initial_state(self) -> State:
        return self.inner.initial_state()

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        raise NotImplementedError


class NeverAdvanced(Calls):
    def step(self, frame, label, state):
        return replace(self.inner.step(frame, label, state), state=self.initial_state())


class ConsumedTwice(Calls):
    """Every label is given to the predictor a second time."""

    def step(self, frame, label, state):
        if label == self.blank:
            return self.inner.step(frame, label, state)
        return self.inner.step(frame, label, self.inner.step(frame, label, state).state)


class AdvancedOnBlank(Calls):
    """The predictor's state is taken over at every call, whether or not a label was emitted."""

    own: State | None = None

    def step(self, frame, label, state):
        done = self.inner.step(frame, label, state if self.own is None else self.own)
        self.own = done.state
        return done


class StartsWithZero(Calls):
    """Label 0 starts a stream, not the blank."""

    def step(self, frame, label, state):
        return self.inner.step(frame, 0 if label == self.blank else label, state)


class OneFrameBehind(Calls):
    """The joint scores the frame before."""

    frames: tuple[Array, Array] | None = None

    def step(self, frame, label, state):
        if self.frames is None:
            self.frames = (frame, frame)
        elif not np.array_equal(frame, self.frames[1]):
            self.frames = (self.frames[1], frame)
        return self.inner.step(self.frames[0], label, state)


PREDICTION, JOINT = "decoder.prediction", "joint"
NO_CODE = ()  # the list has no code for what calls predictor and joint
DECODER = [
    graph("gates-as-torch", "weights-differ", PREDICTION, gates_as_torch, file="decoder_joint.onnx"),
    graph("states-exchanged", "graph-differs", PREDICTION, states_exchanged, file="decoder_joint.onnx"),
    graph(
        "state-layers-exchanged",
        ("graph-differs", "cache-layers-swapped"),
        PREDICTION,
        state_layers_exchanged,
        file="decoder_joint.onnx",
    ),
    graph("lstm-layers-exchanged", "weights-differ", PREDICTION, lstm_layers_exchanged, file="decoder_joint.onnx"),
    graph("recurrent-bias-lost", "weights-differ", PREDICTION, recurrent_bias_lost, file="decoder_joint.onnx"),
    graph("joint-tanh", "graph-differs", JOINT, joint_activation("Tanh"), file="decoder_joint.onnx"),
    graph(  # as large as each other in this model only
        "joint-projections-exchanged",
        "weights-differ",
        JOINT,
        projections_exchanged,
        file="decoder_joint.onnx",
        only="demo",
    ),
    graph("joint-bias-lost", ("weights-differ", "graph-differs"), JOINT, joint_bias_lost, file="decoder_joint.onnx"),
    graph("blank-first", ("weights-differ", "layout-transposed"), JOINT, blank_first, file="decoder_joint.onnx"),
    graph("joint-gives-probabilities", "graph-differs", JOINT, probabilities, file="decoder_joint.onnx"),
    graph("joint-multiplies", "graph-differs", JOINT, joint_multiplies, file="decoder_joint.onnx"),
    driven("state-never-advanced", NO_CODE, PREDICTION, calls=NeverAdvanced),
    driven("label-consumed-twice", NO_CODE, PREDICTION, first_label, calls=ConsumedTwice),
    driven(
        "state-advanced-on-blank",
        NO_CODE,
        (PREDICTION, JOINT),
        lambda b: 0 if b.name == "demo" else 1,  # where the first blank is followed by another evaluation
        calls=AdvancedOnBlank,
    ),
    driven("starts-with-label-zero", NO_CODE, PREDICTION, calls=StartsWithZero),
    driven("joint-a-frame-behind", NO_CODE, JOINT, calls=OneFrameBehind),
]

# -------------------------------------------------------------------------------------------------- loop


def reset_once(self: DrivenRunner, now: Caches) -> Caches:
    """An endpoint resets the caches in mid-stream."""
    return {name: np.zeros_like(array) for name, array in now.items()} if self.index == 20 else now


def last_layer_never_written(self: DrivenRunner, array: Array) -> Array:
    array[:, -1] = 0
    return array


def in_int8(self: DrivenRunner, array: Array) -> Array:
    """The cache is kept in eight bits with one scale."""
    step = np.abs(array).max() / 127 or 1.0
    return (np.round(array / step) * step).astype(np.float32)


def double_buffer(self: DrivenRunner, now: Caches) -> Caches:
    """Buffers that are exchanged once too often: every second chunk starts from the caches before last."""
    if self.index < 2 or self.index % 2:
        return now
    return {**now, CHANNEL: self.before[-3][CHANNEL] if len(self.before) > 2 else now[CHANNEL]}


def length_in_chunks(self: DrivenRunner, array: Array) -> Array:
    return array * 0 + self.index


def time_cache_of_the_first_layer(self: DrivenRunner, array: Array) -> Array:
    """A loop over layers that copies layer 0 every time."""
    return np.broadcast_to(array[:, :1], array.shape)


def a_chunk_late(port: str):
    def change(self: DrivenRunner, now: Caches) -> Caches:
        return {**now, port: self.before[-2][port]}

    return change


def as_a_ring(self: DrivenRunner, now: Caches) -> Caches:
    """Frame ``i`` of the stream lies in slot ``i`` modulo the number of slots."""
    size = now[CHANNEL].shape[2]
    seen = self.index * per_chunk(self.bench)
    order = (np.arange(seen - size, seen)) % size
    ring = np.empty_like(now[CHANNEL])
    ring[:, :, order] = now[CHANNEL]
    return {**now, CHANNEL: ring}


def length_after_the_chunk(self: DrivenRunner, array: Array) -> Array:
    return np.minimum(array + per_chunk(self.bench), self.before[0][CHANNEL].shape[2])


LAST_SA = "encoder.layers.{last}.self_attn"
LOOP = [
    driven(
        "time-cache-a-chunk-late",
        ("time-cache-dropped", "cache-not-propagated"),
        "encoder.layers.0.conv",
        1,
        caches=a_chunk_late(TIME),
    ),
    driven("channel-cache-a-chunk-late", "cache-not-propagated", ATTENTION, 1, caches=a_chunk_late(CHANNEL)),
    driven("cache-as-a-ring", "cache-misaligned", ATTENTION, 1, caches=as_a_ring),
    driven(
        "length-after-the-chunk",
        "cache-length-wrong",
        ATTENTION,
        1,
        caches=having(cache_last_channel_len=length_after_the_chunk),
    ),
    driven("reset-once", "cache-not-propagated", ATTENTION, 20, caches=reset_once),
    driven(
        "last-layer-never-written",
        "cache-not-propagated",
        LAST_SA,
        1,
        caches=having(cache_last_channel=last_layer_never_written),
    ),
    driven("cache-in-int8", HALF, ATTENTION, 1, caches=having(cache_last_channel=in_int8)),
    driven("double-buffer", "cache-not-propagated", ATTENTION, 2, caches=double_buffer),
    driven(
        "length-in-chunks", "cache-length-wrong", ATTENTION, 1, caches=having(cache_last_channel_len=length_in_chunks)
    ),
    driven(
        "time-cache-of-the-first-layer",
        "cache-layers-swapped",
        "encoder.layers.1.conv",
        1,
        caches=having(cache_last_time=time_cache_of_the_first_layer),
    ),
]

FAULTS = [
    *FRONT_END,
    *FEATURES,
    *ACTIVATION,
    *NORMS,
    *ATTENTIONS,
    *CACHES,
    *OUTPUTS,
    *WEIGHTS,
    *DECODER,
    *LOOP,
]
