"""Other models that people port, with random weights: parakeet-like TDT, hybrid, CTC; and taps on every module."""

from __future__ import annotations

import json
import shutil

import jsonschema
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

from demo_model.variants import STREAMING
from streamparity import compare
from streamparity.contract.model import contract_schema
from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.dump.trace import emitting
from streamparity.run import RunOptions, run

from .nemo_loop import nemo_loop


def absolute_frames(reference):
    """Encoder frame of every label in the trace, counted from the beginning of the stream."""
    starts = np.cumsum([0, *(int(chunk["out/encoded_lengths"][0]) for chunk in reference)])
    return [starts[s["chunk"]] + s["frame"] for s in emitting(reference.trace(), reference.manifest.decoder)]


@pytest.mark.parametrize("schedule", ["padded", "native"])
@pytest.mark.parametrize(("name", "head"), [("tdt", None), ("ctc", None), ("hybrid", None), ("hybrid", "ctc")])
def test_other_models_stream_as_nemo_does_and_their_export_passes(variants, tmp_path, name, head, schedule):
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, load_model

    streaming = StreamingOptions(**STREAMING[name])
    model = load_model(str(variants.path(name)))
    with demo_audio(demo_recordings()[0]) as audio:
        floor = schedule == "padded"  # what an export can run is judged by it
        options = DumpOptions(streaming, schedule, decoder=head, noise_floor=floor)
        manifest = dump(model, audio, tmp_path / "reference", options)
        samples, _ = soundfile.read(audio, dtype="float32")
    configure_streaming(model.module, streaming)
    alone = nemo_loop(model.module, samples, schedule)
    assert manifest.chunks == len(alone.caches)
    reference = DumpReader(tmp_path / "reference")
    lines = reference.trace()
    if "ctc" in (name, head):
        assert len(set(alone.best)) > 3
        assert [line["label"] for line in lines] == alone.best
        assert manifest.text == alone.text
    else:
        assert len(alone.tokens) > 5
        assert list(manifest.tokens) == alone.tokens
        assert absolute_frames(reference) == alone.frames
    if name == "hybrid" and head is None:
        assert manifest.decoder.max_symbols == 3
    on_torch = run(reference, RunOptions("torch", variants.path(name)))
    assert on_torch["objections"] == []
    assert on_torch["tokens"]["equal"]
    if schedule == "padded":
        on_ort = run(reference, RunOptions("ort", variants.export(name), save=tmp_path / "candidate"))
        assert on_ort["objections"] == [], [(t["name"], t["error"]) for t in on_ort["tensors"] if t["error"]]
        assert on_ort["coverage"]["unmatched"] == []
        assert on_ort["tokens"]["equal"]
        assert {t["name"] for t in on_ort["tensors"]} >= {"ctc_decoder" if "ctc" in (name, head) else "joint"}
        made = DumpReader(tmp_path / "candidate").trace()
        columns = ("chunk", "frame", "step", "label", "duration", "emit")
        assert [[line.get(c) for c in columns] for line in made] == [[line.get(c) for c in columns] for line in lines]


@pytest.mark.parametrize("name", STREAMING)
def test_contracts_of_other_models(variants, name):
    from streamparity.contract_check.targets import check
    from streamparity.reference.contract import contract_of
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, load_model

    model = load_model(str(variants.path(name)))
    streaming = configure_streaming(model.module, StreamingOptions(**STREAMING[name]))
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
    assert check(contract, variants.path(name)).ledger.disagreements == []
    other = next(each for each in STREAMING if each != name)
    found = {each.name for each in check(contract, variants.path(other)).ledger.disagreements}
    assert {"model/sha256", "model/class"} <= found


@pytest.fixture(scope="module")
def regular(variants, tmp_path_factory):
    """A dump and export of the TDT model with look-ahead frames that streaming discards."""
    from streamparity.export import export
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, load_model

    folder, streaming = tmp_path_factory.mktemp("regular"), StreamingOptions((16, -1), 6, 3)
    model = load_model(str(variants.path("tdt")))
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
def test_cache_drop_size_holds_for_dump_export_and_both_backends(variants, tmp_path, drop):
    from streamparity.export import export
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions, load_model

    streaming = StreamingOptions((256, -1), 6, 3, drop)
    model = load_model(str(variants.path("tdt")))
    with demo_audio(demo_recordings()[0]) as audio:
        manifest = dump(model, audio, tmp_path / "reference", DumpOptions(streaming, limit=5, noise_floor=True))
    assert manifest.streaming.cache_drop_size == drop
    export(model, tmp_path / "export", streaming)
    for options in (RunOptions("torch", variants.path("tdt")), RunOptions("ort", tmp_path / "export")):
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
    from streamparity.graph import onnx_graph

    find = onnx_graph.OnnxGraph.tap_tensors

    def misdirected(self, taps, root):
        found, reasons = find(self, taps, root)
        if "encoder.layers.1.conv" in found:
            found["encoder.layers.1.conv"] = found["encoder.layers.2.conv"]
        return found, reasons

    monkeypatch.setattr(onnx_graph.OnnxGraph, "tap_tensors", misdirected)
    result = run(workshop.reference(), RunOptions("ort", workshop.export(), limit=2))
    assert [t["name"] for t in result["tensors"] if not t["passed"]] == ["encoder.layers.1.conv"]
