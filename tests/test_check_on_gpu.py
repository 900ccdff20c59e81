"""``scripts/check_on_gpu.sh`` keeps all evidence whatever fails: its order and exit codes, with stand-in programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_on_gpu.sh"
PYTHON = """#!/usr/bin/env bash
case "$1" in
    -) echo '{"runtime": "tensorrt_rtx"}' > "$2" ;;
    -c) echo tensorrt_rtx ;;
    -m) echo pytest >> "$CALLS"; echo "what the tests said"; exit ${PYTEST_CODE:-0} ;;
esac
"""
STREAMPARITY = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
while [ $# -gt 0 ]; do
    if [ "$1" = --json ]; then echo '{}' > "$2"; fi
    case "$1" in run) code=${RUN_CODE:-0} ;; inspect) code=${INSPECT_CODE:-0} ;; esac
    shift
done
exit ${code:-0}
"""


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({}, 0),
        ({"PYTEST_CODE": "1"}, 1),
        ({"INSPECT_CODE": "1"}, 1),
        ({"RUN_CODE": "1"}, 0),  # a verdict is a finding
        ({"RUN_CODE": "2", "PYTEST_CODE": "1"}, 2),
    ],
    ids=["all well", "a test fails", "inspect finds", "a verdict", "a run that cannot be made"],
)
def test_all_evidence_is_kept_and_the_worst_code_comes_last(tmp_path, codes, expected):
    for name, text in (("python", PYTHON), ("streamparity", STREAMPARITY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    out, calls = tmp_path / "out", tmp_path / "calls"
    given = {**os.environ, "BIN": str(tmp_path), "OUT": str(out), "CALLS": str(calls), **codes}
    done = subprocess.run(["bash", str(SCRIPT)], env=given, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    kept = {path.name for path in out.iterdir()}
    assert kept >= {"fp32.json", "tf32.json", "fp16.json", "fp16-cuda-graph.json", "built-for-sm80.json"}
    assert kept >= {"inspect-fp32.json", "inspect-tf32.json", "inspect-fp16.json", "gpu-tests.log", "exit-codes.txt"}
    assert "what the tests said" in (out / "gpu-tests.log").read_text()
    assert calls.read_text().splitlines()[-1] == "pytest"
