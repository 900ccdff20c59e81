"""``streamparity trace`` on real models, on PyTorch and ONNX Runtime: parity, near ties, parts swapped, faults."""

from __future__ import annotations

import json
import shutil
from io import StringIO

import numpy as np
import onnx
import pytest
from rich.console import Console

from plant_fault import zero_layer_cache
from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.inspection import inspect
from streamparity.report.trace import render
from streamparity.run import RunOptions, run
from streamparity.tracing import TraceOptions, trace

from ..decisions.tiny import port

HEADS = [("demo", None), ("tdt", None), ("hybrid", None), ("hybrid", "ctc"), ("ctc", None)]


@pytest.fixture(scope="session")
def sources(variants, workshop, demo_path):
    """A model's .nemo, its export and its dump, by name."""

    def of(name, head=None):
        if name == "demo":
            return demo_path, workshop.export(), workshop.reference()
        return variants.path(name), variants.export(name), variants.reference(name, head)

    return of


@pytest.mark.parametrize("backend", ["torch", "ort"])
@pytest.mark.parametrize(("name", "head"), HEADS)
def test_every_kind_of_decoder_is_traced_end_to_end(sources, tmp_path, backend, name, head):
    nemo, export, reference = sources(name, head)
    result = trace(reference, TraceOptions(backend, nemo if backend == "torch" else export, reference_model=nemo))
    assert (result["verdict"], result["first_difference"], result["diagnosis"]) == ("pass", None, [])
    assert result["steps"]["equal"] == len(reference.trace()) > 15
    assert result["transcripts"]["error_rates"]["candidate_to_reference"]["wer"] == 0
    if (export / "ctc_decoder.onnx").exists():
        described = inspect(export / "ctc_decoder.onnx")
        assert (described["summary"]["role"], described["findings"]) == ("ctc_decoder", [])
    assert (export / "ctc_decoder.onnx").exists() == (name in ("ctc", "hybrid"))
    kind = reference.manifest.decoder.kind
    assert kind == ("ctc" if "ctc" in (name, head) else "tdt" if name == "tdt" else "rnnt")
    assert all(row["ran"] and row["first_flip"] is None for row in result["swap"]["rows"])
    assert len(result["swap"]["rows"]) == (4 if kind == "ctc" else 8)
    assert result["robustness"]["confirmed"]
    assert (result["durations"] is not None) == (kind == "tdt")
    json.dumps(result, allow_nan=False)


def test_the_first_chunks_of_a_trace_of_the_whole_recording(sources, tmp_path):
    _, export, reference = sources("demo")
    written = tmp_path / "trace.jsonl"
    lines = [{key: line[key] for key in ("chunk", "frame", "label")} for line in reference.trace()]
    for candidate in (reference.folder, written):
        written.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for backend, model in ((None, None), ("ort", export)):
            result = trace(reference, TraceOptions(backend, model, candidate=candidate, limit=20))
            assert (result["verdict"], result["chunks"]) == ("pass", 20)
            assert result["steps"]["candidate"] == result["steps"]["reference"] == result["steps"]["equal"] > 15
    early = next(place for place, line in enumerate(lines) if line["label"] == reference.manifest.decoder.blank_id)
    written.write_text(
        "".join(
            json.dumps({**line, "label": 0 if place == early else line["label"]}) + "\n"
            for place, line in enumerate(lines)
        )
    )
    assert trace(reference, TraceOptions(candidate=written, limit=20))["verdict"] == "fail"


def test_a_dump_of_another_model_or_of_other_decisions_is_refused(sources, tmp_path):
    from streamparity.errors import StreamparityError

    _, _, reference = sources("demo")
    other = shutil.copytree(reference.folder, tmp_path / "other")
    manifest = json.loads((other / "dump.json").read_text())
    model = {**manifest, "model": {**manifest["model"], "sha256": "0" * 64}}
    (other / "dump.json").write_text(json.dumps(model))
    with pytest.raises(StreamparityError, match="of another model"):
        trace(reference, TraceOptions(candidate=other, limit=5))
    allowed = trace(reference, TraceOptions(candidate=other, limit=5, allow_model_mismatch=True))
    assert (allowed["verdict"], any("as allowed" in note for note in allowed["notes"])) == ("pass", True)
    (other / "dump.json").write_text(json.dumps({**manifest, "decoder": {**manifest["decoder"], "kind": "ctc"}}))
    for allow in (False, True):
        with pytest.raises(StreamparityError, match="of other decisions than the reference: its decoder's kind"):
            trace(reference, TraceOptions(candidate=other, limit=5, allow_model_mismatch=allow))


