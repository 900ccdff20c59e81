"""``make faults``: plant every fault in every model, print what was found and the score.

    python -m tests.faults [--model demo] [--out artifacts/faults.md] [GLOB...]

Exits with 1 where a requirement is not met. Each fault with a strength is planted twice: strong, and at the weakest
setting found at which a label still differs. With ``--effect`` nothing is judged: it says what each fault and each
harmless change does to the port, and from which chunk on.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPO / "scripts"))

from .bench import Bench, demo_bench, regular_bench  # noqa: E402 (they import what lies in scripts/)
from .effect import effect  # noqa: E402
from .fault import Fault, Harmless, Planted  # noqa: E402
from .report import HEAD, Found, change_line, conclude, fault_line  # noqa: E402
from .score import alarm, score, weakest  # noqa: E402
from .sets import SETS, FaultSet  # noqa: E402

TITLE = """# What `make faults` found

Made by `python -m tests.faults --out FILE`, one thread on a CPU; again with `make faults`.

"""
Say = Callable[[str], None]
Work = Iterator[tuple[Bench, FaultSet, list[Fault], list[Harmless]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("globs", nargs="*", help="faults and harmless changes to run; all by default")
    parser.add_argument("--model", choices=("demo", "regular"), help="one model only")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    parser.add_argument("--effect", action="store_true", help="say what each changes, and judge nothing")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    with tempfile.TemporaryDirectory() as folder:
        work = _chosen(Path(folder), options.model, options.globs or ["*"])
        met = _effects(work, say) if options.effect else _scores(work, say)
    if options.out is not None:
        options.out.write_text(TITLE + "\n".join(lines) + "\n", encoding="utf-8")
    return 0 if met else 1


def _chosen(folder: Path, only: str | None, globs: Sequence[str]) -> Work:
    """Of every model and set what is asked for; a model is made when its turn comes."""
    import torch

    torch.set_num_threads(1)
    for name, make in (("demo", demo_bench), ("regular", regular_bench)):
        if only not in (None, name):
            continue
        bench = make(folder)

        def chosen(planted: Fault | Harmless, name: str = name) -> bool:
            return planted.only in (None, name) and any(fnmatchcase(planted.name, glob) for glob in globs)

        for of in SETS:
            yield bench, of, [f for f in of.faults if chosen(f)], [c for c in of.changes if chosen(c)]


def _scores(work: Work, say: Say) -> bool:
    results: list[Found] = []
    for line in HEAD:
        say(line)
    for bench, of, faults, changes in work:
        found = Found(bench.name, of, len(changes))
        results.append(found)
        for fault in faults:
            strengths: list[float | None] = [None]
            if fault.strengths is not None:
                least = weakest(bench, fault)
                strengths += [] if least is None else [least]
            for strength in strengths:
                found.rows.append(score(bench, fault, strength))
                say(fault_line(of.name, found.rows[-1]))
        for change in changes:
            why = alarm(bench, change)
            found.alarms += [change.name] if why else []
            say(change_line(bench.name, of.name, change.name, why))
    say("")
    return conclude(results, say)


def _effects(work: Work, say: Say) -> bool:
    say("| model | set | fault | expected from chunk | changes from chunk | by at most |")
    say("|---|---|---|---|---|---|")

    def measured(bench: Bench, of: FaultSet, name: str, expected: int | str, planted: Planted) -> None:
        first, most = effect(bench, planted)
        say(f"| {bench.name} | {of.name} | {name} | {expected} | {first} | {most:.2g} |")

    for bench, of, faults, changes in work:
        for fault in faults:
            planted = fault.plant(bench, fault.strengths[0] if fault.strengths else 1.0)
            measured(bench, of, fault.name, "(any)" if fault.any_chunk else fault.expected_chunk(bench), planted)
        for change in changes:
            measured(bench, of, f"harmless: {change.name}", "", change.plant(bench))
    return True


if __name__ == "__main__":
    started = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    sys.exit(status)
