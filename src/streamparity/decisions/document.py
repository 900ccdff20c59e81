"""Parts of the result document, as docs/trace.md has them."""

from __future__ import annotations

from typing import Any

from ..dump.manifest import Decoder
from .alignment import Difference, compared
from .ties import Judgement
from .trace import DecisionTrace, Step


def counts(expected: DecisionTrace, trace: DecisionTrace, difference: Difference | None) -> dict[str, Any]:
    """``steps`` of the result."""
    whole = expected.whole and trace.whole
    ours = compared(expected, whole)
    return {
        "reference": len(expected.steps),
        "candidate": len(trace.steps),
        "utterances": len(trace.utterances()),
        "compared": "decisions" if whole else "labels",
        "equal": len(ours) if difference is None else difference.index,
    }


def parted(difference: Difference, judgement: Judgement | None, rules: Decoder) -> dict[str, Any]:
    """``first_difference`` of the result."""
    step = difference.step
    return {
        "index": difference.index,
        "utterance": 0 if difference.candidate is None else difference.candidate.utterance,
        "chunk": step.chunk,
        "frame": step.frame,
        "encoder_frame": step.at,
        "head": difference.head,
        "reference": _side(difference.reference, rules),
        "candidate": _side(difference.candidate, rules),
        **({} if judgement is None else judgement.to_json()),
    }


def _side(step: Step | None, rules: Decoder) -> dict[str, Any] | None:
    if step is None:
        return None
    return {
        "label": step.label,
        "piece": piece(step.label, rules),
        "duration": step.duration,
        "chunk": step.chunk,
        "frame": step.frame,
        "step": step.step,
        "top": [{"label": c.value, "piece": piece(c.value, rules), **_score(c.logit, step.lse)} for c in step.top],
        "durations": [{"duration": c.value, **_score(c.logit, step.duration_lse)} for c in step.durations],
        "lse": step.lse,
        "duration_lse": step.duration_lse,
        "state": step.state,
    }


def _score(logit: float | None, lse: float | None) -> dict[str, float | None]:
    """A score as the head gave it, and as a log-probability of its head, in which both sides can be compared."""
    return {"logit": logit, "log_prob": None if logit is None or lse is None else logit - lse}


def piece(label: int, rules: Decoder) -> str:
    """How a label is spelt."""
    if label == rules.blank_id:
        return "blank"
    return rules.vocabulary[label] if label < len(rules.vocabulary) else f"<{label}>"