def pair_of(loaded_module, encoder, out):
    """Encoder, predictor and joint as three graphs."""
    import torch

    from streamparity.reference.nemo import quiet

    out.mkdir()
    shutil.copy(encoder, out / "encoder.onnx")
    with quiet(), torch.inference_mode(False):
        loaded_module.decoder.export(str(out / "decoder.onnx"), onnx_opset_version=17, check_trace=False)
        loaded_module.joint.export(str(out / "joint.onnx"), onnx_opset_version=17, check_trace=False)
    return out


def edited(source, out, graph, edit):
    """A copy of an export with one graph edited, and no contract."""
    out.mkdir()
    for path in source.glob("*.onnx*"):
        shutil.copy(path, out)
    model = onnx.load(out / graph)
    edit(model)
    onnx.save(model, out / graph)
    return out


def softmaxed(model):
    """Log-softmax at the end of the joint, over everything that it scores."""
    output = model.graph.output[0]
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = "scores_before"
    model.graph.node.append(onnx.helper.make_node("LogSoftmax", ["scores_before"], [output.name], axis=-1))


@pytest.mark.parametrize("name", ["tdt", "hybrid"])
def test_separate_graphs_and_joints_with_and_without_softmax_are_accepted(sources, tmp_path, name):
    from streamparity.reference.nemo import load_model

    nemo, export, reference = sources(name)
    three = pair_of(load_model(str(nemo)).module, export / "encoder.onnx", tmp_path / "three")
    result = trace(reference, TraceOptions("ort", three, reference_model=export))
    assert (result["verdict"], result["diagnosis"]) == ("pass", [])
    assert len(result["swap"]["rows"]) == 8
    roles = [inspect(three / f"{graph}.onnx")["summary"]["role"] for graph in ("encoder", "decoder", "joint")]
    assert roles == ["encoder", "predictor", "joint"]
    normalised = edited(three, tmp_path / "softmaxed", "joint.onnx", softmaxed)
    result = trace(reference, TraceOptions("ort", normalised))
    assert (result["verdict"], result["diagnosis"]) == ("pass", [])
    (three / "joint.onnx").unlink()
    # A predictor without its joint is no decoder.
    with pytest.raises(Exception, match="to decode with"):
        trace(reference, TraceOptions("ort", three))


def test_a_joint_softmaxed_across_heads_is_diagnosed(variants, tmp_path):
    """NeMo does that itself on a CPU, unless it is told not to: then only the candidate does."""
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import load_model

    model = load_model(str(variants.path("tdt")))
    model.module.joint.log_softmax = False
    with demo_audio(demo_recordings()[0]) as audio:
        dump(model, audio, tmp_path / "raw", DumpOptions(variants.streaming("tdt")))
    raw = DumpReader(tmp_path / "raw")
    three = pair_of(model.module, variants.export("tdt") / "encoder.onnx", tmp_path / "three")
    assert trace(raw, TraceOptions("ort", three))["diagnosis"] == []
    together = edited(three, tmp_path / "together", "joint.onnx", softmaxed)
    result = trace(raw, TraceOptions("ort", together))
    assert [finding["code"] for finding in result["diagnosis"]] == ["joint-softmaxed-across-heads"]
    assert result["first_difference"] is None
    # Beside NeMo's own joint on a CPU, which does the same, it is no finding.
    assert trace(variants.reference("tdt"), TraceOptions("ort", together))["diagnosis"] == []


