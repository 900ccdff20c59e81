"""What a broken invariant says to whoever looks for the cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..invariants import Violation
from .finding import Finding

# A broken invariant is a symptom: any cause that a rule has evidence for comes before it.
SYMPTOM = 0.3
FIXES = {
    "encoded-length": "look at how the lengths are worked out, and at how many frames the step drops",
    "cache-length": "return the length that the cache has after this step, and feed it back unchanged",
    "not-finite": "look for the first module whose tap is not finite: --taps, --localize",
}


def findings_of(broken: Sequence[Violation]) -> list[dict[str, Any]]:
    """Entries of the result's ``diagnosis``, one for each kind of invariant that was broken."""
    codes = dict.fromkeys(violation.code for violation in broken)
    findings = []
    for code in codes:
        these = [violation for violation in broken if violation.code == code]
        findings.append(
            Finding(
                f"invariant-{code}",
                SYMPTOM,
                f"chunk {these[0].chunk}: {these[0].message}",
                FIXES[code],
                {"chunks": [violation.chunk for violation in these], "tensors": sorted({v.tensor for v in these})},
            ).to_json()
        )
    return findings
