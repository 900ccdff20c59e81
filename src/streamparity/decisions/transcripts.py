"""Transcripts, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def transcripts(texts: Mapping[str, str | None]) -> tuple[dict[str, Any], str | None]:
    """Word and character error rates of the candidate, against the reference and against the offline transcript.

    Args:
        texts: ``candidate``, ``reference`` and ``offline``, ``None`` where there is none.

    Returns:
        An object of the result, and why there are no rates where there are none.
    """
    document: dict[str, Any] = {f"{name}_text": text for name, text in texts.items()}
    try:
        import jiwer
    except ImportError:
        return {**document, "error_rates": None}, "error rates: jiwer is missing (pip install 'streamparity[wer]')"
    pairs = {
        "candidate_to_reference": ("reference", "candidate"),
        "candidate_to_offline": ("offline", "candidate"),
        "reference_to_offline": ("offline", "reference"),
    }
    rates: dict[str, Any] = {}
    for name, (truth, other) in pairs.items():
        wanted, made = texts.get(truth), texts.get(other)
        # A rate over no words is no rate.
        if wanted and wanted.strip() and made is not None:
            words = jiwer.process_words(wanted, made)
            rates[name] = {
                "wer": words.wer,
                "cer": jiwer.cer(wanted, made),
                "words": len(wanted.split()),
                "substitutions": words.substitutions,
                "insertions": words.insertions,
                "deletions": words.deletions,
            }
    return {**document, "error_rates": rates}, None