def scale(initializer, factor):
    def edit(model):
        tensors = [t for t in model.graph.initializer if initializer in t.name]
        assert tensors
        for tensor in tensors:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    return edit


def louder_label(model):
    bias = next(t for t in model.graph.initializer if t.name == "joint.joint_net.1.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[12] += 60
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))


def uneven(model):
    """A tenth of a nat on every second score of the joint."""
    bias = next(t for t in model.graph.initializer if "joint_net" in t.name and t.name.endswith("bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[::2] += np.float32(0.1)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_a_wrong_float32_joint_is_not_excused_by_the_encoders_arithmetic(sources, tmp_path, arithmetic):
    _, export, reference = sources("tdt")
    broken, settings = edited(export, tmp_path / "broken", "decoder_joint.onnx", uneven), {"arithmetic": arithmetic}
    result = trace(reference, TraceOptions("ort", broken, settings=settings))
    assert (result["verdict"], result["first_difference"]["kind"]) == ("fail", "flip")
    tokens = run(reference, RunOptions("ort", broken, settings=settings))["tokens"]
    assert (tokens["parting"]["chunk"], tokens["near_tie"]) == (result["first_difference"]["chunk"], False)
    assert trace(reference, TraceOptions("ort", export, settings=settings))["verdict"] == "pass"


def test_a_head_is_judged_by_what_its_own_graph_computes_in(sources):
    from streamparity.comparison import TolerancePolicy
    from streamparity.dump.noise_floor import FloorFigures, NoiseFloor
    from streamparity.graph.onnx_graph import OnnxGraph

    graph = OnnxGraph(sources("tdt")[1] / "decoder_joint.onnx")
    assert graph.arithmetic == "float32"
    graph.proto.graph.initializer.add(name="half", data_type=onnx.TensorProto.FLOAT16, dims=[1], raw_data=bytes(2))
    assert graph.arithmetic == "float16"
    graph.proto.graph.node.add(op_type="DequantizeLinear")
    assert graph.arithmetic == "int8"
    floor = NoiseFloor({"float32": {"joint": FloorFigures(1e-6, 1e-7)}, "int8": {"joint": FloorFigures(1.0, 0.1)}}, {})
    for encoder in ("float32", "int8"):
        assert TolerancePolicy(arithmetic=encoder, floor=floor).of_the_head("joint").atol == pytest.approx(8e-6)
        half = TolerancePolicy(arithmetic=encoder, floor=floor, head="float16")
        assert half.of_the_head("joint").atol == pytest.approx(8e-6 * 2**13)


def other_embedding(model):
    table = next(t for t in model.graph.initializer if "embed" in t.name)
    values = onnx.numpy_helper.to_array(table).copy()
    table.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 3, axis=0), table.name))


@pytest.mark.parametrize(
    ("cause", "graph", "edit"),
    [
        ("encoder", "encoder.onnx", zero_layer_cache("cache_last_time", 1)),
        ("joint", "decoder_joint.onnx", louder_label),
        ("predictor", "decoder_joint.onnx", other_embedding),
    ],
)
def test_swapped_parts_say_which_of_them_causes_the_first_flip(workshop, tmp_path, cause, graph, edit):
    broken = edited(workshop.export(), tmp_path / "broken", graph, edit)
    result = trace(workshop.reference(), TraceOptions("ort", broken, reference_model=workshop.export()))
    assert result["verdict"] == "fail"
    assert result["first_difference"]["kind"] == "flip"
    assert result["swap"]["cause"] == [cause]
    # Without the reference's model it can still be told apart from the encoder.
    alone = trace(workshop.reference(), TraceOptions("ort", broken))
    assert alone["swap"]["cause"] == (["encoder"] if cause == "encoder" else ["predictor+joint"])


