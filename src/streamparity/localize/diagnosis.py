"""Likely causes: rules over evidence, each with a code, a confidence and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..dump import DumpReader
from ..runners import Runner


def diagnose(comparison: Mapping[str, Any], runner: Runner, reference: DumpReader) -> Iterator[dict[str, Any]]:
    """The cause that the schedule alone explains; telling other causes apart needs more than one run."""
    divergence, manifest = comparison["first_divergence"], reference.manifest
    if divergence is None or divergence["chunk"] != 0 or manifest.schedule != "native" or not runner.bakes_drop:
        return
    frames = int(reference.chunk(0)["in/audio_signal"].shape[2])
    yield {
        "code": "first-chunk-schedule",
        "confidence": 0.9,
        "message": (
            f"NeMo's native first chunk ({frames} frames, nothing dropped) was fed to an export that always drops "
            f"{manifest.streaming.drop_extra_pre_encoded} encoder frames: dump with --schedule padded"
        ),
        "evidence": {
            "schedule": manifest.schedule,
            "first_chunk_frames": frames,
            "drop_extra_pre_encoded": manifest.streaming.drop_extra_pre_encoded,
        },
    }
