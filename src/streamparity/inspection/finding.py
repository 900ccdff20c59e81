"""What is wrong with a file, in a form that people and scripts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..schedule import Schedule

SCHEMA = "streamparity.inspect/1"
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
InspectedBackend = Literal["ort", "trt"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that one should know.

    Attributes:
        code: stable name; ``docs/inspect.md`` has them all.
        severity: an ``error`` cannot work, a ``warning`` may not do what is expected of it, ``info`` is good to know.
        message: one line.
        evidence: what was seen, values that JSON can hold.
        fix: what to do, one line.
    """

    code: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any]
    fix: str

    def to_json(self) -> dict[str, Any]:
        """As in the document."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "evidence": dict(self.evidence),
            "fix": self.fix,
        }


@dataclass(frozen=True)
class InspectOptions:
    """What a file is held against; ``None`` takes what the contract beside it says.

    Attributes:
        att_context: attention context ``(left, right)`` that was asked for, in encoder frames.
        schedule: how the stream will be cut.
        backend: backend that must be able to run the graph.
    """

    att_context: tuple[int, ...] | None = None
    schedule: Schedule | None = None
    backend: InspectedBackend | None = None


@dataclass(frozen=True)
class Report:
    """What there is to say of one file.

    Attributes:
        kind: ``onnx``, ``nemo``, ``engine`` or ``dump``.
        can_stream: whether it can be streamed with, as far as can be told.
        ports: name, direction, and dtype and shape or axes.
        findings: what is wrong, in the order in which it was looked for.
        summary: what else there is to say.
    """

    kind: str
    can_stream: bool
    ports: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding]
    summary: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A document of schema ``streamparity.inspect/1``, the gravest findings first."""
        ordered = sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "can_stream": self.can_stream,
            "ports": [dict(port) for port in self.ports],
            "findings": [finding.to_json() for finding in ordered],
            "summary": dict(self.summary),
        }


def has_error(findings: Sequence[Finding]) -> bool:
    """Whether one of them is an error."""
    return any(finding.severity == "error" for finding in findings)