@pytest.mark.parametrize(
    ("backend", "name", "fault", "code"),
    [
        ("ort", "demo", "twice", "predictor-fed-twice"),
        ("ort", "hybrid", "start-0", "wrong-start-token"),
        ("ort", "hybrid", "unlimited", "max-symbols-unenforced"),
        ("torch", "tdt", "lost-silent", "last-label-lost"),
        ("ort", "tdt", "advance-on-blank", "state-advanced-on-blank"),
        ("ort", "tdt", "rnnt-rules", "durations-ignored"),
        ("ort", "tdt", "stuck", "blank-duration-zero-stuck"),
        ("ort", "tdt", "plus-1", "labels-shifted-by-one"),
    ],
)
def test_a_faulty_loop_around_a_real_model_is_found(sources, tmp_path, backend, name, fault, code):
    from streamparity.decisions.sides import recorded
    from streamparity.runners.torch_decoder import TorchTransducer

    nemo, export, reference = sources(name)
    import torch

    from streamparity.reference.nemo import load_model

    rules = reference.manifest.decoder
    model = TorchTransducer(load_model(str(nemo)).module, torch.float32)
    lines, _ = port(model, rules, recorded(reference, rules).frames, fault)
    written = tmp_path / "port.jsonl"
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = nemo if backend == "torch" else export
    result = trace(reference, TraceOptions(backend, path, candidate=written))
    assert result["verdict"] == "fail"
    surest = result["diagnosis"][0]["confidence"]
    # A short recording may not tell two wrong rules apart: then both are named, each half as sure.
    assert code in [finding["code"] for finding in result["diagnosis"] if finding["confidence"] == surest]
    assert surest > (0.9 if len([f for f in result["diagnosis"] if f["confidence"] == surest]) == 1 else 0.3)
    assert result["swap"]["cause"] == ["decoding logic"]


@pytest.fixture(scope="session")
def tied(demo_path, workshop, tmp_path_factory):
    """The shipped model with two labels all but equal at one decision: its .nemo, a dump with a noise floor, where."""
    from streamparity.provenance import file_sha256
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import LoadedModel, StreamingOptions, load_model

    before = workshop.reference()
    narrowest = min(
        (line for line in before.trace() if line["label"] != before.manifest.decoder.blank_id and line["chunk"] < 30),
        key=lambda line: line["top"][0]["logit"] - line["top"][1]["logit"],
    )
    folder, module = tmp_path_factory.mktemp("tied"), load_model(str(demo_path)).module
    margin = narrowest["top"][0]["logit"] - narrowest["top"][1]["logit"]
    module.joint.joint_net[-1].bias[narrowest["top"][1]["label"]] += margin - 2e-6
    path = folder / "tied.nemo"
    module.save_to(str(path))
    options = DumpOptions(StreamingOptions((70, 1)), noise_floor=True, limit=narrowest["chunk"] + 4)
    with demo_audio(demo_recordings()[0]) as audio:
        dump(LoadedModel(module, "tied", file_sha256(path)), audio, folder / "dump", options)
    return path, DumpReader(folder / "dump"), (narrowest["chunk"], narrowest["frame"])


def noisy(monkeypatch, amplitude, seed):
    """PyTorch, with noise on the encoder's output."""
    from streamparity.runners.torch_runner import TorchRunner

    plain = TorchRunner.step
    draw = np.random.default_rng(seed)

    def step(self, chunk):
        tensors = plain(self, chunk)
        noise = draw.choice([-amplitude, amplitude], tensors["out/outputs"].shape)
        return {**tensors, "out/outputs": (tensors["out/outputs"] + noise).astype(np.float32)}

    monkeypatch.setattr(TorchRunner, "step", step)


def test_a_near_tie_under_the_noise_floor_is_one_and_no_fault(tied, monkeypatch):
    path, reference, place = tied
    below = reference.noise_floor().errors["float32"]["outputs"].max_abs
    assert trace(reference, TraceOptions("torch", path))["verdict"] == "pass"
    results = []
    for seed in range(6):
        with monkeypatch.context() as patch:
            noisy(patch, below, seed)
            results.append(trace(reference, TraceOptions("torch", path)))
    parted = [result for result in results if result["first_difference"] is not None]
    assert parted
    for result in parted:
        found = result["first_difference"]
        assert found["kind"] == "near-tie"
        assert (found["chunk"], found["frame"]) == place
        assert found["encoder_ok"]
        assert max(found["reference_margin"], found["candidate_margin"]) <= found["explained"] + found["allowed"]
        assert (result["verdict"], result["diagnosis"]) == ("pass", [])
        assert (result["forced"]["near_ties"], result["forced"]["flips"]) == (1, 0)
    with monkeypatch.context() as patch:
        noisy(patch, below, results.index(parted[0]))
        tokens = run(reference, RunOptions("torch", path))["tokens"]
        # The same words may come of it, or others: they hang on a tie either way.
        assert tokens["near_tie"] is True
    # The tie is what the transcript survives least.
    assert parted[0]["robustness"]["floors"] < 1


