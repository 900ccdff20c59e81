"""What must hold after every step is checked on every backend, and named where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamparity.invariants import violations
from streamparity.run import RunOptions, run, run_opened
from streamparity.runners import RunnerOptions
from streamparity.runners.ort import OrtRunner
from streamparity.schedule import StreamingConfig, chunks


class ShrinkingRunner(OrtRunner):
    """Says after chunk 2 that its cache holds less than before."""

    def step(self, chunk):
        outputs = super().step(chunk)
        self.done = getattr(self, "done", 0) + 1
        if self.done == 3:
            outputs["out/cache_last_channel_next_len"] = outputs["out/cache_last_channel_next_len"] - 4
        return outputs


class OverlongRunner(OrtRunner):
    """Claims more frames than it returns."""

    def step(self, chunk):
        outputs = super().step(chunk)
        outputs["out/encoded_lengths"] = outputs["out/encoded_lengths"] + 40
        return outputs


class NanRunner(OrtRunner):
    """Puts a NaN where the cache holds nothing yet, which no comparison of valid regions sees."""

    def step(self, chunk):
        outputs = super().step(chunk)
        broken = outputs["out/cache_last_channel_next"].copy()
        broken[0, 0, 0, 0] = np.nan
        outputs["out/cache_last_channel_next"] = broken
        return outputs


def outcome(workshop, runner_class, limit=5):
    reference, model = workshop.reference(), workshop.export() / "encoder.onnx"
    specs = [spec for spec in reference.manifest.tensors if spec.kind in ("output", "cache", "length")]
    runner = runner_class.open(model, RunnerOptions(streaming=reference.manifest.streaming))
    return run_opened(runner, reference, specs, RunOptions(backend="ort", model=model, limit=limit))


@pytest.mark.parametrize(
    ("runner_class", "chunk", "code", "tensor"),
    [
        (ShrinkingRunner, 2, "cache-length", "cache_last_channel_next_len"),
        (OverlongRunner, 0, "encoded-length", "encoded_lengths"),
        (NanRunner, 0, "not-finite", "cache_last_channel_next"),
    ],
)
def test_a_broken_invariant_fails_and_is_named(workshop, runner_class, chunk, code, tensor):
    result = outcome(workshop, runner_class)
    assert result["verdict"] == "fail"
    first = result["invariants"][0]
    assert (first["chunk"], first["code"], first["tensor"]) == (chunk, code, tensor)
    assert f"chunk {chunk}: {first['message']}" in result["objections"]
    assert f"invariant-{code}" in [finding["code"] for finding in result["diagnosis"]]


def test_a_nan_outside_every_valid_region_is_seen_by_nothing_else(workshop):
    result = outcome(workshop, NanRunner, limit=1)
    assert all(tensor["passed"] for tensor in result["tensors"] if tensor["name"] == "cache_last_channel_next")
    assert result["verdict"] == "fail"


def test_sound_models_break_none(workshop):
    for context, schedule, backend, model in (
        ((70, 1), "padded", "ort", workshop.export() / "encoder.onnx"),
        ((70, 6), "padded", "ort", workshop.export((70, 6)) / "encoder.onnx"),
    ):
        result = run(workshop.reference(context, schedule), RunOptions(backend=backend, model=model))
        assert (result["verdict"], result["invariants"]) == ("pass", [])


def test_the_reference_itself_breaks_none_in_either_schedule(workshop):
    for schedule in ("padded", "native"):
        reference = workshop.reference(schedule=schedule)
        manifest = reference.manifest
        plan = chunks(manifest.streaming, int(manifest.audio["feature_frames"]), manifest.schedule)
        for index, planned in enumerate(plan):
            chunk = reference.chunk(index)
            frames, before = chunk["in/audio_signal"].shape[-1], chunk["in/cache_last_channel_len"]
            assert (
                violations(manifest.streaming, index, frames, before, chunk, drop=planned.drop, last=planned.last) == ()
            )


def outputs(encoded, length):
    return {
        "out/outputs": np.zeros((1, 4, 3), np.float32),
        "out/encoded_lengths": np.array([encoded]),
        "out/cache_last_channel_next": np.zeros((1, 2, 256, 4), np.float32),
        "out/cache_last_time_next": np.zeros((1, 2, 4, 4), np.float32),
        "out/cache_last_channel_next_len": np.array([length]),
    }


@pytest.mark.parametrize(
    ("frames", "before", "after", "encoded", "codes"),
    [
        (57, 50, 53, 3, []),
        (57, 50, 49, 3, ["cache-length"]),
        (30, 50, 49, 2, []),  # the last chunk makes 2 frames, of which 3 are kept out of the cache, as NeMo does
        (30, 50, 48, 2, ["cache-length"]),
        (57, 50, 57, 3, []),  # 6 new frames, and one for a graph that rounds otherwise
        (57, 50, 58, 3, ["cache-length"]),  # as many as history and chunk make together: history was counted
        (57, 255, 257, 3, ["cache-length"]),
        (57, 1, -1, 3, ["cache-length"]),
        (57, 50, 53, 4, ["encoded-length"]),
        (57, 50, 53, -1, ["encoded-length"]),
    ],
)
def test_bounds_for_a_model_that_keeps_frames_out_of_its_cache(frames, before, after, encoded, codes):
    config = StreamingConfig((256, -1), "regular", (41, 48), (17, 24), (0, 9), (1, 8), 2, 3, 3, 256, 8)
    found = violations(config, 5, frames, np.array([before]), outputs(encoded, after), drop=2, last=False)
    assert [violation.code for violation in found] == codes


def test_no_more_frames_come_out_than_are_kept_but_at_the_end():
    config = StreamingConfig((256, -1), "regular", (41, 48), (17, 24), (0, 9), (1, 8), 2, 3, 2, 256, 8)
    given = (config, 5, 57, np.array([50]), outputs(3, 53))
    assert [violation.code for violation in violations(*given, drop=2, last=False)] == ["encoded-length"]
    assert violations(*given, drop=2, last=True) == ()
    assert violations(replace(config, valid_out_len=3), *given[1:], drop=2, last=False) == ()
