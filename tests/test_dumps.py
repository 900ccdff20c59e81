"""Dumps written by other programs: read when sound, refused in two lines when not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from streamparity import compare
from streamparity.dump import DumpReader
from streamparity.errors import StreamparityError

# The example in the documentation is the dump that is tested here.
PAGE = Path(__file__).parent.parent / "docs" / "dump.md"
EXAMPLE = json.loads(PAGE.read_text(encoding="utf-8").split("```json\n")[1].split("```")[0])
STREAMING, TENSORS = EXAMPLE["streaming"], EXAMPLE["tensors"]


def write(folder, **changes):
    """A minimal dump of three chunks, as a C++ program would write it."""
    (folder / "chunks").mkdir(parents=True)
    (folder / "dump.json").write_text(json.dumps({**EXAMPLE, **changes}))
    rng = np.random.default_rng(0)
    for index in range(3):
        tensors = {
            "out/outputs": rng.normal(size=(1, 4, 2)).astype(np.float32),
            "out/encoded_lengths": np.array([1], np.int64),
        }
        save_file(tensors, folder / "chunks" / f"{index:06d}.safetensors")
    trace = [{"chunk": 0, "label": 0}, {"chunk": 1, "label": 2}, {"chunk": 2, "label": 1}]
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trace))
    return folder


@pytest.fixture
def dump(tmp_path):
    return write(tmp_path / "dump")


def test_a_dump_from_another_program_is_read_and_compared(dump, tmp_path):
    result = compare(dump, shutil.copytree(dump, tmp_path / "copy"))
    assert result["verdict"] == "pass"
    assert result["chunks"] == {"total": 3, "compared": 3, "passed": 3}
    assert result["tokens"]["reference_text"] == "ab"


def test_other_tokens_or_fewer_chunks_or_a_missing_port_fail(dump, tmp_path):
    other = write(tmp_path / "other", tokens=[0, 0])
    assert compare(dump, other)["tokens"]["first_difference"] == {"position": 1, "reference": 1, "candidate": 0}
    assert compare(dump, other)["verdict"] == "fail"
    short = write(tmp_path / "short", chunks=2)
    (short / "chunks" / "000002.safetensors").unlink()
    assert "2 of 3 chunks were compared" in compare(dump, short)["objections"]
    lacking = write(tmp_path / "lacking", tensors=TENSORS[1:])
    for path in (lacking / "chunks").iterdir():
        save_file({"out/encoded_lengths": np.array([1], np.int64)}, path)
    assert compare(dump, lacking)["coverage"]["unmatched"] == ["outputs"]
    assert compare(dump, lacking)["verdict"] == "fail"


def test_dumps_of_other_audio_or_model_are_compared_but_said_so(dump, tmp_path):
    other = write(tmp_path / "other", model={"id": "n", "sha256": "ef"}, audio={"sha256": "01", "feature_frames": 48})
    assert compare(dump, other)["notes"] == ["the dumps are of different models", "the dumps are of different audio"]
    assert compare(dump, dump)["notes"] == []


def test_a_candidate_cannot_take_its_ports_out_of_the_comparison(dump, tmp_path):
    other = write(tmp_path / "other", scope=[])
    chunk = other / "chunks" / "000001.safetensors"
    save_file({"out/outputs": np.zeros((1, 4, 2), np.float32), "out/encoded_lengths": np.array([1], np.int64)}, chunk)
    assert compare(dump, other)["first_divergence"]["tensor"] == "outputs"


def changed(index, **fields):
    return [{**spec, **fields} if position == index else spec for position, spec in enumerate(TENSORS)]


RULE = TENSORS[0]["valid"]
MALFORMED = {
    "no schema": ({"schema": None}, "has schema None"),
    "other schedule": ({"streaming": {**STREAMING, "schedule": "lazy"}}, "does not follow"),
    "no chunk size": ({"streaming": {"schedule": "padded"}}, "does not follow"),
    "keep neither first nor last": ({"tensors": changed(0, valid={**RULE, "keep": "left"})}, "does not follow"),
    "rule over no axis": ({"tensors": changed(0, valid={**RULE, "axis": "Z"})}, "does not follow"),
    "name without prefix": ({"tensors": changed(0, name="outputs")}, "does not follow"),
    "count that is not there": ({"tensors": changed(0, valid={**RULE, "count": "out/none"})}, "does not fit"),
    "too few axes": ({"tensors": changed(0, axes=["B", "T'"])}, "does not fit"),
    "chunks missing": ({"chunks": 7}, "but 3 are there"),
    "malformed run": ({"requested_chunks": "many"}, "something malformed"),
    "malformed failure": ({"failed_step": {"chunk": 1}}, "something malformed"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_dumps_are_refused(tmp_path, name):
    changes, expected = MALFORMED[name]
    bad = write(tmp_path / "bad", **changes)
    with pytest.raises(StreamparityError, match=expected) as refused:
        compare(bad, bad)
    assert refused.value.hint


@pytest.mark.parametrize("line", ["not json", '{"chunk": 0}', "[1]", '{"chunk": "x", "label": 1}'])
def test_malformed_traces_are_refused(dump, line):
    (dump / "trace.jsonl").write_text(line + "\n")
    with pytest.raises(StreamparityError, match="line 1 is no decoding step"):
        DumpReader(dump).trace()
