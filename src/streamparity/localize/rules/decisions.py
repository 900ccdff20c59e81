"""What is decoded: ties, outputs that carry nothing, and dependence on other streams."""

from __future__ import annotations

from collections.abc import Iterator

from ...dump.decoder import JOINT
from ..case import Case
from ..finding import Finding

FEWEST_LABELS = 4


def near_tie(case: Case) -> Iterator[Finding]:
    """All is right but where the reference itself could hardly choose: labels differ, or come in another frame.

    From a choice that goes the other way the predictor and the joint are called otherwise, and their tensors diverge;
    by themselves, given what the reference's were, they are right.
    """
    if case.tokens is None or not case.tokens["near_tie"]:
        return
    parting = case.tokens["parting"]
    decoder = {spec.label for spec in case.specs if spec.kind == "decoder"}
    if case.divergence is not None:
        follows = case.divergence["tensor"] in decoder and case.chunk >= parting["chunk"]
        if not follows or case.introduced is not None or JOINT not in case.replayed:
            return
    yield Finding(
        "near-tie-only",
        0.95,
        f"labels {parting['reference']} and {parting['candidate']} are {parting['margin']:.1e} apart in chunk "
        f"{parting['chunk']}, and the port, whose scores are off by {parting['error']:.1e}, takes the other",
        "nothing is wrong with the port: compare word error rates rather than labels",
        parting,
    )


def degenerate(case: Case) -> Iterator[Finding]:
    """Outputs that never change, or one label for ever."""
    if case.divergence is None:
        return
    seen = case.observation
    fix = "look at the first diverging tensor: what follows a constant is constant"
    if len(seen.lengths) > 1 and seen.output_spread == 0:
        sure = 0.95 if case.introduced in (None, "outputs") else 0.9
        yield Finding("degenerate-output", sure, "the encoder's output is the same in every frame", fix, {"spread": 0})
    elif seen.joint_spread is not None and seen.joint_spread == 0 and len(seen.lengths) > 1:
        sure = 0.95 if case.introduced == JOINT else 0.9
        yield Finding("degenerate-output", sure, "the joint scores every frame alike", fix, {"spread": 0})
    elif case.tokens is not None and not case.tokens["equal"]:
        words, right = case.tokens["candidate_text"].split(), case.tokens["reference_text"].split()
        if len(right) >= FEWEST_LABELS and len(set(words)) <= 1 and len(words) != 1:
            what = "nothing" if not words else f"{words[0]!r} for ever"
            yield Finding("degenerate-output", 0.6, f"the candidate decodes {what}", fix, {"words": words[:8]})


def batch(case: Case) -> Iterator[Finding]:
    """A stream whose result depends on what else is in the batch."""
    if case.divergence is not None or case.batch_error is None or case.batch_error[1].ratio <= 1:
        return
    label, error = case.batch_error
    yield Finding(
        "batch-dependence",
        0.95,
        f"{label} of a stream changes by {error.max_abs:.1e} when another stream shares its batch",
        "normalise and mask every stream by its own length",
        {"tensor": label, "max_abs": error.max_abs},
    )
