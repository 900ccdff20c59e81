"""Edits that break an export in ways in which exports come broken, and the finding that each must have."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from plant_fault import zero_layer_cache

from ..faults.edits import after, at_input, constant, find, multiply, named, producer, rewrite, roll, value_of


def constant_for(port, value):
    """A constant in place of an input, as tracing folds in what it was given as a Python number."""

    def edit(model):
        folded = constant(model, "folded", value)
        for node in model.graph.node:
            for position, name in enumerate(node.input):
                if name == port:
                    node.input[position] = folded

    return edit


def ignored(port):
    return lambda model: at_input(model, port, multiply(model, 0))


def extents(**wanted):
    """Fix an axis of ports: ``port=(axis, extent)``."""

    def edit(model):
        for value in [*model.graph.input, *model.graph.output]:
            if value.name in wanted:
                axis, extent = wanted[value.name]
                value.type.tensor_type.shape.dim[axis].Clear()
                value.type.tensor_type.shape.dim[axis].dim_value = extent

    return edit


def grown(model):
    """The whole cache in front of the new frames, every time."""
    for layer in range(3):
        find(model, f"layers.{layer}.self_attn", "Slice").input[1] = constant(model, f"zero_{layer}", np.array([0]))
    last = producer(model, producer(model, "cache_last_channel_next").input[0])
    last.input[1] = constant(model, "all", np.array([-100_000]))


def constant_changed(model, port, old, new):
    """Another number in what computes a port, two nodes back at most."""
    node = producer(model, port)
    for name in [*node.input, *(part for other in node.input for part in inputs_of(model, other))]:
        source = next((n for n in model.graph.node if name in n.output and n.op_type == "Constant"), None)
        if source is not None and (value_of(model, name) == old).all():
            changed = constant(model, f"{port}_changed", np.full_like(value_of(model, name), new))
            for user in model.graph.node:
                for position, part in enumerate(user.input):
                    user.input[position] = changed if part == name else part
            return
    raise AssertionError(f"no {old} in front of {port}")


def inputs_of(model, tensor):
    return next((list(n.input) for n in model.graph.node if tensor in n.output), [])


def miscounted(model):
    constant_changed(model, "cache_last_channel_next_len", 70, 60)


def shrunk(model):
    constant_changed(model, "cache_last_channel_next", -70, -60)


def another_width(model):
    rewrite(model, "layers.1.norm_out.weight", lambda values: values.astype(np.float64))


def retyped(port, kind):
    def edit(model):
        after(model, port, lambda old, new: [helper.make_node("Cast", [old], [new], to=kind, name="/planted/Cast")])
        next(v for v in model.graph.output if v.name == port).type.tensor_type.elem_type = kind

    return edit


def another_rank(model):
    axis = constant(model, "last_axis", np.array([1]))
    after(
        model,
        "cache_last_channel_next_len",
        lambda old, new: [helper.make_node("Unsqueeze", [old, axis], [new], name="/planted/Unsqueeze")],
    )
    value = next(v for v in model.graph.output if v.name == "cache_last_channel_next_len")
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.INT64, [None, 1]))


def output_from(port, source):
    """Another tensor under an output's name; a constant where an array is given."""

    def edit(model):
        node = producer(model, port)
        node.output[list(node.output).index(port)] = f"{port}_unused"
        name = source if isinstance(source, str) else constant(model, "folded", source)
        model.graph.node.append(helper.make_node("Identity", [name], [port], name="/planted/Identity"))

    return edit


def mask_without_padding(model):
    """Every chunk is taken for a whole one, inside; the length returned still follows the one given."""
    constant_for("length", np.array([25]))(model)
    numbers = [constant(model, f"planted_{value}", np.array(value)) for value in (8, 1, 0, 2)]
    node = producer(model, "encoded_lengths")
    node.output[0] = "encoded_lengths_unused"
    model.graph.node.extend(
        [
            helper.make_node("Div", ["length", numbers[0]], ["planted_frames"], name="/planted/Div"),
            helper.make_node("Sub", ["planted_frames", numbers[1]], ["planted_kept"], name="/planted/Sub"),
            helper.make_node("Clip", ["planted_kept", *numbers[2:]], ["encoded_lengths"], name="/planted/Clip"),
        ]
    )


