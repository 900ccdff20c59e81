"""What `run --localize` says and writes, beyond the battery's score."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from plant_fault import layer_norm_epsilon, zero_layer_cache
from streamparity.cli import main
from streamparity.dump import DumpReader
from streamparity.dump.anatomy import Parameter
from streamparity.errors import StreamparityError
from streamparity.graph.weight import Weight
from streamparity.localize.weights import differences
from streamparity.run import RunOptions, run

from .edits import find, rewrite
from .graph_faults import FAULTS as GRAPH_FAULTS
from .harmless import CHANGES
from .score import run_planted, score


def streamparity(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["streamparity", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_command_names_module_and_cause_and_writes_a_reproduction(demo, tmp_path, monkeypatch, capsys):
    model = demo.edited("repro", layer_norm_epsilon("layers.1.norm_out", 1e-2))
    arguments = ("run", "--backend", "ort", "--model", model, "--reference", demo.reference().folder)
    target, result = tmp_path / "repro", tmp_path / "result.json"
    status, out, err = streamparity(monkeypatch, capsys, *arguments, "--repro", target, "--json", result)
    assert status == 1
    assert "introduced in encoder.layers.1.norm_out (node /layers.1/norm_out/LayerNormalization) at chunk 0" in out
    assert "[norm-epsilon]" in out
    place = json.loads(result.read_text())["localization"]
    assert place["kind"] == "introduced"
    assert place["isolated_max_abs"] > 1e-3
    script = (target / "show.py").read_text()
    assert len(script.splitlines()) <= 12
    shown = subprocess.run([sys.executable, target / "show.py"], capture_output=True, text=True, check=True)
    figure = float(shown.stdout.split("max abs ")[1].split()[0])
    assert figure == pytest.approx(place["isolated_max_abs"], rel=1e-3)
    # The piece is the piece, not the model.
    assert len(onnx.load(target / "piece.onnx").graph.node) < 20
    status, _, err = streamparity(monkeypatch, capsys, *arguments, "--repro", target)
    assert status == 2
    assert "already exists" in err
    status, _, _ = streamparity(monkeypatch, capsys, *arguments, "--repro", target, "--force")
    assert status == 1


def test_the_reproduction_of_a_sound_piece_shows_no_fault(demo, tmp_path):
    """The same piece, cut from the sound export, returns what is expected: it is the fault that the script shows."""
    broken = demo.edited("zeroed", zero_layer_cache("cache_last_time", 1))
    run(demo.reference(), RunOptions("ort", broken, localize=True, repro=tmp_path / "repro"))
    piece = onnx.load(tmp_path / "repro" / "piece.onnx")
    node = next(n for n in piece.graph.node if n.name == "/planted/Mul")
    healed = onnx.helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)
    piece.graph.node.insert(list(piece.graph.node).index(node), healed)
    piece.graph.node.remove(node)
    onnx.save(piece, tmp_path / "repro" / "piece.onnx")
    shown = subprocess.run([sys.executable, tmp_path / "repro" / "show.py"], capture_output=True, text=True, check=True)
    assert float(shown.stdout.split("max abs ")[1].split()[0]) < 1e-5


def test_a_sound_run_has_nothing_to_say(demo, tmp_path):
    result = run(demo.reference(), RunOptions("ort", demo.export, localize=True, repro=tmp_path / "repro"))
    assert result["verdict"] == "pass"
    assert result["localization"] is None
    assert result["diagnosis"] == []
    assert not (tmp_path / "repro").exists()
    assert any("no reproduction" in note for note in result["notes"])


def test_state_says_lengths_moves_dependence_and_growth(demo):
    fault = next(fault for fault in GRAPH_FAULTS if fault.name == "channel-caches-swapped")
    found = run_planted(demo, fault.plant(demo, 1.0))["state"]
    last = demo.layers - 1
    assert found["depends_on"]["cache_last_channel"] == {"0": [last], "1": [1], str(last): [0]}
    assert found["depends_on"]["cache_last_time"] == {str(layer): [layer] for layer in range(demo.layers)}
    assert found["lengths"]["reference"] == found["lengths"]["candidate"]
    assert found["lengths"]["reference"][:3] == [2, 4, 6]
    assert set(found["moved"]["cache_last_time"]["reference"][1:-1]) == {2}
    assert found["growth"]["outputs"]["shape"] in ("flat", "linear", "exponential")
    turned = next(fault for fault in GRAPH_FAULTS if fault.name == "returned-channel-turned")
    found = run_planted(demo, turned.plant(demo, 1.0))["state"]
    assert found["moved"]["cache_last_channel"]["differs_in"]
    assert not found["moved"]["cache_last_time"]["differs_in"]


def test_a_submodule_of_pytorch_is_isolated_too(demo, tmp_path):
    from streamparity.reference.nemo import load_model

    other = load_model(str(_saved(demo)))
    with torch.no_grad():
        other.module.encoder.layers[2].feed_forward2.linear1.weight.mul_(1.01)
    path = tmp_path / "other.nemo"
    other.module.save_to(str(path))
    result = run(demo.reference(), RunOptions("torch", path, allow_model_mismatch=True, localize=True))
    assert result["localization"]["module"] == "encoder.layers.2.feed_forward2.linear1"
    assert result["localization"]["kind"] == "introduced"
    assert result["diagnosis"][0]["code"] == "weights-differ"
    assert result["diagnosis"][0]["evidence"]["relation"] == "scaled"


def _saved(bench):
    path = bench.folder / "model.nemo"
    if not path.exists():
        bench.loaded.module.save_to(str(path))
    return path


def test_deeper_taps_make_smaller_pieces(demo, tmp_path):
    from streamparity.demo import demo_audio, demo_recordings
    from streamparity.reference.dumper import DumpOptions, dump

    def soften(model):
        node = next(n for n in model.graph.node if n.name == "/layers.1/conv/activation/Sigmoid")
        node.op_type = "HardSigmoid"

    with demo_audio(demo_recordings()[0]) as audio:
        dump(demo.loaded, audio, tmp_path / "deep", DumpOptions(demo.streaming, taps=["*"], limit=6))
    result = run(DumpReader(tmp_path / "deep"), RunOptions("ort", demo.edited("soft", soften), localize=True))
    assert result["localization"]["module"] == "encoder.layers.1.conv.activation"
    assert result["localization"]["node"] == "/layers.1/conv/activation/Sigmoid"
    assert result["diagnosis"][0]["code"] == "graph-differs"


@pytest.mark.parametrize(
    "name", ["nothing", "opset-20", "norms-written-out", "weights-as-constants", "nodes-reordered"]
)
def test_no_node_of_a_sound_graph_is_odd(demo, regular, name):
    from streamparity.graph.onnx_graph import OnnxGraph
    from streamparity.localize.structure import Layers, odd_epsilons

    change = next(change for change in CHANGES if change.name == name)
    for bench in (demo, regular):
        graph = OnnxGraph(change.plant(bench).model / "encoder.onnx")
        assert [odd for layer in range(bench.layers) for odd in Layers(graph).odd(layer)] == []
        assert list(odd_epsilons(graph, bench.reference().anatomy())) == []


@pytest.mark.parametrize("name", ["nothing", "weights-transposed-and-back", "weights-as-constants", "constants-folded"])
def test_no_weight_of_a_sound_graph_differs(demo, regular, name):
    """Batch norms folded into convolutions, gates in ONNX's order and turned matrices among them."""
    from streamparity.localize.weights import differences
    from streamparity.runners import RunnerOptions
    from streamparity.runners.ort import OrtRunner

    change = next(change for change in CHANGES if change.name == name)
    for bench in (demo, regular):
        weights = list(OrtRunner.open(change.plant(bench).model, RunnerOptions()).weights())
        anatomy = bench.reference().anatomy()
        assert list(differences(weights, anatomy)) == []
        assert len({weight.parameter for weight in weights} & set(anatomy.parameters)) > 100


