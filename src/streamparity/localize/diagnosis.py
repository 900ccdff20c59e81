"""Likely causes: what the rules say of a case, the surest first."""

from __future__ import annotations

from typing import Any

from .case import Case
from .rules import RULES
from .rules.driver import first_chunk_schedule


def diagnose(case: Case) -> list[dict[str, Any]]:
    """Every cause that evidence speaks for, the likeliest first, each code once."""
    best: dict[str, Any] = {}
    for rule in RULES:
        for finding in rule(case):
            if finding.code not in best or finding.confidence > best[finding.code].confidence:
                best[finding.code] = finding
    # Sorting is stable: of two equally sure, the earlier rule's comes first.
    return [finding.to_json() for finding in sorted(best.values(), key=lambda finding: -finding.confidence)]


def schedule_alone(case: Case) -> list[dict[str, Any]]:
    """What can be said without running the model again: the cause that the schedule explains."""
    return [finding.to_json() for finding in first_chunk_schedule(case)]