def training_batch_norm(model):
    """A batch norm that takes its statistics from the chunk."""
    for part, value in (("scale", 1), ("bias", 0), ("mean", 0), ("var", 1)):
        constant(model, f"planted_{part}", np.full(64, value, np.float32))
    parameters = ["planted_scale", "planted_bias", "planted_mean", "planted_var"]
    tensor = find(model, "layers.1.conv.depthwise_conv", "Conv").output[0]
    after(
        model,
        tensor,
        lambda old, new: [
            helper.make_node(
                "BatchNormalization",
                [old, *parameters],
                [new, "planted_new_mean", "planted_new_var"],
                name="/layers.1/conv/batch_norm/BatchNormalization",
                training_mode=1,
            )
        ],
    )


def training_dropout(model):
    ratio, training = constant(model, "ratio", np.float32(0.1)), constant(model, "training", np.array(True))
    tensor = find(model, "layers.0.feed_forward1.linear2", "Add").output[0]
    after(
        model,
        tensor,
        lambda old, new: [helper.make_node("Dropout", [old, ratio, training], [new], name="/layers.0/dropout/Dropout")],
    )


def dithered(model):
    at_input(
        model,
        "audio_signal",
        lambda old, new: [
            helper.make_node("RandomNormalLike", [old], ["dither"], name="/planted/RandomNormalLike"),
            helper.make_node("Add", [old, "dither"], [new], name="/planted/Add"),
        ],
    )


def without_a_node(model):
    model.graph.node.remove(named(model, "/layers.1/norm_out/LayerNormalization"))


def infinite(model):
    rewrite(model, "layers.1.norm_out.weight", lambda values: np.full_like(values, np.inf))


def half_ports(model):
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def future(model):
    model.opset_import[0].version = 99


def foreign_operator(model):
    model.opset_import.append(helper.make_opsetid("some.plugin", 1))
    node = find(model, "layers.1.norm_out", "LayerNormalization")
    node.op_type, node.domain = "FastNorm", "some.plugin"
    del node.attribute[:]


def always_two(model):
    """Edges lead from the length to what is returned; the value does not care."""
    numbers = [constant(model, f"planted_times_{value}", np.array(value)) for value in (0, 2)]
    after(
        model,
        "encoded_lengths",
        lambda old, new: [
            helper.make_node("Mul", [old, numbers[0]], [f"{new}_none"], name="/planted/Mul_length"),
            helper.make_node("Add", [f"{new}_none", numbers[1]], [new], name="/planted/Add_length"),
        ],
    )


def layer_handed_on(port, taken, layer):
    """One layer of an output cache is what it was in the input."""

    def edit(model):
        mask = np.zeros((1, 3, 1, 1), bool)
        mask[:, layer] = True
        where = constant(model, "planted_layer", mask)
        after(
            model, port, lambda old, new: [helper.make_node("Where", [where, taken, old], [new], name="/planted/Where")]
        )

    return edit


def rolled(port, shift, axis):
    return lambda model: after(model, port, roll(model, shift, axis))


def reversed_along(port, axis):
    def edit(model):
        parts = [
            constant(model, f"planted_{place}", np.array([at])) for place, at in enumerate((-1, -(2**62), axis, -1))
        ]
        after(model, port, lambda old, new: [helper.make_node("Slice", [old, *parts], [new], name="/planted/Slice")])

    return edit


def turned(*ports, order):
    """Ports with their axes in another order; the graph within is as it was."""

    def edit(model):
        back = [order.index(axis) for axis in range(len(order))]
        for value in [value for value in [*model.graph.input, *model.graph.output] if value.name in ports]:
            dims = list(value.type.tensor_type.shape.dim)
            copies = [type(dim)() for dim in dims]
            for copy, axis in zip(copies, order, strict=True):
                copy.CopyFrom(dims[axis])
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(copies)
            if value in model.graph.input:
                at_input(model, value.name, _transpose(back))
            else:
                after(model, value.name, _transpose(order))

    return edit