def test_a_backend_that_cannot_be_cut_is_tested_whole(demo, monkeypatch):
    from streamparity.runners.ort import OrtRunner

    monkeypatch.setattr(OrtRunner, "isolates", False)
    for name in ("weight-scaled", "returned-layers-swapped", "length-negative", "weights-in-float16"):
        fault = next(fault for fault in GRAPH_FAULTS if fault.name == name)
        row = score(demo, fault)
        assert row.wrong == [], row


def test_a_dump_without_anatomy_still_tells_where(demo, tmp_path):
    from streamparity.dump.anatomy import ANATOMY

    bare = shutil.copytree(demo.reference().folder, tmp_path / "bare")
    (bare / ANATOMY).unlink()
    fault = next(fault for fault in GRAPH_FAULTS if fault.name == "depthwise-reversed")
    result = run(DumpReader(bare), RunOptions("ort", fault.plant(demo, 1.0).model, localize=True))
    assert result["localization"]["module"] == "encoder.layers.1.conv"
    assert [(f["code"], f["confidence"]) for f in result["diagnosis"]] == [("weights-differ", 0.4)]
    (bare / ANATOMY).write_bytes(b"no safetensors")
    with pytest.raises(StreamparityError, match="is damaged"):
        run(DumpReader(bare), RunOptions("ort", fault.plant(demo, 1.0).model, localize=True))


def test_a_fault_of_the_decoder_is_found_in_it(demo):
    fault = next(fault for fault in GRAPH_FAULTS if fault.name == "blank-biased")
    model = fault.plant(demo, 1.0).model
    result = run(demo.reference(), RunOptions("ort", model, localize=True))
    assert result["localization"]["module"] == "joint.joint_net.1"


