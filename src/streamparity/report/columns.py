"""Rows of text under headings, aligned, for terminals and pipes alike."""

from __future__ import annotations

from collections.abc import Sequence


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """One line for the headings and one per row, every column as wide as its widest cell, aligned right."""
    widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]
