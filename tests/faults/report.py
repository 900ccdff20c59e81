"""The table and the score that ``make faults`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .score import Row
from .sets import FaultSet

REQUIRED = {"detection": 1.0, "chunk": 1.0, "module": 0.95, "diagnosis": 0.9}
SECONDS = 20  # that a localization in the demo model may take on two cores: said, and no part of the exit status
HEAD = (
    "| model | set | fault | strength | chunk | module | diagnosis | found instead | s |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass
class Found:
    """What came of one set in one model.

    Attributes:
        bench: the model.
        of: the set.
        changes: how many harmless changes there were.
        rows: of the faults.
        alarms: harmless changes that were taken for faults.
    """

    bench: str
    of: FaultSet
    changes: int
    rows: list[Row] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)


def fault_line(name: str, row: Row) -> str:
    """A row of the table: what was expected, closer where what was found lies inside it, and what was found instead."""
    wrong = row.wrong
    found = {"detection": "not detected", "chunk": f"chunk {row.chunk}", "module": f"module {row.module}"}
    instead = "; ".join(found.get(what, f"{row.code}") for what in wrong)
    strength = "" if row.strength is None else f"{row.strength:.2g}"
    chunk = "(any)" if row.fault.any_chunk else row.expected_chunk
    module = " or ".join(row.expected_modules) if "module" in wrong else row.module or ""
    codes = " or ".join(row.fault.codes) or f"(none fits; said {row.code})"
    return (
        f"| {row.bench} | {name} | {row.fault.name} | {strength} | {chunk} | {module} | {codes} "
        f"| {instead} | {row.seconds:.1f} |"
    )


def change_line(bench: str, name: str, change: str, why: str) -> str:
    return f"| {bench} | {name} | harmless: {change} | | | | {'ALARM' if why else 'pass'} | {why} | |"


def conclude(found: Sequence[Found], say: Callable[[str], None]) -> bool:
    """Say the score of every set in every model, and whether both sets of each model together meet what is required."""
    met = not any(part.alarms for part in found)
    for bench in dict.fromkeys(part.bench for part in found if part.rows):
        mine = [part for part in found if part.bench == bench and part.rows]
        for part in mine:
            say(f"{bench}, {part.of.about}: {_figures(part.rows)}")
        rows = [row for part in mine for row in part.rows]
        say(f"{bench}, all together: {_figures(rows)}")
        met &= all(right / asked >= REQUIRED[what] for what, (right, asked) in _right(rows).items())
        slowest = max(rows, key=lambda row: row.seconds)
        limit = f"; under {SECONDS} s wanted on two cores" if bench == "demo" else ""
        say(f"{bench}, slowest: {slowest.seconds:.1f} s ({slowest.fault.name}){limit}")
    for name in dict.fromkeys(part.of.name for part in found):
        mine = [part for part in found if part.of.name == name]
        alarms = [f"{part.bench}: {alarm}" for part in mine for alarm in part.alarms]
        called = f": {', '.join(alarms)}" if alarms else ""
        changes = sum(part.changes for part in mine)
        say(f"harmless, {mine[0].of.about}: {changes} changes, {len(alarms)} false alarms{called}")
    wanted = ", ".join(f"{what} >= {least:.0%}" for what, least in REQUIRED.items())
    say(f"requirements {'met' if met else 'NOT met'}: in each model, all together, {wanted}; no alarm")
    return met


def _right(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """How many answers are right, of how many that can be."""
    flags = {what: [row.verdicts[what] for row in rows if what in row.verdicts] for what in REQUIRED}
    return {what: (sum(those), len(those)) for what, those in flags.items() if those}


def _figures(rows: Sequence[Row]) -> str:
    faults = len({row.fault.name for row in rows})
    shares = (f"{what} {right}/{asked} ({right / asked:.1%})" for what, (right, asked) in _right(rows).items())
    return f"{faults} faults, {len(rows)} plantings: {', '.join(shares)}"
