"""A dump: whose, how long, whole or cut off."""

from __future__ import annotations

from pathlib import Path

from ..dump import DumpReader
from .finding import Finding, Report


def inspect_dump(path: Path) -> Report:
    """Describe a dump by its manifest and the chunks that are there.

    Raises:
        StreamparityError: it does not follow its schema.
    """
    reader = DumpReader(path)
    manifest = reader.manifest
    findings = []
    if not manifest.complete:
        findings.append(
            Finding(
                "incomplete-dump",
                "warning",
                f"the dump was cut off after {reader.chunk_count} whole chunks",
                {"chunks": reader.chunk_count},
                "run the same `streamparity dump` with --resume",
            )
        )
    summary = {
        "model": manifest.model["id"],
        "model_sha256": manifest.model["sha256"],
        "att_context_size": list(manifest.streaming.att_context_size),
        "schedule": manifest.schedule,
        "chunks": reader.chunk_count,
        "seconds": manifest.audio.get("seconds"),
        "text": manifest.text,
    }
    ports = [{"direction": spec.name.split("/")[0], **spec.to_json()} for spec in manifest.tensors]
    return Report("dump", True, ports, findings, summary)
