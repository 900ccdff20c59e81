"""Likely causes: what the rules say of a case, the surest first."""

from __future__ import annotations

from typing import Any

from ..errors import StreamparityError, first_line
from .case import Case
from .finding import Finding
from .rules import RULES
from .rules.driver import first_chunk_schedule

UNEXPLAINED = Finding(
    "unexplained",
    0.1,
    "something is wrong and no rule explains it",
    "begin where the localization points, with the reproduction that --repro writes",
)


def diagnose(case: Case) -> tuple[list[dict[str, Any]], list[str]]:
    """Every cause that evidence speaks for, the likeliest first, each code once; and what went wrong on the way.

    A model may be broken in ways that a rule never thought of: then the rule has nothing to say, and the others do.
    """
    best: dict[str, Finding] = {}
    remarks = []
    for rule in RULES:
        try:
            for finding in rule(case):
                if finding.code not in best or finding.confidence > best[finding.code].confidence:
                    best[finding.code] = finding
        except StreamparityError:  # the dump is at fault, not the model
            raise
        except Exception as error:
            remarks.append(f"the rule {rule.__name__} broke: {type(error).__name__} {first_line(error)}")
    if not best and case.divergence is not None:
        best[UNEXPLAINED.code] = UNEXPLAINED
    # Sorting is stable: of two equally sure, the earlier rule's comes first.
    return [finding.to_json() for finding in sorted(best.values(), key=lambda finding: -finding.confidence)], remarks


def schedule_alone(case: Case) -> list[dict[str, Any]]:
    """What can be said without running the model again: the cause that the schedule explains."""
    return [finding.to_json() for finding in first_chunk_schedule(case)]
