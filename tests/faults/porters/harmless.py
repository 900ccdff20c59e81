"""Changes that a port makes and is right all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from ..bench import Bench
from ..edits import constant, find, producer, rewrite, value_of
from ..fault import Harmless, Planted
from ..harmless import ENCODER, optimised
from .attention import weak_mask
from .build import JOINT_FILE, every, heads, width
from .graft import ANONYMOUS, EXPORTER, NONE, Graft, bypass, place_of, rename_initializer
from .norms import every_norm, written_out


def changed(name: str, edit: Callable, file: str = "encoder.onnx", unmatched: bool = False, **about) -> Harmless:
    def plant(bench: Bench) -> Planted:
        folder = bench.edited(name, lambda model: edit(model, bench), file)
        return Planted(folder, allow_unmatched=(*ENCODER, "decoder.*") if unmatched else ())

    return Harmless(name, plant, **about)


def scope_of(node: onnx.NodeProto) -> str:
    return node.name.rpartition("/")[0]


def renamed(model, bench) -> None:
    """Every node, tensor and initialiser under a number."""
    ports = {value.name for value in [*model.graph.input, *model.graph.output]}
    new: dict[str, str] = {}
    for tensor in model.graph.initializer:
        new[tensor.name] = f"onnx::{len(new) + 3000}"
        tensor.name = new[tensor.name]
    for count, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{1200 + count}"
        for position, name in enumerate(node.output):
            if name and name not in ports:
                new[name] = f"{len(new) + 3000}"
                node.output[position] = new[name]
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = new.get(name, name)


def as_gemm(model, bench) -> None:
    """MatMul and Add of the linear layers as one Gemm over rows."""
    for node in [n for n in model.graph.node if n.op_type == "Add" and "/linear" in n.name]:
        bias = next((name for name in node.input if name.endswith(".bias")), None)
        if bias is None:
            continue
        product = producer(model, next(name for name in node.input if name != bias))
        rows, weight = product.input[0], product.input[1]
        shape = value_of(model, weight).shape
        g = Graft(model, scope_of(node))

        def build(*_: str, g=g, rows=rows, weight=weight, bias=bias, shape=shape) -> str:
            flat = g("Reshape", rows, g.const(np.array([-1, shape[0]]), "Reshape"))
            done = g("Gemm", flat, weight, bias)
            return g("Reshape", done, g.const(np.array([1, -1, shape[1]]), "Reshape"))

        g.instead(node, build)
        del model.graph.node[place_of(model, product)]


def pointwise_as_matmul(model, bench) -> None:
    """Convolutions of kernel 1 as products with a matrix, frames first."""
    for node in [n for n in model.graph.node if n.op_type == "Conv" and "pointwise" in n.name]:
        weight, bias = value_of(model, node.input[1]), node.input[2]
        g = Graft(model, scope_of(node))

        def build(x: str, *_: str, g=g, weight=weight, bias=bias) -> str:
            done = g("MatMul", g("Transpose", x, perm=[0, 2, 1]), g.floats(weight[:, :, 0].T.copy(), "MatMul"))
            return g("Transpose", g("Add", done, bias), perm=[0, 2, 1])

        g.instead(node, build)


def turned_twice(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "LayerNormalization"]:
        g = Graft(model, "", ANONYMOUS)
        g.after(
            node.output[0],
            lambda x, g=g: g("Identity", g("Transpose", g("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1])),
        )


def constants_as_initialisers(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "Constant"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)


def glu_by_slices(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "Split"]:
        x, first, second = node.input[0], node.output[0], node.output[1]
        half = width(bench)
        g = Graft(model, scope_of(node))
        axis = g.const(np.array([1]), "Slice")
        bounds = [g.const(np.array([value]), "Slice") for value in (0, half, 2 * half)]
        place = place_of(model, node)
        del model.graph.node[place]
        for offset, (out, start, stop) in enumerate(((first, 0, 1), (second, 1, 2))):
            name = f"{scope_of(node)}/Slice{'_1' if offset else ''}"
            cut = helper.make_node("Slice", [x, bounds[start], bounds[stop], axis], [out], name=name)
            model.graph.node.insert(place, cut)


def divided_by_multiplying(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "Div" and "self_attn" in n.name]:
        factor = 1 / value_of(model, node.input[1])
        g = Graft(model, scope_of(node))
        g.instead(node, lambda x, _, g=g, factor=factor: g("Mul", g.floats(factor), x))


def operands_exchanged(model, bench) -> None:
    for node in model.graph.node:
        if node.op_type in ("Add", "Mul", "And"):
            node.input[0], node.input[1] = node.input[1], node.input[0]


def silu_as_quick_gelu(model, bench) -> None:
    """SiLU as ONNX Runtime's own operator."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for sigmoid in [n for n in model.graph.node if n.op_type == "Sigmoid" and "activation" in n.name]:
        product = next(n for n in model.graph.node if n.op_type == "Mul" and sigmoid.output[0] in n.input)
        g, x = Graft(model, scope_of(product)), sigmoid.input[0]
        g.instead(product, lambda *_, g=g, x=x: g("QuickGelu", x, domain="com.microsoft", alpha=1.0))
        bypass(model, sigmoid, x)