def broken(path, change):
    """An edit of the weight of a linear layer."""
    return lambda model: rewrite(model, find(model, path, "MatMul").input[1], change)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_with_a_weight_that_is_no_number_has_a_result(demo, tmp_path, monkeypatch, capsys, value):
    def change(weight):
        weight[3, 5] = value
        return weight

    model = demo.edited(f"weight-{value}", broken("layers.1.feed_forward1.linear1", change))
    arguments = ("run", "--backend", "ort", "--model", model, "--reference", demo.reference().folder, "--localize")
    status, out, err = streamparity(monkeypatch, capsys, *arguments, "--json", "-")
    assert (status, "error" in err) == (1, False)
    result = json.loads(out)
    assert result["localization"]["module"] == "encoder.layers.1.feed_forward1.linear1"
    assert {"nan-introduced", "overflow"} & {cause["code"] for cause in result["diagnosis"]}


def test_a_parameter_that_is_zero_in_the_reference_is_not_taken_for_a_movement_of_anything():
    zero = Parameter((64,), np.zeros(64, np.float32), 0.0, 0.0)
    anatomy = SimpleNamespace(parameters={"p": zero}, norms={})
    (found,) = differences([Weight("p", np.full(64, 0.05, np.float32), "n")], anatomy)
    assert (found.relation, found.detail) == ("other", "the reference's is zero")
    assert list(differences([Weight("p", np.zeros(64, np.float32), "n")], anatomy)) == []
    halves = np.arange(64, dtype=np.float32)
    other = Parameter((64,), np.roll(halves, 32), float(np.sqrt(np.mean(halves**2))), 0.0)
    (found,) = differences([Weight("p", halves, "n")], SimpleNamespace(parameters={"p": other}, norms={}))
    assert found.relation == "halves swapped"


@pytest.mark.parametrize("inside", ["", "chunks"])
def test_a_reproduction_takes_nothing_else_with_it(demo, tmp_path, monkeypatch, capsys, inside):
    model = demo.edited("repro", layer_norm_epsilon("layers.1.norm_out", 1e-2))
    saved = tmp_path / "saved"
    arguments = ("run", "--backend", "ort", "--model", model, "--reference", demo.reference().folder)
    status, _, err = streamparity(monkeypatch, capsys, *arguments, "--repro", saved / inside, "--save", saved)
    assert (status, "lie in one another" in err, saved.exists()) == (2, True, False)
    for folder in (demo.reference().folder, model.parent):
        status, _, err = streamparity(monkeypatch, capsys, *arguments, "--repro", folder / "repro", "--force")
        assert (status, "lie in one another" in err or "already exists" in err) == (2, True)


def test_a_fault_that_was_not_run_is_no_dependence_on_the_batch(demo):
    model = demo.edited("zeroed", zero_layer_cache("cache_last_time", 1))
    for chunks, verdict in ((1, "pass"), (None, "fail")):
        result = run(demo.reference(), RunOptions("ort", model, limit=chunks, localize=True))
        assert result["verdict"] == verdict
        assert "batch-dependence" not in [cause["code"] for cause in result["diagnosis"]]


def test_a_rule_that_breaks_leaves_the_verdict_and_the_other_rules(demo, monkeypatch):
    from streamparity.localize import diagnosis

    def broken_rule(case):
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(diagnosis, "RULES", (broken_rule, *diagnosis.RULES))
    model = demo.edited("repro", layer_norm_epsilon("layers.1.norm_out", 1e-2))
    result = run(demo.reference(), RunOptions("ort", model, localize=True))
    assert (result["verdict"], result["diagnosis"][0]["code"]) == ("fail", "norm-epsilon")
    assert "the rule broken_rule broke: ZeroDivisionError of its own" in result["notes"]
    monkeypatch.setattr(diagnosis, "RULES", ())
    assert run(demo.reference(), RunOptions("ort", model, localize=True))["diagnosis"][0]["code"] == "unexplained"


@pytest.mark.parametrize(
    ("errors", "shape"),
    [
        ([1e-6] * 40, "flat"),
        ([1e-6 * (chunk + 1) for chunk in range(40)], "linear"),
        ([1e-6 * 1.3**chunk for chunk in range(40)], "exponential"),
    ],
)
def test_growth_is_told_apart(errors, shape):
    from streamparity.localize.growth import growth

    noisy = np.array(errors) * np.random.default_rng(0).uniform(0.8, 1.25, len(errors))
    found = growth(noisy.tolist(), 1e-4)
    assert found.shape == shape
    if shape == "exponential":
        assert found.rate == pytest.approx(0.3, rel=0.05)
        # 1.3 to the power of 17.6 is 100.
        assert found.chunks_to_tolerance == pytest.approx(18, abs=1)
    if shape == "linear":
        assert found.rate == pytest.approx(1e-6, rel=0.1)


def test_growth_of_too_few_chunks_is_not_guessed():
    from streamparity.localize.growth import growth

    assert growth([1e-6, 2e-6, None, 0.0], 1e-4) is None
