"""Low precision is judged three ways: candidate against float64, PyTorch in that arithmetic against float64, ratio."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from streamparity import compare
from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.dump.noise_floor import EARLIER, NOISE_FLOOR
from streamparity.dump.store import FLOAT64
from streamparity.errors import StreamparityError
from streamparity.reference.rounded_products import int8, rounded_products, tf32
from streamparity.run import RunOptions, run
from streamparity.runners.torch_runner import TorchRunner

from .edits import matmul_weight, rewrite
from .fault import Planted
from .harmless import on_torch
from .score import run_planted


def by_name(result):
    return {tensor["name"]: tensor for tensor in result["tensors"]}


@pytest.fixture(scope="module")
def bfloat16(demo, tmp_path_factory):
    """A bfloat16 run and the dump that it saved."""
    planted = on_torch("bfloat16", dtype="bfloat16").plant(demo)
    saved = tmp_path_factory.mktemp("saved") / "bfloat16"
    options = RunOptions("torch", planted.model, settings=planted.settings, save=saved, allow_model_mismatch=True)
    return run(demo.reference(), options), saved


def held_against(reference, saved, label):
    """The largest error of a saved run against the float64 values, without any of the comparison's code."""
    spec = next(spec for spec in reference.manifest.tensors if spec.label == label)
    largest = 0.0
    for index in range(reference.chunk_count):
        candidate = DumpReader(saved).chunk(index)[spec.name].astype(np.float64)
        largest = max(largest, np.abs(candidate - reference.float64_chunk(index)[spec.name]).max(initial=0))
    return largest


def test_a_bfloat16_candidate_is_held_against_float64(demo, bfloat16):
    result, saved = bfloat16
    assert result["verdict"] == "pass"
    assert (result["noise"]["arithmetic"], result["noise"]["against"]) == ("bfloat16", "float64")
    for label in ("encoder.layers.1", "encoder.layers.2", "decoder.prediction"):
        expected = held_against(demo.reference(), saved, label)
        assert by_name(result)[label]["max_abs"] == expected
        figures = result["noise"]["tensors"][label]
        assert figures["candidate"] == expected
        assert figures["pytorch"] == pytest.approx(expected, rel=1e-6)
        assert figures["measured"]
    worst = by_name(result)["encoder.layers.1"]["worst"]
    true = demo.reference().float64_chunk(worst["chunk"])["tap/encoder.layers.1"][tuple(worst["index"])]
    assert worst["reference"] == true != np.float32(true)


def test_comparing_the_saved_run_says_the_same(demo, bfloat16):
    result, saved = bfloat16
    again = compare(demo.reference().folder, saved)
    assert again["verdict"] == "pass"
    assert again["noise"] == result["noise"]
    for label, tensor in by_name(result).items():
        assert by_name(again)[label]["worst"] == tensor["worst"]


def test_a_float32_candidate_is_held_against_the_dump(demo):
    noise = run(demo.reference(), RunOptions("ort", demo.export, limit=2))["noise"]
    assert (noise["arithmetic"], noise["against"]) == ("float32", "float32")


def test_without_float64_values_low_precision_is_held_against_float32_and_that_is_said(demo, bfloat16, tmp_path):
    _, saved = bfloat16
    old = shutil.copytree(demo.reference().folder, tmp_path / "old")
    shutil.rmtree(old / FLOAT64)
    floor = json.loads((old / NOISE_FLOOR).read_text())
    del floor["unmeasured"]
    (old / NOISE_FLOOR).write_text(json.dumps({**floor, "schema": EARLIER}))
    result = compare(old, saved)
    assert result["verdict"] == "pass"
    assert result["noise"]["against"] == "float32"
    assert any("no float64 values" in note for note in result["notes"])


def test_a_damaged_float64_chunk_is_refused(demo, bfloat16, tmp_path):
    _, saved = bfloat16
    broken = shutil.copytree(demo.reference().folder, tmp_path / "broken")
    (broken / FLOAT64 / "000001.safetensors").write_bytes(b"no")
    with pytest.raises(StreamparityError, match=r"float64/000001.safetensors is damaged"):
        compare(broken, saved)


