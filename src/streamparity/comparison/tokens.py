"""Decoded labels on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..dump import DumpReader
from ..dump.trace import emitted


def reference_tokens(reference: DumpReader, chunks: int) -> list[int] | None:
    """Labels that the reference emitted in its first ``chunks`` chunks; ``None`` where the dump does not say."""
    manifest = reference.manifest
    if manifest.tokens is not None and chunks >= reference.chunk_count:
        return list(manifest.tokens)
    steps = reference.trace()
    if manifest.decoder is None or not steps:
        return None
    return emitted([step for step in steps if step["chunk"] < chunks], manifest.decoder)


def compare_tokens(reference: DumpReader, candidate: Sequence[int] | None, chunks: int) -> dict[str, Any] | None:
    """The result's ``tokens`` object, ``None`` where a side decoded nothing; ``near_tie`` is open where they differ.

    Args:
        reference: the dump.
        candidate: labels the candidate emitted, or ``None`` if it had no decoder.
        chunks: how many chunks the candidate ran.
    """
    decoder = reference.manifest.decoder
    if chunks == 0 or candidate is None or decoder is None:
        return None
    expected, actual = reference_tokens(reference, chunks), list(candidate)
    if expected is None:
        return None
    difference = None
    if expected != actual:
        shared = min(len(expected), len(actual))
        position = next((i for i in range(shared) if expected[i] != actual[i]), shared)
        difference = {
            "position": position,
            "reference": expected[position] if position < len(expected) else None,
            "candidate": actual[position] if position < len(actual) else None,
        }
    return {
        "equal": expected == actual,
        "reference_text": decoder.text(expected),
        "candidate_text": decoder.text(actual),
        "first_difference": difference,
        "near_tie": False if expected == actual else None,
    }