def _transpose(order):
    return lambda old, new: [helper.make_node("Transpose", [old], [new], perm=order, name=f"/planted/Turn_{new}")]


CHANNEL, TIME = ("cache_last_channel", "cache_last_channel_next"), ("cache_last_time", "cache_last_time_next")

EDITS = {
    "lengths times zero": (always_two, "length-ignored"),
    "one layer's channel cache handed on": (layer_handed_on(CHANNEL[1], CHANNEL[0], 1), "cache-not-updated"),
    "one layer's time cache handed on": (layer_handed_on(TIME[1], TIME[0], 2), "cache-not-updated"),
    "channel cache rolled on": (rolled(CHANNEL[1], 1, 2), "cache-misplaced"),
    "channel cache rolled back": (rolled(CHANNEL[1], 69, 2), "cache-misplaced"),
    "time cache rolled": (rolled(TIME[1], 1, 3), "cache-misplaced"),
    "channel cache reversed": (reversed_along(CHANNEL[1], 2), "cache-misplaced"),
    "time cache reversed": (reversed_along(TIME[1], 3), "cache-misplaced"),
    "layers first": (turned(*CHANNEL, *TIME, order=[1, 0, 2, 3]), "port-axes"),
    "outputs with time before features": (turned("outputs", order=[0, 2, 1]), "port-axes"),
    "features with time before mel": (turned("audio_signal", order=[0, 2, 1]), "port-axes"),
    "channel cache folded": (constant_for("cache_last_channel", np.zeros((1, 3, 70, 64), np.float32)), "cache-unused"),
    "channel cache times zero": (ignored("cache_last_channel"), "cache-unused"),
    "time cache folded": (constant_for("cache_last_time", np.zeros((1, 3, 64, 8), np.float32)), "cache-unused"),
    "time cache times zero": (ignored("cache_last_time"), "cache-unused"),
    "one layer's cache": (zero_layer_cache("cache_last_time", 1), "cache-layer-unused"),
    "another layer's cache": (zero_layer_cache("cache_last_channel", 2), "cache-layer-unused"),
    "cache handed on as it came": (output_from("cache_last_time_next", "cache_last_time"), "cache-not-updated"),
    "cache too small": (extents(cache_last_channel=(2, 56)), "cache-size-wrong"),
    "cache grows": (grown, "cache-grows"),
    "cache shrinks": (shrunk, "cache-shrinks"),
    "cache counted short": (miscounted, "cache-length-wrong"),
    "convolution cache of a wrong size": (
        extents(cache_last_time=(3, 7), cache_last_time_next=(3, 7)),
        "cannot-run",
    ),
    "a weight of another type": (another_width, "backend-refuses"),
    "cache of another extent": (extents(cache_last_time=(3, 8), cache_last_time_next=(3, 7)), "cache-cannot-return"),
    "cache in half precision": (retyped("cache_last_time_next", TensorProto.FLOAT16), "cache-cannot-return"),
    "length of another type": (retyped("cache_last_channel_next_len", TensorProto.INT32), "cache-cannot-return"),
    "length of another rank": (another_rank, "cache-cannot-return"),
    "length constant": (output_from("cache_last_channel_next_len", np.array([2])), "cache-length-constant"),
    "length handed on as it came": (
        output_from("cache_last_channel_next_len", "cache_last_channel_len"),
        "cache-length-stuck",
    ),
    "lengths ignored": (output_from("encoded_lengths", np.array([2])), "length-ignored"),
    "padding not masked": (mask_without_padding, "padding-not-masked"),
    "batch norm trains": (training_batch_norm, "training-mode"),
    "a node lost": (without_a_node, "damaged-graph"),
    "infinite weight": (infinite, "not-finite"),
}
