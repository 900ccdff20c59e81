"""Features that a live stream cannot have."""

from __future__ import annotations

from typing import Any

from ..schedule import WHOLE_UTTERANCE
from .finding import Finding


def normalisation_findings(normalize: Any) -> list[Finding]:
    """A warning for a ``normalize`` setting of NeMo's preprocessor that needs the end of the utterance."""
    if normalize not in WHOLE_UTTERANCE:
        return []
    return [
        Finding(
            "whole-utterance-normalization",
            "warning",
            "features are normalised over the whole utterance, which a live stream does not have",
            {"normalize": normalize},
            "expect live features to differ from those of a whole recording, or take a model with normalize: NA",
        )
    ]
