"""Other models that people port, with random weights: parakeet-like TDT, hybrid, CTC; and taps on every module."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy

import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from streamparity import compare
from streamparity.contract.model import contract_schema
from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.run import RunOptions, run

from .nemo_loop import nemo_loop

DURATIONS = [0, 1, 2, 3, 4]


def tdt(config):
    """As parakeet-tdt: durations, unlimited regular attention, batch norm, symmetric convolution, per_feature."""
    config["model_defaults"] |= {"tdt_durations": DURATIONS, "num_tdt_durations": len(DURATIONS)}
    config["joint"]["num_extra_outputs"] = len(DURATIONS)
    config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": DURATIONS, "sigma": 0.02, "omega": 0.1}}
    config["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
    config["preprocessor"]["normalize"] = "per_feature"
    config["encoder"] |= {
        "causal_downsampling": False,
        "att_context_size": [-1, -1],
        "att_context_probs": None,
        "att_context_style": "regular",
        "conv_context_size": None,
        "conv_norm_type": "batch_norm",
        "use_bias": False,
        "xscaling": True,
    }


def ctc(config):
    for key in ("joint", "model_defaults", "loss"):
        del config[key]
    config["decoder"] = CTC_HEAD
    config["decoding"] = {"strategy": "greedy_batch"}


def hybrid(config):
    config["decoding"]["greedy"] = {"max_symbols_per_step": 3}  # the other name that NeMo takes
    config["aux_ctc"] = {
        "ctc_loss_weight": 0.3,
        "ctc_reduction": "mean_batch",
        "decoder": CTC_HEAD,
        "decoding": {"strategy": "greedy_batch"},
    }


CTC_HEAD = {
    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
    "feat_in": 64,
    "num_classes": -1,
    "vocabulary": [],
}
MODELS = {
    "tdt": (tdt, "EncDecRNNTBPEModel", {"att_context": (256, -1), "chunk_size": 6, "shift_size": 3}),
    "ctc": (ctc, "EncDecCTCModelBPE", {"att_context": (70, 1)}),
    "hybrid": (hybrid, "EncDecHybridRNNTCTCBPEModel", {"att_context": (70, 1)}),
}


def absolute_frames(reference):
    """Encoder frame of every label in the trace, counted from the beginning of the stream."""
    starts = np.cumsum([0, *(int(chunk["out/encoded_lengths"][0]) for chunk in reference)])
    steps = [] if reference.manifest.decoder.kind == "ctc" else reference.trace()
    return [starts[s["chunk"]] + s["frame"] for s in steps if s["label"] != reference.manifest.decoder.blank_id]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random-weight models, saved as .nemo files."""
    from streamparity.reference.nemo import import_nemo

    models = import_nemo()
    import torch
    from omegaconf import OmegaConf

    from demo_model.model import configuration, train_tokenizer

    folder, home = tmp_path_factory.mktemp("models"), os.getcwd()
    os.chdir(folder)
    train_tokenizer(folder / "tokenizer")
    paths = {}
    for name, (change, kind, _) in MODELS.items():
        torch.manual_seed(3)
        config = deepcopy(configuration("tokenizer"))
        change(config)
        model = getattr(models, kind)(cfg=OmegaConf.create(config))
        model.save_to(str(folder / f"{name}.nemo"))
        paths[name] = folder / f"{name}.nemo"
    os.chdir(home)
    return paths