def test_the_float64_run_is_resumed_to_the_same_bytes(demo, tmp_path):
    from streamparity.reference.dumper import DumpOptions, dump

    def contents(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    out, options = tmp_path / "dump", {"limit": 6, "noise_floor": True}
    with demo_audio(demo_recordings()[0]) as audio:
        dump(demo.loaded, audio, out, DumpOptions(demo.streaming, **options))
        whole = contents(out)
        (out / NOISE_FLOOR).unlink()
        for index in (3, 5):
            (out / FLOAT64 / f"{index:06d}.safetensors").unlink()
        (out / FLOAT64 / "000003.safetensors.partial").write_bytes(b"half")
        assert DumpReader(out).noise_floor() is None
        dump(demo.loaded, audio, out, DumpOptions(demo.streaming, **options, resume=True))
        assert contents(out) == whole
        dump(demo.loaded, audio, out, DumpOptions(demo.streaming, limit=6, force=True))
    assert not (out / FLOAT64).exists()


def test_operands_are_rounded_to_ten_bits_and_sums_are_not():
    values = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -(1 + 3 * 2**-11), 3e38, 1e-30, float("inf")])
    rounded, _ = tf32(values, values)
    assert rounded[:4].tolist() == [1 + 2**-10, 1 + 2**-10, 1.0, -(1 + 2**-9)]
    bits = rounded.view(torch.int32)
    assert torch.equal(bits & 0x1FFF, torch.zeros_like(bits))
    assert ((rounded - values)[:-1].abs() <= values[:-1].abs() * 2**-11).all()
    left, right = torch.randn(5, 40), torch.randn(40, 7)
    with torch.inference_mode(), rounded_products(tf32):
        products = [left @ right, torch.einsum("ij,jk->ik", left, right), torch.nn.functional.linear(left, right.T)]
    expected = tf32(left, left)[0].double() @ tf32(right, right)[0].double()
    for product in products:
        assert (product - expected).abs().max() < 1e-5
        assert (product - left @ right).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "lstm"])
def test_every_product_of_a_layer_is_rounded(kind):
    torch.manual_seed(0)
    layers = {"conv1d": torch.nn.Conv1d(4, 6, 3), "conv2d": torch.nn.Conv2d(1, 4, 3), "lstm": torch.nn.LSTM(8, 8)}
    given = {"conv1d": (2, 4, 20), "conv2d": (1, 1, 9, 9), "lstm": (3, 1, 8)}
    layer, values = layers[kind], tf32(torch.randn(given[kind]), torch.zeros(1))[0]

    def run_layer():
        with torch.inference_mode():
            result = layer(values)
        return result[0] if kind == "lstm" else result

    exact = run_layer()
    for rounding in (tf32, int8(list(layer.parameters()))):
        with rounded_products(rounding):
            assert 1e-5 < (run_layer() - exact).abs().max() < 0.1
    with rounded_products(lambda left, right: (left, right)):
        assert (run_layer() - exact).abs().max() < 1e-6


def test_the_floor_of_each_arithmetic_is_measured_and_told_apart(demo, regular):
    for bench in (demo, regular):
        floor = bench.reference().noise_floor()
        assert floor.unmeasured == {}
        errors = {kind: figures["outputs"].max_abs for kind, figures in floor.errors.items()}
        assert errors["float32"] * 100 < errors["tf32"] < errors["bfloat16"] < errors["int8"]


class InTf32(TorchRunner):
    """PyTorch as it computes on a GPU that may use TF32."""

    name = "torch"

    def __init__(self, path, options):
        super().__init__(path, options)
        self.arithmetic = "tf32"

    def step(self, chunk):
        with rounded_products(tf32):
            return super().step(chunk)


def test_pytorch_in_tf32_passes_where_it_says_so_and_not_as_float32(demo):
    planted = on_torch("pytorch").plant(demo)
    result = run_planted(demo, Planted(planted.model, InTf32, backend="torch"), localize=False)
    assert result["verdict"] == "pass", result["objections"]
    figures = result["noise"]["tensors"]["outputs"]
    assert (result["noise"]["against"], figures["measured"]) == ("float64", True)
    assert figures["ratio"] == pytest.approx(1, rel=1e-3)

    class Silent(InTf32):
        def __init__(self, path, options):
            super().__init__(path, options)
            self.arithmetic = "float32"

    result = run_planted(demo, Planted(planted.model, Silent, backend="torch"), localize=False)
    assert (result["verdict"], result["noise"]["against"]) == ("fail", "float32")


def in_tf32(model):
    """Round both operands of every product, by Veltkamp's splitting: three nodes that leave 11 significant bits."""
    factor = numpy_helper.from_array(np.array(2.0**13 + 1, np.float32), "splitter")
    model.graph.initializer.append(factor)
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            for place in (0, 1):
                name, made = node.input[place], f"{node.name}_{place}"
                for op, inputs in (("Mul", (name, "splitter")), ("Sub", (f"{made}_Mul", name))):
                    nodes.append(helper.make_node(op, inputs, [f"{made}_{op}"], name=f"{made}_{op}"))
                last = (f"{made}_Mul", f"{made}_Sub")
                nodes.append(helper.make_node("Sub", last, [f"{made}_high"], name=f"{made}_high"))
                node.input[place] = f"{made}_high"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def scaled_by_a_half(path):
    """A weight that no precision explains."""

    def edit(model):
        rewrite(model, matmul_weight(model, path), lambda weight: weight * np.float32(1.5))

    return edit


