"""Changes that are no faults: a false alarm on any of them is one too many."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import soundfile
from onnx import TensorProto, helper, numpy_helper, version_converter

from streamparity.demo import demo_audio, demo_recordings
from streamparity.runners.torch_runner import TorchRunner

from .bench import Bench
from .edits import after, constant
from .fault import Harmless, Planted

ENCODER = ("encoder.*",)


def settings(**values: str) -> Callable[[Bench], Planted]:
    return lambda bench: Planted(bench.edited("sound", lambda model: None), settings=values)


def edited(name: str, edit: Callable[[onnx.ModelProto], None], **about) -> Harmless:
    return Harmless(name, lambda bench: Planted(bench.edited(name, edit), **about))


def replaced(bench: Bench, name: str, make: Callable[[Path], None]) -> Path:
    """A copy of the export whose encoder ``make`` writes anew in place."""
    folder = bench.edited(name, lambda model: None)
    make(folder / "encoder.onnx")
    return folder


def other_opset(version: int) -> Callable[[Bench], Planted]:
    def make(path: Path) -> None:
        onnx.save(version_converter.convert_version(onnx.load(path), version), path)

    return lambda bench: Planted(replaced(bench, f"opset-{version}", make))


def optimised(level: str) -> Callable[[Bench], Planted]:
    """The graph that ONNX Runtime makes of it offline: constants folded, operators fused, names of its own."""
    import onnxruntime

    def make(path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.with_name("optimised.onnx").replace(path)

    return lambda bench: Planted(replaced(bench, f"optimised-{level}", make), allow_unmatched=ENCODER)


def external(bench: Bench) -> Planted:
    def make(path: Path) -> None:
        onnx.save_model(
            onnx.load(path), path, save_as_external_data=True, location="encoder.onnx.data", size_threshold=0
        )

    return Planted(replaced(bench, "external", make))


def reordered(model: onnx.ModelProto) -> None:
    """Another order in which every node still comes after those it takes its inputs from."""
    nodes, chance = list(model.graph.node), random.Random(0)
    ready = {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    ordered = []
    while nodes:
        able = [node for node in nodes if all(name in ready for name in node.input)]
        chosen = chance.choice(able)
        nodes.remove(chosen)
        ready |= set(chosen.output)
        ordered.append(chosen)
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def identities(model: onnx.ModelProto) -> None:
    """An Identity behind every linear layer's product."""
    for node in [node for node in model.graph.node if node.op_type == "MatMul"]:
        scope = node.name.rpartition("/")[0]
        name = f"{scope}/Identity_{node.name.rpartition('/')[2]}"
        after(
            model, node.output[0], lambda old, new, name=name: [helper.make_node("Identity", [old], [new], name=name)]
        )


def weights_as_constants(model: onnx.ModelProto) -> None:
    for tensor in list(model.graph.initializer):
        if len(tensor.dims) == 2:
            node = helper.make_node("Constant", [], [tensor.name], value=tensor, name=f"{tensor.name}_constant")
            model.graph.node.insert(0, node)
            model.graph.initializer.remove(tensor)


def transposed_weights(model: onnx.ModelProto) -> None:
    """Weights kept the other way round, and turned in the graph."""
    for count, node in enumerate([n for n in model.graph.node if n.op_type == "MatMul"]):
        tensor = next((t for t in model.graph.initializer if t.name == node.input[1]), None)
        if tensor is None:
            continue
        turned = constant(model, f"turned_{count}", np.ascontiguousarray(numpy_helper.to_array(tensor).T))
        place = list(model.graph.node).index(node)
        scope = node.name.rpartition("/")[0]
        back = helper.make_node("Transpose", [turned], [f"{turned}_back"], perm=[1, 0], name=f"{scope}/Turn_{count}")
        model.graph.node.insert(place, back)
        node.input[1] = f"{turned}_back"


def decomposed_norms(model: onnx.ModelProto) -> None:
    """Layer norms written out, as exporters below opset 17 do."""
    for count, node in enumerate([n for n in model.graph.node if n.op_type == "LayerNormalization"]):
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        eps, two = constant(model, f"eps_{count}", np.float32(epsilon)), constant(model, f"two_{count}", np.float32(2))
        scope, value, out = node.name.rpartition("/")[0], node.input[0], node.output[0]

        def make(op, inputs, name, scope=scope, **attributes):
            return helper.make_node(op, inputs, [name], name=f"{scope}/{op}_{name.rpartition('_')[2]}", **attributes)

        tag = f"{out}_norm"
        parts = [
            make("ReduceMean", [value], f"{tag}_mean", axes=[-1], keepdims=1),
            make("Sub", [value, f"{tag}_mean"], f"{tag}_centred"),
            make("Pow", [f"{tag}_centred", two], f"{tag}_square"),
            make("ReduceMean", [f"{tag}_square"], f"{tag}_variance", axes=[-1], keepdims=1),
            make("Add", [f"{tag}_variance", eps], f"{tag}_safe"),
            make("Sqrt", [f"{tag}_safe"], f"{tag}_root"),
            make("Div", [f"{tag}_centred", f"{tag}_root"], f"{tag}_unit"),
            make("Mul", [f"{tag}_unit", node.input[1]], f"{tag}_scaled"),
            helper.make_node("Add", [f"{tag}_scaled", node.input[2]], [out], name=f"{scope}/Add_last"),
        ]
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for offset, part in enumerate(parts):
            model.graph.node.insert(place + offset, part)


