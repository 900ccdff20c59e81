"""``make faults``: plant every fault in every model, print what was found and the score.

    python -m tests.faults [--model demo] [--out artifacts/faults.md] [GLOB...]

Exits with 1 where a requirement is not met. Each fault with a strength is planted twice: strong, and at the weakest
setting found at which a label still differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts"))

from . import further_faults, graph_faults, harmless, loop_faults  # noqa: E402 (they import what lies in scripts/)
from .bench import demo_bench, regular_bench  # noqa: E402
from .score import Row, run_planted, score, weakest  # noqa: E402

TITLE = """# What `make faults` found

Made by `python -m tests.faults --out FILE`, one thread on a CPU; again with `make faults`.

"""
REQUIRED = {"detection": 1.0, "chunk": 1.0, "module": 0.95, "diagnosis": 0.9}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("globs", nargs="*", help="faults and harmless changes to run; all by default")
    parser.add_argument("--model", choices=("demo", "regular"), help="one model only")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as folder:
        met = _run(Path(folder), options.model, options.globs or ["*"], say)
    if options.out is not None:
        options.out.write_text(TITLE + "\n".join(lines) + "\n", encoding="utf-8")
    return 0 if met else 1


def _run(folder: Path, only: str | None, globs: Sequence[str], say: Callable[[str], None]) -> bool:
    import torch

    torch.set_num_threads(1)

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs)

    rows: list[Row] = []
    alarms: list[str] = []
    changes = 0
    say("| model | fault | strength | chunk | module | diagnosis | found instead | s |")
    say("|---|---|---|---|---|---|---|---|")
    for name, make in (("demo", demo_bench), ("regular", regular_bench)):
        if only not in (None, name):
            continue
        bench = make(folder)
        for fault in [*graph_faults.FAULTS, *loop_faults.FAULTS, *further_faults.FAULTS]:
            if fault.only not in (None, name) or not wanted(fault.name):
                continue
            strengths: list[float | None] = [None]
            if fault.strengths is not None:
                least = weakest(bench, fault)
                strengths += [] if least is None else [least]
            for strength in strengths:
                rows.append(score(bench, fault, strength))
                say(_line(rows[-1]))
        for change in harmless.CHANGES:
            if change.only in (None, name) and wanted(change.name):
                changes += 1
                result = run_planted(bench, change.plant(bench))
                passed = result["verdict"] == "pass" and not result["diagnosis"]
                alarms += [] if passed else [f"{name}: {change.name}"]
                why = "" if passed else f"{result['objections']} {[d['code'] for d in result['diagnosis']]}"
                say(f"| {name} | harmless: {change.name} | | | | {'pass' if passed else 'ALARM'} | {why} | |")
    say("")
    return _conclude(rows, alarms, changes, say)


def _line(row: Row) -> str:
    wrong = []
    if not row.detected:
        wrong.append("not detected")
    if not row.chunk_right:
        wrong.append(f"chunk {row.chunk[1]}")
    if not row.module_right:
        wrong.append(f"module {row.module[1]}")
    if not row.code_right:
        wrong.append(f"{row.code[1]}")
    strength = "" if row.strength is None else f"{row.strength:.2g}"
    found = row.module[1] if row.module_right else row.module[0]
    return (
        f"| {row.bench} | {row.fault} | {strength} | {row.chunk[0]} | {found} | {row.code[0]} "
        f"| {'; '.join(wrong)} | {row.seconds:.1f} |"
    )


def _conclude(rows: Sequence[Row], alarms: Sequence[str], changes: int, say: Callable[[str], None]) -> bool:
    met = not alarms
    for bench in dict.fromkeys(row.bench for row in rows):
        mine = [row for row in rows if row.bench == bench]
        right = {
            "detection": [row.detected for row in mine],
            "chunk": [row.chunk_right for row in mine],
            "module": [row.module_right for row in mine],
            "diagnosis": [row.code_right for row in mine],
        }
        shares = {what: sum(flags) / len(flags) for what, flags in right.items()}
        met &= all(shares[what] >= least for what, least in REQUIRED.items())
        figures = ", ".join(f"{what} {sum(flags)}/{len(flags)} ({shares[what]:.1%})" for what, flags in right.items())
        slowest = max(row.seconds for row in mine)
        faults = len({row.fault for row in mine})
        say(f"{bench}: {faults} faults, {len(mine)} plantings: {figures}; slowest {slowest:.1f} s")
    say(f"harmless: {changes} changes, {len(alarms)} false alarms{': ' + ', '.join(alarms) if alarms else ''}")
    wanted = ", ".join(f"{what} >= {least:.0%}" for what, least in REQUIRED.items())
    say(f"requirements {'met' if met else 'NOT met'}: {wanted}, no alarm")
    return met


if __name__ == "__main__":
    started = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    sys.exit(status)