def test_a_graph_in_tf32_passes_as_one_and_a_broken_one_does_not(demo):
    def broken(model):
        scaled_by_a_half("layers.1.feed_forward1.linear2")(model)
        in_tf32(model)

    stated = {"arithmetic": "tf32"}
    sound = run(demo.reference(), RunOptions("ort", demo.edited("tf32", in_tf32), settings=stated))
    assert sound["verdict"] == "pass", sound["objections"]
    assert 0.3 < sound["noise"]["tensors"]["outputs"]["ratio"] < 3
    wrong = run(demo.reference(), RunOptions("ort", demo.edited("tf32-broken", broken), settings=stated))
    assert wrong["first_divergence"]["tensor"] == "encoder.layers.1.feed_forward1"


def quantised(bench, name, edit=lambda model: None):
    """Both graphs through ONNX Runtime's own dynamic quantisation."""
    from onnxruntime.quantization import quantize_dynamic

    folder = bench.edited(name, edit)
    logging.disable(logging.WARNING)  # of every integer tensor it says that it leaves it alone
    try:
        for graph in ("encoder.onnx", "decoder_joint.onnx"):
            quantize_dynamic(onnx.load(folder / graph), folder / graph)
    finally:
        logging.disable(logging.NOTSET)
    return folder


def test_an_int8_graph_passes_as_one_and_a_broken_one_does_not(demo):
    stated, reference = {"arithmetic": "int8"}, demo.reference()
    model = quantised(demo, "int8")
    sound = run(reference, RunOptions("ort", model, settings=stated))
    assert sound["verdict"] == "pass", sound["objections"]
    assert sound["noise"]["against"] == "float64"
    for label in ("encoder.pre_encode", "encoder.layers.2", "decoder.prediction", "joint"):
        figures = sound["noise"]["tensors"][label]
        assert figures["measured"]
        assert 0.5 < figures["ratio"] < 2, label
    assert run(reference, RunOptions("ort", model))["verdict"] == "fail"
    for number, path in enumerate(("layers.0.conv.pointwise_conv2", "layers.1.feed_forward1.linear2")):
        edit = scaled_conv(path) if "conv" in path else scaled_by_a_half(path)
        wrong = run(reference, RunOptions("ort", quantised(demo, f"int8-broken-{number}", edit), settings=stated))
        assert wrong["verdict"] == "fail"
        assert wrong["first_divergence"]["tensor"] == f"encoder.{path.rpartition('.')[0]}"


def scaled_conv(path):
    def edit(model):
        rewrite(model, f"{path}.weight", lambda weight: weight * np.float32(3))

    return edit


def test_an_arithmetic_that_nobody_knows_is_refused(demo):
    with pytest.raises(StreamparityError, match="arithmetic=int4 is unknown"):
        run(demo.reference(), RunOptions("ort", demo.export, settings={"arithmetic": "int4"}))


def test_where_pytorch_cannot_the_floor_is_scaled_and_said_to_be(demo, tmp_path, monkeypatch):
    from streamparity.comparison import noise
    from streamparity.reference import arithmetic
    from streamparity.reference.dumper import DumpOptions, dump

    def refuse(weights):
        raise RuntimeError("no int8 here\nmore of it")

    monkeypatch.setattr(arithmetic, "int8", refuse)
    notes = []
    with demo_audio(demo_recordings()[0]) as audio:
        options = DumpOptions(demo.streaming, limit=3, noise_floor=True)
        dump(demo.loaded, audio, tmp_path / "dump", options, note=notes.append)
    assert any("cannot run this model in int8" in line and "scaled" in line for line in notes)
    reference = DumpReader(tmp_path / "dump")
    assert reference.noise_floor().unmeasured == {"int8": "no int8 here"}
    result = run(reference, RunOptions("ort", demo.export, settings={"arithmetic": "int8"}))
    figures = result["noise"]["tensors"]["outputs"]
    assert (figures["measured"], figures["pytorch"]) == (False, None)
    assert figures["floor"] >= figures["float32"] * noise.UNIT_ROUNDOFF["int8"] / noise.UNIT_ROUNDOFF["float32"]
