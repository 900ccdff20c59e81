"""The script that measures every command at full size: what it counts is what the command used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import full_size

HELD = 300 << 20  # bytes, more than the script itself has
# In a process of its own, as it is used: a child begins with the memory of whoever starts it, and tests have a lot.
MEASURE = """
import json, pathlib, sys
import full_size
steps = [full_size.measured([sys.executable, "-c", code], pathlib.Path("."), "shown") for code in sys.argv[1:]]
print(json.dumps([vars(step) for step in steps]))
"""


def test_memory_and_exit_code_are_those_of_the_command(tmp_path):
    codes = ["print('done')", f"import sys; held = b'x' * {HELD}; sys.exit(3)"]
    environment = {"PYTHONPATH": ":".join([str(Path(full_size.__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *codes], cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE
    )
    idle, busy = json.loads(done.stdout.splitlines()[-1])
    assert (idle["command"], idle["code"], idle["output"]) == ("shown", 0, "done\n")
    assert busy["code"] == 3
    assert HELD / full_size.MEGABYTE < busy["peak_mb"] < 1.5 * HELD / full_size.MEGABYTE
    assert idle["peak_mb"] < busy["peak_mb"] / 2


def test_nothing_follows_a_command_that_fails(tmp_path, monkeypatch):
    lines = [["streamparity", "--version"], ["streamparity", "inspect", "$OUT/none"], ["streamparity", "--version"]]
    monkeypatch.setattr(full_size, "commands", lambda *options: lines)
    steps = full_size.run_all(tmp_path, "name", "70,1", None)
    assert [step.code for step in steps] == [0, 2]
    assert steps[1].command == "streamparity inspect $OUT/none"
    assert str(tmp_path) in steps[1].output
