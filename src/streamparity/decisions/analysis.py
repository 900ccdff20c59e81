"""``streamparity trace``: two sides' decisions, from the first difference to its cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..comparison import TolerancePolicy
from ..comparison.tolerance import Tolerance
from ..decode import arithmetic_of
from ..dump.manifest import Decoder
from ..dump.noise_floor import NoiseFloor
from ..dump.trace import decide, log_probabilities
from ..errors import StepFailed
from ..localize.finding import Finding
from ..tensors import Array
from .alignment import Difference, first_difference
from .document import counts, parted
from .robustness import robustness
from .sides import Frames, Recorded, Side, decoded_so_far, forced
from .simulation import Explained, by_the_book, simulate
from .swap import culprits, swap
from .symptoms import CONCLUDED, histogram, symptoms, together
from .ties import Judge, Judgement
from .trace import DecisionTrace, Step
from .transcripts import transcripts

SCHEMA = "streamparity.trace-result/1"


@dataclass(frozen=True)
class Question:
    """What is to be compared.

    Attributes:
        rules: the reference's decoding rules.
        recorded: its dump.
        reference_head: its predictor and joint or CTC head, where it can be run.
        candidate: the candidate's frames and head, as far as they are known.
        trace: the candidate's own decisions; ``None``: what its head makes of its frames by the book.
        floor: what arithmetic alone costs.
        arithmetic: dtype in which the candidate's encoder computes, where it is known.
        offline: transcript of the whole recording at once.
    """

    rules: Decoder
    recorded: Recorded
    reference_head: Any = None
    candidate: Side = field(default_factory=Side)
    trace: DecisionTrace | None = None
    floor: NoiseFloor | None = None
    arithmetic: str | None = None
    offline: str | None = None


def analyse(question: Question) -> dict[str, Any]:
    """Compare, judge and explain.

    Returns:
        The part of the result document that is about decisions (docs/trace.md).
    """
    q, skipped = question, list[str]()
    expected = q.recorded.trace
    trace, failure = (q.trace, None) if q.trace is not None else _own_trace(q)
    utterances = trace.utterances() or [trace]
    found = [first_difference(expected, utterance) for utterance in utterances]
    difference = next((d for d in found if d is not None), None)
    own = _along(q, q.candidate.frames, skipped)
    swapped = _along(q, q.recorded.frames, [])
    policy = TolerancePolicy(arithmetic=q.arithmetic, head=arithmetic_of(q.candidate.head), floor=q.floor)
    judge = Judge(q.rules, q.recorded, policy, q.candidate.frames, own, swapped)
    judgement = None if difference is None else judge.judge(difference)
    rest = _forced(judge, expected.steps, own, q.rules)
    right, findings = _diagnosis(q, trace, difference, judge.tolerance)
    rows = swap(Side(q.recorded.frames, q.reference_head), q.candidate, expected, q.rules)
    if q.reference_head is None and q.candidate.head is not None:
        skipped.append("swap triage without the reference's head: pass --reference-model")
    spoken, why = transcripts(
        {
            "reference": q.rules.text(expected.labels),
            "candidate": q.rules.text(utterances[0].labels),
            "offline": q.offline,
        }
    )
    skipped += [] if why is None else [why]
    objections = _not_finite(q.recorded, own, trace)
    objections += _objections(difference, judgement, rest, found, trace, right)
    if failure is not None:
        objections.append(f"the candidate cannot decode: {failure.message}")
    head = q.reference_head if q.reference_head is not None else q.candidate.head
    known = q.recorded.rows
    strength = None
    try:
        if known is not None:
            strength = robustness(head, q.rules, q.recorded.frames, expected.steps, known, q.floor)
    except StepFailed as error:
        skipped.append(f"robustness: {error.message}")
    return {
        "schema": SCHEMA,
        "verdict": "fail" if objections else "pass",
        "objections": objections,
        "decoder": {"kind": q.rules.kind, "blank_id": q.rules.blank_id, "max_symbols": q.rules.max_symbols},
        "steps": counts(expected, trace, difference),
        "first_difference": None if difference is None else parted(difference, judgement, q.rules),
        "forced": rest,
        "swap": {
            "rows": [row.to_json(q.rules) for row in rows],
            "cause": culprits(rows, difference),
        },
        "robustness": strength,
        "durations": None
        if not q.rules.durations
        else {"reference": histogram(expected), "candidate": histogram(trace)},
        "joint_softmaxed_together": {"reference": together(expected), "candidate": together(trace)}
        if q.rules.durations
        else None,
        "transcripts": spoken,
        "diagnosis": [finding.to_json() for finding in findings],
        "skipped": skipped,
    }


def _own_trace(q: Question) -> tuple[DecisionTrace, StepFailed | None]:
    """What the candidate's head makes of its frames, as far as it can."""
    assert q.candidate.head is not None
    assert q.candidate.frames is not None
    made, _, failure = decoded_so_far(q.candidate.head, q.rules, q.candidate.frames)
    return made, failure


