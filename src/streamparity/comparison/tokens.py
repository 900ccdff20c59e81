"""Decoded labels on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..dump import DumpReader
from ..dump.trace import emitted
from .comparator import Replay
from .parting import first_parting
from .tolerance import TolerancePolicy


def reference_tokens(reference: DumpReader, chunks: int) -> list[int] | None:
    """Labels that the reference emitted in its first ``chunks`` chunks; ``None`` where the dump does not say."""
    manifest = reference.manifest
    if manifest.tokens is not None and chunks >= reference.chunk_count:
        return list(manifest.tokens)
    steps = reference.trace()
    if manifest.decoder is None or not steps:
        return None
    return emitted([step for step in steps if step["chunk"] < chunks], manifest.decoder)


def compare_tokens(
    reference: DumpReader,
    candidate: Sequence[int] | None,
    chunks: int,
    comparison: Mapping[str, Any],
    replay: Replay,
    policy: TolerancePolicy,
) -> dict[str, Any] | None:
    """The result's ``tokens`` object, ``None`` where a side decoded nothing.

    Args:
        reference: the dump.
        candidate: labels the candidate emitted, or ``None`` if it had no decoder.
        chunks: how many chunks the candidate ran.
        comparison: the comparison's part of the result.
        replay: gives the chunks again; asked only where something differs.
        policy: tolerances.
    """
    decoder = reference.manifest.decoder
    if chunks == 0 or candidate is None or decoder is None or decoder.kind not in ("rnnt", "tdt"):
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
    differs = expected != actual or comparison["verdict"] != "pass"
    parting = first_parting(replay(), decoder, policy) if differs else None
    return {
        "equal": expected == actual,
        "reference_text": decoder.text(expected),
        "candidate_text": decoder.text(actual),
        "first_difference": difference,
        # Labels that differ without a decision that does: there were no scores to judge by.
        "near_tie": None if parting is None and expected != actual else parting is not None and parting.within,
        "parting": None if parting is None else parting.to_json(),
    }