def test_the_same_decision_turned_by_more_than_the_floor_is_a_flip(tied, monkeypatch):
    path, reference, _ = tied
    noisy(monkeypatch, 2.0, 1)
    result = trace(reference, TraceOptions("torch", path))
    assert result["verdict"] == "fail"
    found = result["first_difference"]
    assert (found["kind"], found["encoder_ok"]) == ("flip", False)
    noisy(monkeypatch, 2.0, 1)
    tokens = run(reference, RunOptions("torch", path))["tokens"]
    assert (tokens["equal"], tokens["near_tie"]) == (False, False)
    assert "past its tolerance" in found["reason"]


@pytest.mark.parametrize("head", ["rnnt", "ctc"])
def test_the_offline_transcript_is_kept_and_measured_against(variants, tmp_path, head):
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import load_model

    model = load_model(str(variants.path("hybrid")))
    options = DumpOptions(variants.streaming("hybrid"), decoder=head, offline_text=True)
    with demo_audio(demo_recordings()[0]) as audio:
        manifest = dump(model, audio, tmp_path / "reference", options)
        # A finished dump may be resumed with or without it.
        dump(model, audio, tmp_path / "reference", DumpOptions(options.streaming, decoder=head, resume=True))
    offline = manifest.extra["offline_text"]
    assert len(offline) > 10
    result = trace(DumpReader(tmp_path / "reference"), TraceOptions("ort", variants.export("hybrid"), offline=offline))
    rates = result["transcripts"]["error_rates"]
    assert rates["candidate_to_offline"] == rates["reference_to_offline"]
    # The padded schedule shifts the subsampling grid: near to the offline transcript, not the same.
    assert rates["candidate_to_offline"]["cer"] < 1


def without_end(model):
    """The joint never scores blank highest: labels without end."""
    bias = next(t for t in model.graph.initializer if t.name == "joint.joint_net.1.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[-1] = -1e6
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))


@pytest.mark.parametrize("edit", [scale("joint.joint_net.1.bias", np.nan), without_end], ids=["nan", "no blank"])
def test_models_that_cannot_decode_sensibly_fail_and_break_nothing(workshop, tmp_path, edit):
    broken = edited(workshop.export(), tmp_path / "broken", "decoder_joint.onnx", edit)
    result = trace(workshop.reference(), TraceOptions("ort", broken, reference_model=workshop.export(), limit=20))
    assert result["verdict"] == "fail"
    assert result["first_difference"]["kind"] == "flip"
    assert "joint" in result["swap"]["cause"]
    json.dumps(result, allow_nan=False)
    render(result, Console(file=StringIO()))


def test_a_wrong_ctc_head_is_where_the_error_is_made(variants, tmp_path):
    """``run --localize`` holds the head by itself against the reference's frames."""
    reference, export = variants.reference("hybrid", "ctc"), variants.export("hybrid")
    broken = edited(export, tmp_path / "broken", "ctc_decoder.onnx", scale("weight", 1.01))
    result = run(reference, RunOptions("ort", broken, localize=True))
    assert result["first_divergence"]["tensor"] == "ctc_decoder"
    assert (result["localization"]["kind"], result["localization"]["tensor"]) == ("introduced", "ctc_decoder")
    assert result["diagnosis"][0]["code"] != "drift"
    assert trace(reference, TraceOptions("ort", broken, reference_model=export))["swap"]["cause"] in (
        [],
        ["ctc_decoder"],
    )
