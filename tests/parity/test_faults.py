"""Every fault is planted in a real export or in the loop around it, and must be caught where it enters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from plant_fault import (
    forget_names,
    layer_norm_epsilon,
    swap_layer_caches,
    zero_layer_cache,
    zero_returned_layer,
)
from streamparity.run import RunOptions, run, run_opened
from streamparity.runners import RunnerOptions
from streamparity.runners.ort import OrtRunner

LAYERS = 3

FAULTS = {
    "last_time_zeroed": (zero_layer_cache("cache_last_time", 1), 1, "encoder.layers.1.conv"),
    "last_channel_zeroed": (zero_layer_cache("cache_last_channel", 2), 1, "encoder.layers.2.self_attn"),
    "returned_time_zeroed": (zero_returned_layer("cache_last_time_next", 1, LAYERS), 0, "cache_last_time_next"),
    "channel_caches_swapped": (swap_layer_caches("cache_last_channel", 0, 2), 1, "encoder.layers.0.self_attn"),
    "time_caches_swapped": (swap_layer_caches("cache_last_time", 1, 2), 1, "encoder.layers.1.conv"),
    "epsilon_of_norm_conv": (layer_norm_epsilon("layers.1.norm_conv", 1e-3), 0, "encoder.layers.1.conv"),
    "epsilon_of_norm_out": (layer_norm_epsilon("layers.2.norm_out", 1e-3), 0, "encoder.layers.2.norm_out"),
}


def ort(workshop, model, **options):
    return run(workshop.reference(), RunOptions(backend="ort", model=model, **options))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_graph_is_located(workshop, name):
    edit, chunk, tensor = FAULTS[name]
    result = ort(workshop, workshop.edited(name, edit))
    assert result["verdict"] == "fail"
    assert (result["first_divergence"]["chunk"], result["first_divergence"]["tensor"]) == (chunk, tensor)
    if name == "returned_time_zeroed":
        worst = next(t for t in result["tensors"] if t["name"] == tensor)["worst"]
        assert (worst["index"][1], worst["candidate"]) == (1, 0.0)


class ForgetfulRunner(OrtRunner):
    """Feeds both caches back but always claims that they are empty."""

    def step(self, chunk):
        outputs = super().step(chunk)
        kept = {name: value.numpy() for name, value in self._caches.items()}
        self.set_caches({**kept, "cache_last_channel_len": np.zeros(1, np.int64)})
        return outputs


class MisalignedRunner(OrtRunner):
    """Keeps the attention cache left-aligned: valid frames first instead of last."""

    def step(self, chunk):
        outputs = super().step(chunk)
        kept = {name: value.numpy() for name, value in self._caches.items()}
        valid = int(kept["cache_last_channel_len"][0])
        kept["cache_last_channel"] = np.roll(kept["cache_last_channel"], valid, axis=2)
        self.set_caches(kept)
        return outputs


def drive_with(workshop, runner_class):
    reference, model = workshop.reference(), workshop.export() / "encoder.onnx"
    specs = [spec for spec in reference.manifest.tensors if spec.kind in ("tap", "output", "cache", "length")]
    taps = [spec.label for spec in specs if spec.kind == "tap"]
    runner = runner_class.open(model, RunnerOptions(taps=taps, streaming=reference.manifest.streaming))
    return run_opened(runner, reference, specs, RunOptions(backend="ort", model=model))


@pytest.mark.parametrize("runner_class", [ForgetfulRunner, MisalignedRunner])
def test_fault_in_the_loop_is_located(workshop, runner_class):
    result = drive_with(workshop, runner_class)
    assert result["verdict"] == "fail"
    assert result["first_divergence"]["chunk"] == 1
    assert result["first_divergence"]["tensor"] == "encoder.layers.0.self_attn"


def test_the_loop_without_fault_passes(workshop):
    assert drive_with(workshop, OrtRunner)["verdict"] == "pass"


def test_functional_mode_does_not_inherit_a_fault_of_the_caches(workshop):
    model = workshop.edited("returned_channel_zeroed", zero_returned_layer("cache_last_channel_next", 0, LAYERS))
    closed, functional = ort(workshop, model), ort(workshop, model, mode="functional")
    failing = {
        mode: {t["name"] for t in result["tensors"] if not t["passed"]}
        for mode, result in (("closed", closed), ("functional", functional))
    }
    assert failing["functional"] == {"cache_last_channel_next"}
    assert "encoder.layers.0.self_attn" in failing["closed"]


def test_native_first_chunk_fed_to_an_export_is_located_and_explained(workshop):
    result = run(
        workshop.reference(schedule="native"), RunOptions(backend="ort", model=workshop.export() / "encoder.onnx")
    )
    assert result["verdict"] == "fail"
    assert result["first_divergence"]["chunk"] == 0
    assert result["first_divergence"]["tensor"].startswith("encoder.layers.0.")
    assert result["tokens"] is None
    assert [finding["code"] for finding in result["diagnosis"]] == ["first-chunk-schedule"]


def test_wrong_blank_in_the_joint_changes_tokens_and_fails(workshop):
    def bias_blank(model: onnx.ModelProto) -> None:
        bias = next(t for t in model.graph.initializer if t.name == "joint.joint_net.1.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[-1] += 20
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    result = ort(workshop, workshop.edited("loud_blank", bias_blank, "decoder_joint.onnx"))
    assert result["verdict"] == "fail"
    assert result["tokens"]["equal"] is False
    assert result["tokens"]["candidate_text"] == ""
    assert result["first_divergence"]["tensor"] == "joint"
    encoder = [t for t in result["tensors"] if t["kind"] in ("tap", "output", "cache", "length")]
    assert all(t["passed"] for t in encoder)


@pytest.mark.parametrize(
    "settings", [{"optimization": "disable"}, {"optimization": "basic"}, {"threads": "2"}], ids=str
)
def test_harmless_settings_pass(workshop, settings):
    assert ort(workshop, workshop.export() / "encoder.onnx", settings=settings)["verdict"] == "pass"


def test_weights_in_an_external_file_pass(workshop, tmp_path):
    for name in ("encoder.onnx", "decoder_joint.onnx"):
        onnx.save_model(
            onnx.load(workshop.export() / name),
            tmp_path / name,
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=0,
        )
    assert ort(workshop, tmp_path / "encoder.onnx")["verdict"] == "pass"


def test_graph_without_names_is_unmatched_never_passed_unless_allowed(workshop):
    model = workshop.edited("nameless", forget_names)
    result = ort(workshop, model)
    assert result["verdict"] == "fail"
    assert "encoder.layers.0.conv" in result["coverage"]["unmatched"]
    assert "renamed or fused" in result["coverage"]["unmatched_reasons"]["encoder.layers.0.conv"]
    assert all(t["passed"] for t in result["tensors"])
    assert ort(workshop, model, allow_unmatched=["encoder.*"])["verdict"] == "pass"
