"""Errors that a user can act on: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class StreamparityError(Exception):
    """Bad input or usage. The command line prints both lines and exits with ``exit_code``.

    Args:
        message: one line saying what is wrong.
        hint: one line saying what to do.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BackendMissing(StreamparityError):
    """A backend, library or device that the command needs is not there."""

    exit_code = 3


class Stateless(StreamparityError):
    """The model under test has no caches to feed back: it cannot stream."""


class StepFailed(Exception):
    """The model under test could not run a chunk: a divergence, not bad usage.

    Args:
        message: the backend's own words.
        module: NeMo module path of the graph node that failed, where the backend names one.
    """

    def __init__(self, message: str, module: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.module = module


def first_line(error: BaseException) -> str:
    """The first line of somebody else's exception, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def first_of(problems: Sequence[str]) -> str:
    """The first of several problems, and how many more there are."""
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