@pytest.mark.parametrize("schedule", ["padded", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_other_models_stream_as_nemo_does_and_their_export_passes(saved, tmp_path, name, schedule):
    from streamparity.export import export
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, load_model

    streaming = StreamingOptions(**MODELS[name][2])
    model = load_model(str(saved[name]))
    with demo_audio(demo_recordings()[0]) as audio:
        manifest = dump(model, audio, tmp_path / "reference", DumpOptions(streaming, schedule))
        samples, _ = soundfile.read(audio, dtype="float32")
    configure_streaming(model.module, streaming)
    alone = nemo_loop(model.module, samples, schedule)
    assert manifest.chunks == len(alone.caches)
    if name != "ctc":
        assert len(alone.tokens) > 5
        assert list(manifest.tokens) == alone.tokens
    reference = DumpReader(tmp_path / "reference")
    assert absolute_frames(reference) == alone.frames
    if name == "hybrid":
        assert manifest.decoder.max_symbols == 3
    on_torch = run(reference, RunOptions("torch", saved[name]))
    assert on_torch["objections"] == []
    if schedule == "padded":
        export(model, tmp_path / "export", streaming)
        on_ort = run(reference, RunOptions("ort", tmp_path / "export"))
        assert on_ort["objections"] == [], [(t["name"], t["error"]) for t in on_ort["tensors"] if t["error"]]
        assert on_ort["coverage"]["unmatched"] == []
        assert (on_ort["tokens"] is not None) == (name == "hybrid")


@pytest.mark.parametrize("name", MODELS)
def test_contracts_of_other_models(saved, name):
    from streamparity.contract.from_nemo import contract_of
    from streamparity.contract.targets import check
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, load_model

    model = load_model(str(saved[name]))
    streaming = configure_streaming(model.module, StreamingOptions(**MODELS[name][2]))
    contract = contract_of(model, streaming, "test")
    jsonschema.Draft202012Validator(contract_schema()).validate(json.loads(contract.to_bytes()))
    (context,) = [each for each in contract.contexts if each.streaming == streaming]
    caches = model.module.encoder.get_initial_cache_state(batch_size=1)
    sides = ((context.cache_last_channel, caches[0]), (context.cache_last_time, caches[1]))
    assert [shape for shape, _ in sides] == [tuple(cache.transpose(0, 1).shape) for _, cache in sides]
    assert contract.features.streaming_safe == (name != "tdt")
    assert (contract.decoder is None) == (name == "ctc")
    assert contract.decoding.kind == {"tdt": "tdt", "ctc": "ctc", "hybrid": "rnnt"}[name]
    assert contract.decoder is None or contract.decoder.logits == 41 + len(contract.decoding.durations)
    assert check(contract, saved[name]).ledger.disagreements == []
    other = next(each for each in MODELS if each != name)
    found = {each.name for each in check(contract, saved[other]).ledger.disagreements}
    assert {"model/sha256", "model/class"} <= found


@pytest.fixture(scope="module")
def regular(saved, tmp_path_factory):
    """A dump and export of the TDT model with look-ahead frames that streaming discards."""
    from streamparity.export import export
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, load_model

    folder, streaming = tmp_path_factory.mktemp("regular"), StreamingOptions((16, -1), 6, 3)
    model = load_model(str(saved["tdt"]))
    with demo_audio(demo_recordings()[0]) as audio:
        taps = ["encoder.layers.0", "encoder.layers.0.*conv*"]
        dump(model, audio, folder / "reference", DumpOptions(streaming, taps=taps, limit=4))
    export(model, folder / "export", streaming)
    return folder


def test_frames_that_a_later_stage_discards_are_compared_too(regular, tmp_path):
    altered = shutil.copytree(regular / "reference", tmp_path / "altered")
    path = altered / "chunks" / "000002.safetensors"
    tensors = load_file(path)
    assert tensors["out/encoded_lengths"].tolist() == [3]
    assert tensors["tap/encoder.layers.0"].shape[1] == 6
    tensors["tap/encoder.layers.0"][0, 5] += 1
    save_file(tensors, path)
    result = compare(regular / "reference", altered)
    assert result["first_divergence"]["tensor"] == "encoder.layers.0"
    assert result["first_divergence"]["chunk"] == 2


def test_a_convolution_folded_with_its_batch_norm_is_unmatched_not_wrong(regular):
    result = run(DumpReader(regular / "reference"), RunOptions("ort", regular / "export", allow_unmatched=["*"]))
    assert result["objections"] == [], [(t["name"], t["error"]) for t in result["tensors"] if t["error"]]
    reasons = result["coverage"]["unmatched_reasons"]
    assert "folded" in reasons["encoder.layers.0.conv.depthwise_conv"]
    assert {t["name"] for t in result["tensors"]} >= {"encoder.layers.0.conv", "encoder.layers.0.conv.pointwise_conv1"}


@pytest.mark.parametrize("drop", [2, 3, 4])
def test_cache_drop_size_holds_for_dump_export_and_both_backends(saved, tmp_path, drop):
    from streamparity.export import export
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, load_model

    streaming = StreamingOptions((256, -1), 6, 3, drop)
    model = load_model(str(saved["tdt"]))
    with demo_audio(demo_recordings()[0]) as audio:
        manifest = dump(model, audio, tmp_path / "reference", DumpOptions(streaming, limit=5))
    assert manifest.streaming.cache_drop_size == drop
    export(model, tmp_path / "export", streaming)
    for options in (RunOptions("torch", saved["tdt"]), RunOptions("ort", tmp_path / "export")):
        assert run(DumpReader(tmp_path / "reference"), options)["objections"] == []


def test_every_module_of_the_encoder_has_its_tensor_in_the_graph(loaded, workshop, tmp_path):
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions

    said = []
    with demo_audio(demo_recordings()[0]) as audio:
        options = DumpOptions(StreamingOptions((70, 1)), taps=["*"], limit=3)
        dump(loaded, audio, tmp_path / "all", options, note=said.append)
    assert ["called more than once" in line for line in said] == [True, True]
    result = run(DumpReader(tmp_path / "all"), RunOptions("ort", workshop.export()))
    assert result["objections"] == []
    assert result["coverage"]["unmatched"] == []
    assert sum(tensor["kind"] == "tap" for tensor in result["tensors"]) > 75


def test_a_tap_of_the_wrong_layer_would_be_seen(workshop, monkeypatch):
    """The mapping from module paths to graph tensors, misdirected on purpose."""
    from streamparity.runners import onnx_graph

    find = onnx_graph.OnnxGraph.tap_tensors

    def misdirected(self, taps, root):
        found, reasons = find(self, taps, root)
        if "encoder.layers.1.conv" in found:
            found["encoder.layers.1.conv"] = found["encoder.layers.2.conv"]
        return found, reasons

    monkeypatch.setattr(onnx_graph.OnnxGraph, "tap_tensors", misdirected)
    result = run(workshop.reference(), RunOptions("ort", workshop.export(), limit=2))
    assert [t["name"] for t in result["tensors"] if not t["passed"]] == ["encoder.layers.1.conv"]
