"""The reproduction shows the error that was found, wherever it is made, with numpy and onnxruntime only."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from plant_fault import layer_norm_epsilon
from streamparity.run import RunOptions, run
from streamparity.runners import Runner
from streamparity.runners.ort import OrtRunner

from .edits import rewrite
from .harmless import on_torch

# What the script may not need.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "nemo", "onnx", "streamparity"):
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
"""


def shown(folder):
    """The figure that the script prints, run where nothing but numpy and onnxruntime can be imported."""
    code = f"{HIDDEN}\nimport runpy; runpy.run_path({str(folder / 'show.py')!r})"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split("max abs ")[1].split()[0])


def in_joint(model):
    rewrite(model, "joint.joint_net.1.bias", lambda bias: bias + np.linspace(0, 1, bias.size, dtype=np.float32))


def in_predictor(model):
    rewrite(model, "decoder.prediction.embed.weight", lambda weight: weight * np.float32(1.1))


def in_states(model):
    """The cell state, which only the next call sees."""
    name = "output_states_2"
    node = next(node for node in model.graph.node if name in node.output)
    node.output[list(node.output).index(name)] = "sound"
    two = onnx.numpy_helper.from_array(np.array(1.01, np.float32), "factor")
    model.graph.initializer.append(two)
    model.graph.node.append(onnx.helper.make_node("Mul", ["sound", "factor"], [name], name="/decoder/dec_rnn/Mul"))


@pytest.mark.parametrize(
    ("edit", "tensor", "inputs"),
    [
        (in_joint, "joint", 2),
        (in_predictor, "decoder.prediction", 3),
        (in_states, "decoder.prediction.states_2", 3),
    ],
)
def test_the_script_prints_the_isolated_error_of_predictor_and_joint(demo, tmp_path, edit, tensor, inputs):
    model = demo.edited("repro", edit, "decoder_joint.onnx")
    result = run(demo.reference(), RunOptions("ort", model, localize=True, repro=tmp_path / "repro"))
    place = result["localization"]
    assert place["tensor"] == tensor
    assert shown(tmp_path / "repro") == pytest.approx(place["isolated_max_abs"], rel=1e-2)
    piece = onnx.load(tmp_path / "repro" / "piece.onnx").graph
    assert len(piece.input) == inputs
    assert len(piece.node) < len(onnx.load(model / "decoder_joint.onnx").graph.node)


def changed(bench, path, parameter, change):
    """A copy of the model with one parameter changed."""
    from streamparity.reference.nemo import load_model

    on_torch("pytorch").plant(bench)  # saves the model
    other = load_model(str(bench.folder / "model.nemo"))
    with torch.no_grad():
        tensor = other.module.state_dict()[parameter]
        tensor.copy_(change(tensor))
    other.module.save_to(str(path))
    return path


@pytest.mark.parametrize(
    ("parameter", "tensor"),
    [
        ("encoder.layers.1.self_attn.linear_v.weight", "encoder.layers.1.self_attn"),
        ("decoder.prediction.dec_rnn.lstm.weight_hh_l0", "decoder.prediction"),
        ("joint.enc.weight", "joint"),
    ],
)
def test_the_script_prints_the_isolated_error_of_a_submodule(demo, tmp_path, parameter, tensor):
    model = changed(demo, tmp_path / "other.nemo", parameter, lambda values: values * 1.05)
    options = RunOptions("torch", model, allow_model_mismatch=True, localize=True, repro=tmp_path / "repro")
    result = run(demo.reference(), options)
    place = result["localization"]
    assert (place["tensor"], place["kind"]) == (tensor, "introduced")
    assert any(line.endswith("a reproduction") for line in result["notes"]), result["notes"]
    assert shown(tmp_path / "repro") == pytest.approx(place["isolated_max_abs"], rel=1e-2)


def test_an_error_that_the_graph_does_not_make_is_not_shown(demo, tmp_path, monkeypatch):
    """The fault is in how the model is run: the piece, cut out, is right, and nothing is written."""
    isolated = OrtRunner.isolated_step

    def off(self, chunk, forced):
        tensors = isolated(self, chunk, forced)
        return {**tensors, "tap/encoder.layers.1.conv": tensors["tap/encoder.layers.1.conv"] + np.float32(0.1)}

    step = OrtRunner.step
    monkeypatch.setattr(OrtRunner, "isolated_step", off)
    monkeypatch.setattr(
        OrtRunner,
        "step",
        lambda self, chunk: (
            (t := step(self, chunk)) | {"tap/encoder.layers.1.conv": t["tap/encoder.layers.1.conv"] + np.float32(0.1)}
        ),
    )
    result = run(demo.reference(), RunOptions("ort", demo.export, localize=True, repro=tmp_path / "repro"))
    assert result["localization"]["tensor"] == "encoder.layers.1.conv"
    assert any("the error is made by what computes it" in line for line in result["notes"])
    assert not (tmp_path / "repro").exists()


def test_a_backend_without_a_graph_says_so(demo, tmp_path, monkeypatch):
    model = demo.edited("repro", layer_norm_epsilon("layers.1.norm_out", 1e-2))
    monkeypatch.setattr(OrtRunner, "piece", Runner.piece)
    result = run(demo.reference(), RunOptions("ort", model, localize=True, repro=tmp_path / "repro"))
    assert result["localization"]["kind"] == "introduced"
    assert "no reproduction: backend ort runs no graph that could be cut" in result["notes"]


def test_a_model_in_a_format_that_onnx_runtime_cannot_run_has_no_reproduction(demo, tmp_path):
    model = changed(demo, tmp_path / "other.nemo", "encoder.layers.1.norm_out.weight", lambda values: values * 1.9)
    options = RunOptions(
        "torch",
        model,
        settings={"dtype": "bfloat16"},
        allow_model_mismatch=True,
        localize=True,
        repro=tmp_path / "repro",
    )
    result = run(demo.reference(), options)
    assert result["localization"]["tensor"] == "encoder.layers.1.norm_out"
    assert any(line.startswith("no reproduction: ONNX Runtime cannot run") for line in result["notes"]), result["notes"]
