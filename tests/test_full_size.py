"""The script that measures every command at full size: what it counts is what the command used."""

from __future__ import annotations

import sys

import full_size

MEGABYTES = 200


def test_memory_and_exit_code_are_those_of_the_command(tmp_path):
    idle = full_size.measured([sys.executable, "-c", "print('done')"], tmp_path, "idle")
    assert (idle.command, idle.code, idle.output) == ("idle", 0, "done\n")
    hungry = f"import sys; held = bytes(1) * ({MEGABYTES} << 20); sys.exit(3)"
    busy = full_size.measured([sys.executable, "-c", hungry], tmp_path, "busy")
    assert busy.code == 3
    assert MEGABYTES < busy.peak_mb - idle.peak_mb < 1.5 * MEGABYTES


def test_nothing_follows_a_command_that_fails(tmp_path, monkeypatch):
    lines = [["streamparity", "--version"], ["streamparity", "inspect", "$OUT/none"], ["streamparity", "--version"]]
    monkeypatch.setattr(full_size, "commands", lambda *options: lines)
    steps = full_size.run_all(tmp_path, "name", "70,1", None)
    assert [step.code for step in steps] == [0, 2]
    assert steps[1].command == "streamparity inspect $OUT/none"
    assert str(tmp_path) in steps[1].output
