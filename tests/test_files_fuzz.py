"""Damaged files of every format: read within bounds or refused in two lines, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz_readers
from streamparity.dump.files import READERS, UNKNOWN
from streamparity.dump.stored import StoredTensor

SEEDS = {seed.name: seed for seed in fuzz_readers.seeds()}
SCRIPT = Path(fuzz_readers.__file__)
MOST_MEMORY = 64 * 2**20
relaxed = settings(
    max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def test_every_format_has_a_whole_file_to_damage(tmp_path):
    covered = {seed.suffix for seed in SEEDS.values()} | {".pth"}
    assert covered >= set(READERS) - ({".pt"} if "torch" not in SEEDS else set())
    assert {fuzz_readers.check(seed, seed.content, tmp_path) for seed in SEEDS.values()} == {"read"}


@pytest.mark.parametrize("name", SEEDS)
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    seed = SEEDS[name]
    lengths = range(len(seed.content))
    ends = {at + 1 for at, byte in enumerate(seed.content) if byte == ord("\n")}
    # What is whole though shorter: fewer elements of an unknown extent, fewer chunks, fewer lines or no line break.
    whole = {
        "raw": {96},
        "raw, one unknown": set(lengths[::4]),
        "ggml": {128},
        "jsonl": (ends | {end - 1 for end in ends}) & set(lengths),
    }
    read = {length for length in lengths if fuzz_readers.check(seed, seed.content[:length], tmp_path) == "read"}
    assert read == whole.get(name, set())


@pytest.mark.parametrize("name", SEEDS)
@relaxed
@given(rng=st.randoms(use_true_random=False, note_method_calls=False))
def test_damage_is_read_within_bounds_or_refused(tmp_path, name, rng):
    seed = SEEDS[name]
    content = fuzz_readers.mutate(seed.content, rng)
    tracemalloc.start()
    try:
        fuzz_readers.check(seed, content, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its memory by what /proc says is mapped")
def test_thousands_of_damaged_files_in_little_memory():
    """In a process of its own: what libraries allocate outside of Python's sight, and crashes, show there."""
    command = [sys.executable, str(SCRIPT), "--count", "8000", "--start", "1000000", "--spare-mib", "128"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert done.stdout.startswith("8000 files: ")


@pytest.mark.parametrize("fault", ["a traceback", "too many bytes", "three lines"])
def test_the_fuzzer_sees_a_reader_that_is_wrong(tmp_path, monkeypatch, fault):
    """Without this, a check that never fails would look like readers that never do."""
    seed = SEEDS["npy"]

    def broken(path: Path, state: object) -> dict[str, list[np.ndarray]]:
        if fault == "a traceback":
            raise KeyError("shape")
        if fault == "three lines":
            raise fuzz_readers.StreamparityError("one\ntwo", "three")
        return {"value": [np.zeros(2**23)]}

    monkeypatch.setitem(READERS, ".npy", broken)
    with pytest.raises((AssertionError, KeyError)):
        fuzz_readers.check(seed, seed.content, tmp_path)


def test_the_fuzzer_reads_what_readers_describe(tmp_path, monkeypatch):
    seed = SEEDS["npy"]
    read = READERS[".npy"]

    def beyond(path: Path, state: object) -> dict[str, list[StoredTensor]]:
        (stored,) = read(path, state)["value"]
        return {"value": [StoredTensor(path, stored.offset + 1, stored.shape, stored.dtype, stored.state)]}

    assert fuzz_readers.check(seed, seed.content, tmp_path) == "read"
    assert seed.raw == UNKNOWN
    monkeypatch.setitem(READERS, ".npy", beyond)
    assert "changed while it was read" in fuzz_readers.check(seed, seed.content, tmp_path)
