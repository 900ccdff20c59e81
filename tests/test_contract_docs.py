"""The C++ of docs/contract.md, compiled, against the schedule."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from streamparity.contract import Contract
from streamparity.contract.derive import frame_grid
from streamparity.schedule import steps

ROOT = Path(__file__).parents[1]
MAIN = r"""
int main(int, char** v) {
  Contract c{std::atol(v[1]), std::atol(v[2]), std::atol(v[3]), std::atol(v[4]), std::atol(v[5]), std::atol(v[6])};
  long samples = 0;
  while (std::scanf("%ld", &samples) == 1) {
    Step s;
    for (long i = 0; step(c, i, samples, true, s); ++i)
      std::printf("%ld:%ld:%ld:%ld:%ld:%ld:%ld ", s.first, s.stop, s.zeros, s.history, s.sample, s.sample_stop, s.skip);
    std::printf("\n");
  }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    page = (ROOT / "docs" / "contract.md").read_text()
    shown = page.partition("```cpp\n")[2].partition("```")[0]
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "step.cpp").write_text("#include <algorithm>\n#include <cstdio>\n#include <cstdlib>\n" + shown + MAIN)
    subprocess.run([compiler, "-o", folder / "step", folder / "step.cpp"], check=True)
    return folder / "step"


@pytest.mark.parametrize("name", ["nemotron-speech-streaming-en-0.6b", "parakeet-tdt-0.6b-v3"])
def test_the_program_shown_cuts_audio_as_the_schedule_does(program, name):
    contract = Contract.read(ROOT / "contracts" / f"{name}.json")
    grid, compared = frame_grid(contract.features), 0
    lengths = np.random.default_rng(1).integers(1, 5 * grid.sample_rate, 100).tolist()
    for context in contract.contexts:
        config = context.streaming
        sizes = [pair[1] for pair in (config.chunk_size, config.shift_size, config.pre_encode_cache_size)]
        numbers = [*sizes, config.sampling_frames[1], grid.hop, grid.window]
        told = subprocess.run(
            [program, *map(str, numbers)],
            input="\n".join(map(str, lengths)),
            text=True,
            capture_output=True,
            check=True,
        )
        for line, samples in zip(told.stdout.splitlines(), lengths, strict=True):
            ours = [
                (
                    *(step.chunk.start, step.chunk.stop, step.chunk.zeros, step.chunk.start - step.chunk.history),
                    *(step.audio.start, step.audio.stop, step.audio.skip),
                )
                for step in steps(config, contract.encoder.subsampling, grid, samples, "padded")
            ]
            assert [tuple(map(int, each.split(":"))) for each in line.split()] == ours
            compared += len(ours)
    assert compared > 1000