def deeper_mask(model, bench) -> None:
    """-10000 before the softmax is -1e9: both give zero."""
    for layer in every(bench):
        node = find(model, f"layers.{layer}.self_attn", "Where", 0)
        node.input[1] = Graft(model).floats(-1e9, "Where")


def masked_once(model, bench) -> None:
    """No second mask behind the softmax: what -10000 leaves is zero already."""
    for layer in every(bench):
        node = find(model, f"layers.{layer}.self_attn", "Where", 1)
        bypass(model, node, node.input[2])


def mask_added(model, bench) -> None:
    others = {n.name for n in model.graph.node if n.op_type == "Sub"}
    weak_mask(every)(model, bench)
    for node in [n for n in model.graph.node if n.op_type == "Sub" and n.name not in others]:
        g = Graft(model, scope_of(node))
        g.before(node, 1, lambda x, g=g: g("Mul", x, g.floats(30000.0)))


def log_softmax_in_the_joint(model, bench) -> None:
    g = Graft(model, "/joint")
    g.after("outputs", lambda x: g("LogSoftmax", x, axis=-1))


def scale_in_the_queries(model, bench) -> None:
    """The scores' division folded into the query's weights and both position biases."""
    scale = np.float32((width(bench) // heads(bench)) ** -0.5)
    for layer in every(bench):
        scope = f"layers.{layer}.self_attn"
        rewrite(model, find(model, f"{scope}.linear_q", "MatMul").input[1], lambda w: w * scale)
        for name in (f"{scope}.linear_q.bias", f"{scope}.pos_bias_u", f"{scope}.pos_bias_v"):
            if any(t.name == name for t in model.graph.initializer):
                rewrite(model, name, lambda w: w * scale)
        node = find(model, scope, "Div")
        bypass(model, node, node.input[0])


def softmax_written_out(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "Softmax"]:
        g = Graft(model, scope_of(node), NONE)

        def build(x: str, g=g) -> str:
            grown = g("Exp", g("Sub", x, g("ReduceMax", x, axes=[-1], keepdims=1)))
            return g("Div", grown, g("ReduceSum", grown, g.const(np.array([-1]), "ReduceSum"), keepdims=1))

        g.instead(node, build)


def residuals_in_double(model, bench) -> None:
    for node in [n for n in model.graph.node if n.op_type == "Add" and n.name.count("/") == 2 and "layers" in n.name]:
        g = Graft(model, scope_of(node))
        g.instead(node, lambda a, b, g=g: g("Cast", g("Add", g("Cast", a, to=11), g("Cast", b, to=11)), to=1))


def int32_lengths(model, bench) -> None:
    """Lengths come and go as 32-bit integers, as engines want them."""
    for port in ("length", "cache_last_channel_len"):
        next(v for v in model.graph.input if v.name == port).type.tensor_type.elem_type = 6
        g = Graft(model)
        g.after(port, lambda x, g=g: g("Cast", x, to=7))
    for port in ("encoded_lengths", "cache_last_channel_next_len"):
        next(v for v in model.graph.output if v.name == port).type.tensor_type.elem_type = 6
        g = Graft(model)
        g.after(port, lambda x, g=g: g("Cast", x, to=6))


def dead_nodes(model, bench) -> None:
    g = Graft(model, "/layers.0/self_attn")
    g.after("/Slice_output_0", lambda x: (g("Exp", g("Mul", x, g.floats(0.0))), g("Identity", x))[1])


def unfolded_norm(model, bench) -> None:
    """Depthwise convolution and batch norm as two nodes, as torch's newer exporter leaves them."""
    state = bench.loaded.module.state_dict()
    for layer in every(bench):
        path = f"encoder.layers.{layer}.conv"
        node = find(model, f"layers.{layer}.conv.depthwise_conv", "Conv")
        rewrite(model, node.input[1], lambda _, p=path: state[f"{p}.depthwise_conv.weight"].numpy())
        rewrite(model, node.input[2], lambda _, p=path: state[f"{p}.depthwise_conv.bias"].numpy())
        names = [
            constant(model, f"layers.{layer}.conv.batch_norm.{part}", state[f"{path}.batch_norm.{part}"].numpy())
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        g = Graft(model, f"/layers.{layer}/conv/batch_norm")
        g.after(
            node.output[0], lambda x, g=g, names=names: g("BatchNormalization", x, *names, epsilon=1e-5, momentum=0.9)
        )


def folded_differently(model, bench) -> None:
    """Weights of the products renamed as another version of the exporter numbers them."""
    for count, tensor in enumerate([t for t in model.graph.initializer if t.name.startswith("onnx::MatMul_")]):
        rename_initializer(model, tensor.name, f"/encoder/Transpose_{count}_output_0")


def fully_optimised(bench: Bench) -> Planted:
    return optimised("ORT_ENABLE_ALL")(bench)


CHANGES = [
    changed("porter-all-renamed", renamed, unmatched=True),
    changed("porter-decoder-renamed", renamed, JOINT_FILE, unmatched=True),
    changed("porter-gemm", as_gemm),
    changed("porter-pointwise-as-matmul", pointwise_as_matmul),
    changed("porter-turned-twice", turned_twice),
    changed("porter-constants-as-initialisers", constants_as_initialisers),
    changed("porter-glu-by-slices", glu_by_slices),
    changed("porter-divided-by-multiplying", divided_by_multiplying),
    changed("porter-operands-exchanged", operands_exchanged),
    changed("porter-quick-gelu", silu_as_quick_gelu),
    changed("porter-deeper-mask", deeper_mask),
    changed("porter-masked-once", masked_once),
    changed("porter-mask-added", mask_added),
    changed("porter-log-softmax-in-the-joint", log_softmax_in_the_joint, JOINT_FILE),
    changed("porter-scale-in-the-queries", scale_in_the_queries),
    changed("porter-softmax-written-out", softmax_written_out),
    changed("porter-norms-written-out-anonymous", written_out(every_norm, ANONYMOUS), unmatched=True),
    changed("porter-norms-written-out-unnamed", written_out(every_norm, NONE), unmatched=True),
    changed("porter-norms-written-out-named", written_out(every_norm, EXPORTER)),
    changed("porter-residuals-in-double", residuals_in_double),
    changed("porter-int32-lengths", int32_lengths),
    changed("porter-dead-nodes", dead_nodes),
    changed("porter-weights-renamed", folded_differently),
    changed("porter-norm-unfolded", unfolded_norm, only="regular"),
    Harmless("porter-fully-optimised", fully_optimised),
]
