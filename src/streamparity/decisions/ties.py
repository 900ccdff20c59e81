"""Near tie or flip: could a right port have decided otherwise here?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..comparison import TolerancePolicy
from ..comparison.tolerance import FLOAT32, Tolerance
from ..dump.decoder import CTC_HEAD, JOINT
from ..dump.manifest import Decoder
from ..tensors import Array
from .alignment import Difference
from .sides import Frames, Recorded
from .trace import Choice, Step


@dataclass(frozen=True)
class Judgement:
    """What a difference is.

    Attributes:
        kind: ``near-tie``; ``flip``: a head of the model decided otherwise, by more than that; ``logic``: the loop
            around the model did.
        reason: one sentence.
        reference_margin: by how much the reference scores its own choice above the candidate's.
        candidate_margin: by how much the candidate scores its own above the reference's: as its trace says where that
            has scores, else as its model does. Neither may be past what is permitted.
        explained: by how much the difference between the two encoder frames alone moves the two scores against each
            other, measured on the candidate's own head; ``None`` where that cannot be run.
        allowed: by how much the head's own arithmetic may move them: twice the tolerance of its scores.
        encoder_max_abs: largest difference of the two encoder frames.
        encoder_ok: whether every value of the frame is within its tolerance.
    """

    kind: Literal["near-tie", "flip", "logic"]
    reason: str
    reference_margin: float | None = None
    candidate_margin: float | None = None
    explained: float | None = None
    allowed: float | None = None
    encoder_max_abs: float | None = None
    encoder_ok: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """An object of the result."""
        return asdict(self)


@dataclass(frozen=True)
class Judge:
    """Judges differences from what is known of both sides.

    Attributes:
        rules: kind, blank, durations.
        reference: the reference, whole.
        policy: tolerances; by the noise floor where the dump has one.
        frames: the candidate's encoder frames.
        own: per-head log-probabilities of the candidate's head on its own frames along the reference's decisions.
        swapped: the same on the reference's frames.
    """

    rules: Decoder
    reference: Recorded
    policy: TolerancePolicy
    frames: Frames | None = None
    own: Sequence[Array] | None = None
    swapped: Sequence[Array] | None = None

    @property
    def tolerance(self) -> Tolerance:
        """Of one score of the candidate's head."""
        return self.policy.of_the_head(CTC_HEAD if self.rules.kind == "ctc" else JOINT)

    def judge(self, difference: Difference) -> Judgement:
        """Say what the first difference is."""
        if not difference.of_the_model or difference.reference is None or difference.candidate is None:
            return Judgement("logic", _LOGIC[difference.head])
        index = self._index(difference.reference)
        if index is None or difference.reference.at != difference.candidate.at:
            return Judgement("flip", "the label comes on another frame; the traces do not say what was scored there")
        places = self._places(difference)
        ours = self._margin(None if self.reference.rows is None else self.reference.rows[index], places)
        if ours is None:
            ours = _margin_of(difference.reference, difference.head, difference.candidate)
        theirs = _margin_of(difference.candidate, difference.head, difference.reference)
        of_the_model = self._margin(None if self.own is None else self.own[index], places[::-1])
        return self._weigh(index, places, ours, theirs, of_the_model)

    def _weigh(
        self, index: int, places: tuple[int, int], ours: float | None, written: float | None, run: float | None
    ) -> Judgement:
        """From the reference's margin, the candidate's as its trace has it, and as its model has it."""
        theirs = run if written is None else written
        explained = self._explained(index, places)
        off, within = self._encoder(self.reference.trace.steps[index])
        tolerance = self.tolerance
        scores = [choice.logit for choice in self.reference.trace.steps[index].top if choice.logit is not None]
        allowed = 2 * (tolerance.atol + tolerance.rtol * max(map(abs, scores), default=0.0))
        bound = allowed + (explained or 0.0)
        figures = (ours, theirs, explained, allowed, off, within)
        if ours is None or theirs is None:
            return Judgement("flip", "the traces do not hold the scores of both choices, so no tie is proved", *figures)
        widest = max(abs(margin) for margin in (ours, written, run) if margin is not None)
        if within is False:
            by = "of another size" if off is None else f"off by {off:.1e}, past its tolerance"
            return Judgement("flip", f"the encoder frame is {by}", *figures)
        if widest > bound:
            return Judgement(
                "flip",
                f"the choices are {widest:.1e} apart, and encoder and arithmetic explain {bound:.1e} only",
                *figures,
            )
        return Judgement(
            "near-tie", f"the choices are {widest:.1e} apart, and {bound:.1e} is explained by permitted error", *figures
        )

    def _index(self, step: Step) -> int | None:
        """Place of a step in the reference's whole trace."""
        steps = self.reference.trace.steps
        return next((place for place, own in enumerate(steps) if own is step), None)

    def _places(self, difference: Difference) -> tuple[int, int]:
        """Where the reference's and the candidate's choice are in a row of scores."""
        assert difference.reference is not None
        assert difference.candidate is not None
        if difference.head == "label":
            return difference.reference.label, difference.candidate.label
        durations, offset = self.rules.durations, self.rules.labels
        sides = (difference.reference.duration, difference.candidate.duration)
        known = [offset + durations.index(side) if side in durations else -1 for side in sides]
        return known[0], known[1]

    def _margin(self, row: Array | None, places: tuple[int, int]) -> float | None:
        if row is None or min(places) < 0 or not np.isfinite(row[list(places)]).all():
            return None
        return float(row[places[0]]) - float(row[places[1]])

    def _explained(self, index: int, places: tuple[int, int]) -> float | None:
        if self.own is None or self.swapped is None:
            return None
        mine, theirs = self._margin(self.own[index], places), self._margin(self.swapped[index], places)
        return None if mine is None or theirs is None else abs(mine - theirs)

    def _encoder(self, step: Step) -> tuple[float | None, bool | None]:
        if self.frames is None:
            return None, None
        expected = self.reference.frames[step.chunk][step.frame].astype(np.float64)
        if step.chunk >= len(self.frames) or step.frame >= len(self.frames[step.chunk]):
            return None, False
        if self.frames[step.chunk][step.frame].shape != expected.shape:
            return None, False
        error = np.abs(self.frames[step.chunk][step.frame].astype(np.float64) - expected)
        tolerance = self.policy.tolerance("outputs", FLOAT32, FLOAT32)
        return float(error.max()), bool((error <= tolerance.atol + tolerance.rtol * np.abs(expected)).all())


_LOGIC = {
    "advance": "the model decided alike, and the loop went on to another frame",
    "collapse": "the model decided alike, and one side emits the label and the other does not",
    "end": "one side makes a decision more than the other",
}


def _margin_of(step: Step, head: str, other: Step) -> float | None:
    """Margin of a step's own choice over the other side's, from its two best; at least that over the second."""
    choices: tuple[Choice, ...] = step.top if head == "label" else step.durations
    own, wanted = (step.label, other.label) if head == "label" else (step.duration, other.duration)
    scores = {choice.value: choice.logit for choice in choices}
    best = scores.get(own) if own is not None else None
    rest = [logit for value, logit in scores.items() if value != own and logit is not None]
    against = scores.get(wanted) if wanted is not None else None
    if against is None and rest:
        against = max(rest)
    return None if best is None or against is None else best - against
