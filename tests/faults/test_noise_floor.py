"""The floor is what another arithmetic really costs; judging by it catches what fixed tolerances let pass."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.dump.noise_floor import NOISE_FLOOR
from streamparity.errors import StreamparityError
from streamparity.run import RunOptions, run

from .edits import matmul_weight, rewrite
from .harmless import on_torch
from .score import run_planted


def by_name(result):
    return {tensor["name"]: tensor for tensor in result["tensors"]}


def test_the_floor_is_what_a_float64_run_of_the_same_loop_is_off_by(demo):
    floor = demo.reference().noise_floor()
    other = by_name(run_planted(demo, on_torch("float64", dtype="float64").plant(demo)))
    names = [name for name in other if name.startswith(("encoder.", "outputs", "cache_last_channel_next", "decoder"))]
    names = [name for name in names if other[name]["kind"] != "length"]
    assert len(names) > 20
    for name in names:
        assert floor.errors["float32"][name].max_abs == pytest.approx(other[name]["max_abs"], rel=1e-6)
    assert 0 < floor.errors["float32"]["outputs"].max_abs < 1e-5
    assert floor.errors["float32"]["outputs"].max_abs < floor.errors["float16"]["outputs"].max_abs / 100
    assert floor.errors["float16"]["outputs"].max_abs < floor.errors["bfloat16"]["outputs"].max_abs


def test_measuring_leaves_the_model_as_it_was(demo):
    from streamparity.reference.arithmetic import converted

    module = demo.loaded.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with converted(module, torch.bfloat16):
        assert next(module.parameters()).dtype == torch.bfloat16
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_error_that_a_fixed_tolerance_lets_pass_is_caught_by_the_floor(demo, tmp_path):
    def slightly(model):
        name = matmul_weight(model, "layers.1.feed_forward1.linear2")
        rewrite(model, name, lambda values: values * np.float32(1 + 1e-5))

    model = demo.edited("slightly", slightly)
    judged = run(demo.reference(), RunOptions("ort", model, localize=True))
    assert judged["verdict"] == "fail"
    assert judged["first_divergence"]["tensor"] == "encoder.layers.1.feed_forward1"
    assert by_name(judged)["encoder.layers.1.feed_forward1"]["tolerance"]["source"] == "noise-floor"
    assert judged["diagnosis"][0]["code"] == "weights-differ"
    without = shutil.copytree(demo.reference().folder, tmp_path / "without")
    (without / NOISE_FLOOR).unlink()
    result = run(DumpReader(without), RunOptions("ort", model))
    assert by_name(result)["outputs"]["tolerance"]["source"] == "dtype-default"
    assert by_name(result)["encoder.layers.1.feed_forward1"]["passed"]
    assert result["noise"] is None


def test_a_user_s_tolerance_comes_first_and_one_tighter_than_the_floor_is_called_noise(demo):
    from streamparity.comparison import TolerancePolicy

    options = RunOptions("ort", demo.export, policy=TolerancePolicy(atol=1e-8), localize=True)
    result = run(demo.reference(), options)
    assert result["verdict"] == "fail"
    assert by_name(result)["outputs"]["tolerance"]["source"] == "flag"
    assert result["diagnosis"][0]["code"] == "noise-only"


def test_resume_adds_the_floor_that_a_finished_dump_lacks(demo, tmp_path):
    from streamparity.reference.dumper import DumpOptions, dump

    with demo_audio(demo_recordings()[0]) as audio:
        dump(demo.loaded, audio, tmp_path / "dump", DumpOptions(demo.streaming, limit=3))
        assert DumpReader(tmp_path / "dump").noise_floor() is None
        dump(demo.loaded, audio, tmp_path / "dump", DumpOptions(demo.streaming, limit=3, resume=True, noise_floor=True))
    assert DumpReader(tmp_path / "dump").noise_floor().errors["float32"]["outputs"].max_abs > 0


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"schema": "streamparity.noise-floor/9"})])
def test_a_damaged_floor_is_refused(demo, tmp_path, content):
    copy = shutil.copytree(demo.reference().folder, tmp_path / "copy")
    (copy / NOISE_FLOOR).write_text(content)
    with pytest.raises(StreamparityError, match="is no noise floor"):
        run(DumpReader(copy), RunOptions("ort", demo.export, limit=1))


@pytest.mark.parametrize("level", ["disable", "basic", "all"])
def test_harmless_errors_are_of_the_size_of_the_floor_and_far_from_the_margin(demo, level):
    result = run(demo.reference(), RunOptions("ort", demo.export, settings={"optimization": level}))
    ratios = [figures["ratio"] for figures in result["noise"]["tensors"].values() if figures["ratio"]]
    assert len(ratios) > 20
    assert np.median(ratios) > 0.1
    assert max(ratios) < result["noise"]["margin"] / 2
