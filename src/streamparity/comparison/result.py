"""The result document, schema ``streamparity.result/1`` (docs/result.md)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ..provenance import host, versions

SCHEMA = "streamparity.result/1"


def build(
    comparison: Mapping[str, Any],
    *,
    mode: str,
    backend: str | None,
    model_sha256: str | None,
    reference_sha256: str | None,
    started: datetime,
    candidate_sha256: str | None = None,
    math: Mapping[str, Any] | None = None,
    threads: int | None = None,
    tokens: Mapping[str, Any] | None = None,
    timing: Mapping[str, Any] | None = None,
    localization: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    noise: Mapping[str, Any] | None = None,
    invariants: tuple[Mapping[str, Any], ...] = (),
    diagnosis: tuple[Mapping[str, Any], ...] = (),
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Put a finished comparison into the result document.

    ``model_sha256`` is that of the NeMo model that the model under test came from, ``candidate_sha256`` that of the
    file under test, ``reference_sha256`` that of the reference's ``dump.json``; ``None`` where there is none to tell.
    Unequal tokens make the verdict ``fail`` whatever the tensors say.
    """
    objections = list(comparison["objections"])
    if tokens is not None and not tokens["equal"]:
        objections.append("the decoded tokens differ")
    return {
        "schema": SCHEMA,
        "verdict": "fail" if objections else "pass",
        "objections": objections,
        "mode": mode,
        "backend": backend,
        "provenance": {
            "command": sys.argv,
            "versions": versions(),
            "model_sha256": model_sha256,
            "candidate_sha256": candidate_sha256,
            "reference_sha256": reference_sha256,
            "host": host(),
            "threads": threads,
            "math": dict(math or {"tf32": None}),
            "started": started.astimezone(timezone.utc).isoformat(timespec="seconds"),
        },
        "chunks": comparison["chunks"],
        "coverage": comparison["coverage"],
        "tensors": comparison["tensors"],
        "first_divergence": comparison["first_divergence"],
        "localization": as_json(localization),
        "state": as_json(state),
        "noise": as_json(noise),
        "invariants": [dict(violation) for violation in invariants],
        "diagnosis": [as_json(finding) for finding in diagnosis],
        "tokens": None if tokens is None else dict(tokens),
        "timing": None if timing is None else dict(timing),
        "notes": list(notes),
    }


def as_json(value: Any) -> Any:
    """The same as JSON has it: no numpy, and ``None`` for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, np.generic | np.ndarray):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value
