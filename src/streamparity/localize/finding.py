"""One likely cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A cause, how sure it is, on what evidence, and what to do.

    Attributes:
        code: from the list in docs/diagnosis.md.
        confidence: 0 to 1: near 1 the evidence leaves no other cause, at a half it is the likeliest.
        message: one sentence for the user.
        fix: what to do.
        evidence: figures and names, JSON.
    """

    code: str
    confidence: float
    message: str
    fix: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """An entry of the result's ``diagnosis``."""
        return {
            "code": self.code,
            "confidence": round(self.confidence, 3),
            "message": self.message,
            "fix": self.fix,
            "evidence": dict(self.evidence),
        }
