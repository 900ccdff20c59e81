"""The script that measures every command at full size: what it counts is what the command used."""

from __future__ import annotations

import sys

import full_size

HELD = 300 << 20  # bytes, more than the process that runs the tests has


def test_memory_and_exit_code_are_those_of_the_command(tmp_path):
    idle = full_size.measured([sys.executable, "-c", "print('done')"], tmp_path, "idle")
    assert (idle.command, idle.code, idle.output) == ("idle", 0, "done\n")
    hungry = f"import sys; held = bytes(b'x') * {HELD}; sys.exit(3)"
    busy = full_size.measured([sys.executable, "-c", hungry], tmp_path, "busy")
    assert busy.code == 3
    assert HELD / full_size.MEGABYTE < busy.peak_mb < 1.5 * HELD / full_size.MEGABYTE
    assert idle.peak_mb < busy.peak_mb


def test_nothing_follows_a_command_that_fails(tmp_path, monkeypatch):
    lines = [["streamparity", "--version"], ["streamparity", "inspect", "$OUT/none"], ["streamparity", "--version"]]
    monkeypatch.setattr(full_size, "commands", lambda *options: lines)
    steps = full_size.run_all(tmp_path, "name", "70,1", None)
    assert [step.code for step in steps] == [0, 2]
    assert steps[1].command == "streamparity inspect $OUT/none"
    assert str(tmp_path) in steps[1].output
