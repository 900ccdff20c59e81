"""Break a real exported encoder in one named way, to see streamparity find it.

    plant_fault.py zero-cache-last-time --layer 1 streamparity-demo/encoder.onnx broken/encoder.onnx

The tests plant the same faults through the functions below.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper

from streamparity.graph.onnx_graph import module_path

Edit = Callable[[onnx.ModelProto], None]


def layer_cache_gathers(model: onnx.ModelProto, port: str) -> list[onnx.NodeProto]:
    """The nodes that take each layer's cache out of an input port, in layer order."""
    transposed = next(node.output[0] for node in model.graph.node if node.input[:1] == [port])
    gathers = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == transposed]
    constants = {node.output[0]: node for node in model.graph.node if node.op_type == "Constant"}
    values = {t.name: t for t in model.graph.initializer}

    def layer(node: onnx.NodeProto) -> int:
        name = node.input[1]
        tensor = constants[name].attribute[0].t if name in constants else values[name]
        return int(onnx.numpy_helper.to_array(tensor))

    return sorted(gathers, key=layer)


def zero_layer_cache(port: str, layer: int) -> Edit:
    """Multiply one layer's cache by zero as it enters the graph."""

    def edit(model: onnx.ModelProto) -> None:
        gather = layer_cache_gathers(model, port)[layer]
        original, silent = gather.output[0], gather.output[0] + "_kept"
        gather.output[0] = silent
        zero = helper.make_node("Constant", [], ["planted_zero"], value_float=0.0)
        multiply = helper.make_node("Mul", [silent, "planted_zero"], [original], name="/planted/Mul")
        position = list(model.graph.node).index(gather)
        model.graph.node.insert(position + 1, multiply)
        model.graph.node.insert(0, zero)

    return edit


def swap_layer_caches(port: str, first: int, second: int) -> Edit:
    """Give each of two layers the other's cache."""

    def edit(model: onnx.ModelProto) -> None:
        gathers = layer_cache_gathers(model, port)
        a, b = gathers[first], gathers[second]
        a.input[1], b.input[1] = b.input[1], a.input[1]

    return edit


def zero_returned_layer(port: str, layer: int, layers: int) -> Edit:
    """Blank one layer of an output cache ``[B, L, ...]``."""

    def edit(model: onnx.ModelProto) -> None:
        producer = next(node for node in model.graph.node if port in node.output)
        producer.output[list(producer.output).index(port)] = "planted_whole"
        mask = [float(index != layer) for index in range(layers)]
        constant = helper.make_tensor("planted_mask", onnx.TensorProto.FLOAT, [1, layers, 1, 1], mask)
        model.graph.initializer.append(constant)
        model.graph.node.append(helper.make_node("Mul", ["planted_whole", "planted_mask"], [port], name="/planted/Mul"))

    return edit


def layer_norm_epsilon(path: str, epsilon: float) -> Edit:
    """Change the epsilon of one layer norm."""

    def edit(model: onnx.ModelProto) -> None:
        norms = [
            node for node in model.graph.node if node.op_type == "LayerNormalization" and module_path(node.name) == path
        ]
        assert len(norms) == 1
        attribute = next(a for a in norms[0].attribute if a.name == "epsilon")
        assert attribute.f != epsilon
        attribute.f = epsilon

    return edit


def without_ports(*names: str) -> Edit:
    """Remove inputs and outputs, as an export without cache support lacks them."""

    def edit(model: onnx.ModelProto) -> None:
        for name in names:
            for group in (model.graph.input, model.graph.output):
                for value in [value for value in group if value.name == name]:
                    group.remove(value)

    return edit


def forget_names(model: onnx.ModelProto) -> None:
    """Strip node names, as some optimisers do."""
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"


FAULTS: dict[str, Callable[[int], Edit]] = {
    "zero-cache-last-time": lambda layer: zero_layer_cache("cache_last_time", layer),
    "zero-cache-last-channel": lambda layer: zero_layer_cache("cache_last_channel", layer),
    "swap-caches-with-layer-0": lambda layer: swap_layer_caches("cache_last_channel", 0, layer),
    "norm-out-epsilon": lambda layer: layer_norm_epsilon(f"layers.{layer}.norm_out", 1e-3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    model = onnx.load(options.source)
    FAULTS[options.fault](options.layer)(model)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, options.target)


if __name__ == "__main__":
    main()
