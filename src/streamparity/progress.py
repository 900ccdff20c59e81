"""How long work tells its caller what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # chunks done, chunks in all
Note = Callable[[str], None]  # a line that the user should see


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def no_note(line: str) -> None:
    """Say nothing."""
