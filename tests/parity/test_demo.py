"""The main job on the shipped model, in every attention context that it promises."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile

from plant_fault import layer_norm_epsilon
from streamparity.comparison import compare
from streamparity.demo import demo, demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.errors import StreamparityError
from streamparity.reference.nemo import StreamingOptions, configure_streaming
from streamparity.run import RunOptions, run

from .nemo_loop import nemo_loop

BLOCKS = ("feed_forward1", "self_attn", "conv", "feed_forward2", "norm_out")
BLOCK_TAPS = {"encoder.pre_encode", "encoder.pos_enc"} | {
    f"encoder.layers.{layer}{part}" for layer in range(3) for part in ("", *(f".{block}" for block in BLOCKS))
}


def silent(_title):
    return nullcontext(lambda done, total: None)


@pytest.mark.parametrize("context", [(70, 13), (70, 1), (70, 0)])
def test_demo_passes_on_torch_and_ort(context, tmp_path):
    outcome = demo(tmp_path / "demo", context, force=False, progress=silent)
    assert json.loads((tmp_path / "demo" / "result.json").read_text()) == outcome.results["ort"]
    for result in outcome.results.values():
        assert result["objections"] == []
        assert result["verdict"] == "pass"
        assert result["chunks"]["total"] == result["chunks"]["passed"] > 1
        assert result["coverage"]["vacuous"] == result["coverage"]["unmatched"] == []
        tensors = {tensor["name"]: tensor for tensor in result["tensors"]}
        assert set(tensors) >= BLOCK_TAPS
        encoder = [t for t in tensors.values() if t["kind"] in ("tap", "output", "cache")]
        assert max(tensor["max_abs"] for tensor in encoder) < 1e-5
        assert all(tensor["elements"] > 0 and tensor["passed"] for tensor in encoder)
        assert result["tokens"]["equal"]
        assert result["tokens"]["reference_text"] == result["tokens"]["candidate_text"] == outcome.said


def test_every_shipped_recording_is_heard_right(loaded):
    from streamparity.reference.audio import open_recording
    from streamparity.reference.features import FeatureStream
    from streamparity.reference.nemo import decoder_of
    from streamparity.reference.streamer import ReferenceStreamer
    from streamparity.schedule import chunks

    config = configure_streaming(loaded.module, StreamingOptions((70, 1)))
    recordings = demo_recordings()
    assert len(recordings) == 3
    assert 15 < max(recording.seconds for recording in recordings) < 25
    for recording in recordings:
        with demo_audio(recording) as path:
            features = FeatureStream(loaded.module, open_recording(path, 16_000))
        decoder = decoder_of(loaded.module)
        streamer = ReferenceStreamer(loaded.module, decoder)
        for _ in streamer.run(features, chunks(config, features.total_frames, "native")):
            pass
        assert decoder.text(streamer.tokens) == recording.text


@pytest.mark.parametrize("schedule", ["padded", "native"])
def test_reference_is_what_nemo_computes_with_its_own_buffer(workshop, loaded, schedule):
    configure_streaming(loaded.module, StreamingOptions((70, 1)))
    reference = workshop.reference(schedule=schedule)
    with demo_audio(demo_recordings()[0]) as path:
        samples, _ = soundfile.read(path, dtype="float32")
    alone = nemo_loop(loaded.module, samples, schedule)
    assert len(alone.caches) == reference.chunk_count
    for chunk, (channel, length) in zip(reference, alone.caches, strict=True):
        assert chunk["out/cache_last_channel_next_len"].tolist() == [length]
        assert np.abs(chunk["out/cache_last_channel_next"] - channel).max() < 1e-5
    assert list(reference.manifest.tokens) == alone.tokens


def test_trace_says_what_was_emitted_and_where(workshop):
    reference = workshop.reference()
    blank = reference.manifest.decoder.blank_id
    lines = reference.trace()
    assert [line["label"] for line in lines if line["label"] != blank] == list(reference.manifest.tokens)
    for index, chunk in enumerate(reference):
        mine = [line for line in lines if line["chunk"] == index]
        frames = int(chunk["out/encoded_lengths"][0])
        # Greedy decoding leaves every frame of a chunk by exactly one blank, as max_symbols is never reached here.
        assert [line["frame"] for line in mine if line["label"] == blank] == list(range(frames))
        assert len(mine) == len(chunk["tap/joint"])
        assert all(line["top"][0]["logit"] >= line["top"][1]["logit"] for line in mine)


@pytest.mark.parametrize("mode", ["closed-loop", "functional"])
@pytest.mark.parametrize("atol", [None, 1e-9])
def test_compare_on_a_saved_run_gives_the_verdict_of_the_run(workshop, tmp_path, mode, atol):
    from streamparity.comparison import TolerancePolicy

    reference = workshop.reference()
    options = RunOptions(
        backend="ort",
        model=workshop.export() / "encoder.onnx",
        mode=mode,
        save=tmp_path / "candidate",
        policy=TolerancePolicy(atol),
    )
    ran = run(reference, options)
    compared = compare(reference.folder, tmp_path / "candidate", atol=atol)
    assert ran["verdict"] == compared["verdict"] == ("pass" if atol is None else "fail")
    assert ran["tokens"] == compared["tokens"]
    shared = {tensor["name"] for tensor in ran["tensors"]}
    figures = ("passed", "max_abs", "mean_abs", "percentiles", "worst", "first_failed_chunk", "per_chunk_max_abs")
    again = {t["name"]: [t[key] for key in figures] for t in compared["tensors"] if t["name"] in shared}
    assert again == {t["name"]: [t[key] for key in figures] for t in ran["tensors"]}


def test_compare_on_a_saved_run_goes_by_the_flags_of_the_run(workshop, tmp_path):
    from streamparity.comparison import TolerancePolicy

    model = workshop.edited("louder", layer_norm_epsilon("layers.2.norm_out", 1e-3))
    options = RunOptions("ort", model, save=tmp_path / "saved", policy=TolerancePolicy(atol=50), limit=3)
    reference = workshop.reference().folder
    assert run(workshop.reference(), options)["verdict"] == "pass"
    assert compare(reference, tmp_path / "saved")["verdict"] == "pass"
    assert compare(reference, tmp_path / "saved", atol=1e-5)["verdict"] == "fail"


def test_saving_onto_the_reference_is_refused(workshop):
    reference = workshop.reference()
    with pytest.raises(StreamparityError, match="is the reference itself"):
        run(reference, RunOptions("ort", workshop.export(), save=reference.folder, force=True))
    assert DumpReader(reference.folder).chunk_count == reference.chunk_count


def test_a_run_that_stops_saves_what_there_is_and_compares_to_the_same_verdict(workshop, tmp_path):
    reference = workshop.reference(schedule="native")
    saved = tmp_path / "candidate"
    ran = run(reference, RunOptions(backend="ort", model=workshop.export() / "encoder.onnx", save=saved))
    compared = compare(reference.folder, saved)
    assert ran["verdict"] == compared["verdict"] == "fail"
    assert ran["first_divergence"] == compared["first_divergence"]


def test_limited_runs_and_chosen_taps(workshop):
    options = RunOptions(
        backend="ort", model=workshop.export(), limit=3, taps=["encoder.layers.1", "encoder.layers.1.conv"]
    )
    result = run(workshop.reference(), options)
    assert result["verdict"] == "pass"
    assert result["chunks"] == {"total": 3, "compared": 3, "passed": 3}
    taps = [tensor["name"] for tensor in result["tensors"] if tensor["kind"] == "tap"]
    assert taps == ["encoder.layers.1.conv", "encoder.layers.1"]


def test_other_arithmetic_on_torch_is_seen(workshop, demo_path):
    options = RunOptions(backend="torch", model=demo_path, settings={"dtype": "bfloat16"}, limit=4)
    low = run(workshop.reference(), options)
    assert low["verdict"] == "fail"
    assert low["tensors"][0]["tolerance"]["rtol"] == 1.6e-2  # bfloat16's own, not that of the float32 it arrives in
    double = run(workshop.reference(), RunOptions("torch", demo_path, settings={"dtype": "float64"}, limit=4))
    assert double["verdict"] == "pass"
    worst = {t["name"]: t["max_abs"] for t in double["tensors"]}
    assert 0 < worst["outputs"] < 1e-5


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_with_every_tap(workshop, demo_path):
    from torch._dynamo.utils import counters

    options = RunOptions("torch", demo_path, settings={"compile": "true"}, limit=6)
    counters.clear()
    result = run(workshop.reference(), options)
    assert result["objections"] == []
    worst = {tensor["name"]: tensor["max_abs"] for tensor in result["tensors"]}
    assert 0 < worst["encoder.layers.1"] < 1e-5  # other kernels, so not the very same bits
    assert 0 < counters["stats"]["unique_graphs"] < 60  # compiled once, not at every step: a graph or two per tap


def test_reader_resolves_every_tensor_of_the_manifest(workshop):
    reader = DumpReader(workshop.reference().folder)
    names = {spec.name for spec in reader.manifest.tensors}
    for chunk in reader:
        assert {name for name in chunk if not name.startswith("state/")} == names
        for spec in reader.manifest.tensors:
            assert chunk[spec.name].ndim == len(spec.axes)
            assert str(chunk[spec.name].dtype) == spec.dtype