def nameless(model: onnx.ModelProto) -> None:
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"


def renamed_ports(model: onnx.ModelProto) -> None:
    """The names that other exporters give the ports."""
    names = {"audio_signal": "processed_signal", "length": "processed_signal_length"}
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)


def in_double(model: onnx.ModelProto) -> None:
    """One product computed in float64: better than the reference, not worse."""
    node = next(n for n in model.graph.node if n.op_type == "MatMul" and "feed_forward1" in n.name)
    place, out = list(model.graph.node).index(node), node.output[0]
    scope = node.name.rpartition("/")[0]
    inputs = []
    for position, name in enumerate(node.input):
        inputs.append(f"{out}_double_{position}")
        cast = helper.make_node("Cast", [name], [inputs[-1]], to=TensorProto.DOUBLE, name=f"{scope}/Cast_{position}")
        model.graph.node.insert(place, cast)
        place += 1
    node.output[0] = f"{out}_double"
    node.input[:] = inputs
    back = helper.make_node("Cast", [f"{out}_double"], [out], to=TensorProto.FLOAT, name=f"{scope}/Cast_back")
    model.graph.node.insert(place + 1, back)


def heard(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Harmless:
    """Other audio: what is not loud and clear must not look like a fault."""

    def plant(bench: Bench) -> Planted:
        path = bench.folder / f"{name}.wav"
        if not path.exists():
            with demo_audio(demo_recordings()[0]) as speech:
                samples, rate = soundfile.read(speech, dtype="float32")
            soundfile.write(path, change(samples), rate, subtype="FLOAT")
        bench.reference(name, audio=path)
        return Planted(bench.edited("sound", lambda model: None), reference=name)

    return Harmless(name, plant)


def on_torch(name: str, only: str | None = None, **values: str) -> Harmless:
    def plant(bench: Bench) -> Planted:
        path = bench.folder / "model.nemo"
        if not path.exists():
            bench.loaded.module.save_to(str(path))
        return Planted(path, TorchRunner, backend="torch", settings=values)

    return Harmless(name, plant, only)


def other_context(bench: Bench) -> Planted:
    from streamparity.export import export
    from streamparity.reference.nemo import StreamingOptions

    streaming = StreamingOptions((70, 0))
    if not (bench.folder / "export-70-0").exists():
        export(bench.loaded, bench.folder / "export-70-0", streaming)
    bench.reference("context-70-0", streaming=streaming)
    return Planted(bench.folder / "export-70-0", reference="context-70-0")


def quiet_noise(samples: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-3, samples.shape).astype(np.float32)


CHANGES = [
    Harmless("nothing", settings()),
    Harmless("optimisation-disabled", settings(optimization="disable")),
    Harmless("optimisation-basic", settings(optimization="basic")),
    Harmless("two-threads", settings(threads="2")),
    Harmless("all-threads", settings(threads="0")),
    Harmless("opset-18", other_opset(18)),
    Harmless("opset-20", other_opset(20)),
    Harmless("constants-folded", optimised("ORT_ENABLE_BASIC")),
    Harmless("operators-fused", optimised("ORT_ENABLE_EXTENDED")),
    Harmless("weights-outside", external),
    edited("nodes-reordered", reordered),
    edited("identities-inserted", identities),
    edited("weights-as-constants", weights_as_constants),
    edited("weights-transposed-and-back", transposed_weights),
    edited("norms-written-out", decomposed_norms),
    edited("names-stripped", nameless, allow_unmatched=ENCODER),
    edited("ports-renamed", renamed_ports),
    edited("a-product-in-float64", in_double),
    Harmless("one-chunk", lambda bench: Planted(bench.edited("sound", lambda model: None), limit=1)),
    Harmless("ten-chunks", lambda bench: Planted(bench.edited("sound", lambda model: None), limit=10)),
    Harmless("functional", lambda bench: Planted(bench.edited("sound", lambda model: None), mode="functional")),
    heard("silence", np.zeros_like),
    heard("loud", lambda samples: samples / np.abs(samples).max() * np.float32(0.999)),
    heard("overdriven", lambda samples: np.clip(samples * 30, -1, 1)),
    heard("very-quiet", lambda samples: samples * np.float32(1e-4)),
    heard("noise", quiet_noise),
    on_torch("pytorch"),
    on_torch("pytorch-in-float64", dtype="float64"),
    # A random model is never sure of a label: there low precision flips some, which is no false alarm.
    on_torch("pytorch-in-bfloat16-said-so", "demo", dtype="bfloat16"),
    on_torch("pytorch-in-float16-said-so", "demo", dtype="float16"),
    Harmless("another-context", other_context, only="demo"),
]
