"""The result on a terminal: a table that a newcomer understands, one tensor at close range, findings, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .detail import detail, subject
from .tables import HEADINGS, findings, headline, rows

WIDTH = 110
PIPE_WIDTH = 240
STYLES = {"pass": "green", "vacuous": "yellow"}


def render(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a result document.

    Args:
        result: a result document.
        console: where to; standard output when not given. A terminal too narrow for it loses the tolerances.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(_table(result, with_tolerance=console.width >= WIDTH))
    looked_at = subject(result)
    for line in detail(looked_at) if looked_at is not None else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in findings(result):
        style = "bold" if line.startswith("first divergence") else None
        console.print(line, markup=False, highlight=False, soft_wrap=True, style=style)
    console.print(headline(result), style="bold green" if result["verdict"] == "pass" else "bold red", highlight=False)


def _table(result: Mapping[str, Any], with_tolerance: bool) -> Table:
    shown = [column for column, name in enumerate(HEADINGS) if with_tolerance or name != "tolerance"]
    table = Table(box=None, pad_edge=False)
    for column in shown:
        text = HEADINGS[column] in ("tensor", "verdict")
        table.add_column(HEADINGS[column], justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows(result):
        cells = [Text(row[column]) for column in shown[:-1]]
        table.add_row(*cells, Text(row[-1], STYLES.get(row[-1], "red")))
    return table