def _along(q: Question, frames: Frames | None, skipped: list[str]) -> list[Array] | None:
    """The candidate's scores along the reference's decisions, on ``frames``."""
    if q.candidate.head is None or frames is None:
        skipped.append("scores along the reference's decisions, and near ties by the encoder's error: pass the model")
        return None
    try:
        rows = [row for row, _ in forced(q.candidate.head, q.rules, frames, q.recorded.trace.steps)]
    except (StepFailed, IndexError) as error:
        skipped.append(f"scores along the reference's decisions: {type(error).__name__} {error}")
        return None
    return [log_probabilities(row[None], q.rules)[0] for row in rows]


def _forced(judge: Judge, steps: Sequence[Step], own: Sequence[Array] | None, rules: Decoder) -> dict[str, Any] | None:
    """What the candidate decides at every decision of the reference, given the reference's history."""
    if own is None:
        return None
    ties, flips, first = 0, 0, None
    for index, (step, row) in enumerate(zip(steps, own, strict=True)):
        label, duration = decide(rules, row)
        if (label, duration) == (step.label, step.duration):
            continue
        # Its scores are the row's, not those of the reference's step.
        chosen = replace(step, label=label, duration=duration, top=(), durations=(), lse=None, duration_lse=None)
        head: Any = "label" if label != step.label else "duration"
        judged = judge.judge(Difference(index, head, step, chosen))
        ties, flips = ties + (judged.kind == "near-tie"), flips + (judged.kind != "near-tie")
        if judged.kind != "near-tie" and first is None:
            first = {"index": index, "chunk": step.chunk, "frame": step.frame, "head": head}
    return {"decisions": len(own), "near_ties": ties, "flips": flips, "first_flip": first}


def _diagnosis(
    q: Question, trace: DecisionTrace, difference: Difference | None, tolerance: Tolerance
) -> tuple[Explained | None, list[Finding]]:
    """Faults of the loop around the model, the surest first, one of a code.

    Returns:
        How much of the candidate's trace its own model makes by the rules, ``None`` where that cannot be told or the
        trace is the reference's; and the faults.
    """
    findings, right = list(symptoms(q.recorded.trace, trace, q.rules)), None
    head = q.candidate.head if q.candidate.head is not None else q.reference_head
    frames = q.candidate.frames if q.candidate.frames is not None else q.recorded.frames
    own = q.candidate.frames is not None
    if difference is not None and q.trace is not None and head is not None:
        right = by_the_book(head, q.rules, frames, q.trace, tolerance)
        if q.rules.kind != "ctc":
            tried, refuted = simulate(head, q.rules, frames, q.trace, tolerance, right, own)  # type: ignore[arg-type]
            if own and q.candidate.head is not None:
                findings = [finding for finding in findings if finding.code not in refuted & CONCLUDED]
            findings += tried
    surest: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda finding: -finding.confidence):
        surest.setdefault(finding.code, finding)
    return right if own and q.candidate.head is not None else None, list(surest.values())


def _objections(
    difference: Difference | None,
    judgement: Judgement | None,
    rest: dict[str, Any] | None,
    found: Sequence[Difference | None],
    trace: DecisionTrace,
    right: Explained | None,
) -> list[str]:
    """Every reason why it is not a pass."""
    objections = []
    if not trace.steps:
        objections.append("the candidate made no decision")
    if difference is not None and judgement is not None and judgement.kind != "near-tie":
        where = f"chunk {difference.step.chunk}, frame {difference.step.frame}"
        objections.append(f"the decisions part at {where}: {judgement.reason}")
    elif difference is not None and rest is None:
        objections.append("nothing is known of what follows the near tie: pass the model with --backend and --model")
    if right is not None and not right.all:
        objections.append(
            "logic: decoded by the rules, the same model on the same frames makes the first "
            f"{right.steps} decisions of the candidate's trace and then others"
        )
    if rest is not None and rest["flips"]:
        objections.append(f"along the reference's decisions the candidate flips {rest['flips']} of {rest['decisions']}")
    if len(found) > 1 and len({None if d is None else d.index for d in found}) > 1:
        objections.append("decodings of the same recording are not alike")
    return objections


def _not_finite(reference: Recorded, own: Sequence[Array] | None, trace: DecisionTrace) -> list[str]:
    """Decisions that were made of no numbers: the same on both sides, they would look alike."""
    bad = {
        "reference": sum(not _is_scored(step) for step in reference.trace.steps),
        "candidate": sum(not _is_scored(step) for step in trace.steps),
        "candidate's model, along the reference's decisions,": sum(bool(np.isnan(row).any()) for row in own or ()),
    }
    if reference.rows is not None:
        bad["reference"] = max(bad["reference"], sum(bool(np.isnan(row).any()) for row in reference.rows))
    return [
        f"the {side} makes {count} decisions of scores that are not numbers" for side, count in bad.items() if count
    ]


def _is_scored(step: Step) -> bool:
    """Whether a step that lists its best labels has a number for any of them."""
    return not step.top or step.lse is not None or any(choice.logit is not None for choice in step.top)
