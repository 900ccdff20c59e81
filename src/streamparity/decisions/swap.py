"""Swap triage: parts of one side with parts of the other, to see which of them makes the first flip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from ..decode import Head
from ..dump.manifest import Decoder
from ..errors import StepFailed
from ..runners import SplitTransducer
from .alignment import Difference, first_difference
from .sides import Mixed, Side, decoded, split_of
from .trace import DecisionTrace

Origin = Literal["reference", "candidate"]
ORIGINS: tuple[Origin, Origin] = ("reference", "candidate")


@dataclass(frozen=True)
class Combination:
    """Parts of both sides, decoded by the book.

    Attributes:
        parts: where the encoder frames, predictor and joint (or the whole head) come from.
        ran: whether it could be decoded.
        flip: the first decision that is not the reference's.
        labels: labels of the text.
    """

    parts: dict[str, Origin]
    ran: bool
    flip: Difference | None = None
    labels: tuple[int, ...] = ()

    def foreign(self) -> set[str]:
        """The parts that are the candidate's."""
        return {part for part, origin in self.parts.items() if origin == "candidate"}

    def to_json(self, rules: Decoder) -> dict[str, Any]:
        """A row of the table."""
        flip = None
        if self.flip is not None:
            step = self.flip.step
            flip = {"index": self.flip.index, "chunk": step.chunk, "frame": step.frame, "head": self.flip.head}
        text = rules.text(self.labels) if self.ran else None
        return {**self.parts, "ran": self.ran, "first_flip": flip, "text": text}


def swap(reference: Side, candidate: Side, expected: DecisionTrace, rules: Decoder) -> list[Combination]:
    """Decode every combination of the parts that both sides offer.

    Predictor and joint are told apart where both sides' can be; else they are one part, ``predictor+joint``; CTC has an
    encoder and a ``ctc_decoder``.

    Args:
        reference: the reference's frames, and its head where it can be run.
        candidate: the same of the candidate.
        expected: the reference's own decisions.
        rules: the right rules.
    """
    width = next((frames.shape[1] for frames in reference.frames or () if frames.size), 0)
    heads: dict[Origin, Head | None] = {"reference": reference.head, "candidate": candidate.head}
    apart = {origin: split_of(head, width) for origin, head in heads.items()}
    if rules.kind != "ctc" and None not in apart.values():
        parts: Sequence[str] = ("encoder", "predictor", "joint")
    else:
        parts = ("encoder", "ctc_decoder" if rules.kind == "ctc" else "predictor+joint")
    rows = []
    for origins in product(ORIGINS, repeat=len(parts)):
        chosen = dict(zip(parts, origins, strict=True))
        frames = (reference if origins[0] == "reference" else candidate).frames
        head = heads[origins[1]]
        if len(parts) == 3 and origins[1] != origins[2]:
            head = _mixed(apart[origins[1]], apart[origins[2]])
        if frames is None or head is None:
            known = set(origins) == {"reference"}  # that is what the dump holds
            rows.append(Combination(chosen, known, None, tuple(expected.labels) if known else ()))
            continue
        try:
            made, _ = decoded(head, rules, frames)
        except StepFailed:
            rows.append(Combination(chosen, ran=False))
            continue
        rows.append(Combination(chosen, True, first_difference(expected, made), tuple(made.labels)))
    return rows


def _mixed(predictor: SplitTransducer | None, joint: SplitTransducer | None) -> Head | None:
    return None if predictor is None or joint is None else Mixed(predictor, joint)


def culprits(rows: Sequence[Combination], own: Difference | None) -> list[str]:
    """Which parts of the model cause the candidate's first flip, or ``decoding logic``; nothing where it is not clear.

    A part is at fault when it alone, put in the reference's place, makes as early a flip; or when taking it out of the
    candidate takes that flip away.

    Args:
        rows: :func:`swap`.
        own: the first difference of the candidate's own trace.
    """
    if own is None:
        return []
    whole = next((row for row in rows if row.ran and len(row.foreign()) == len(row.parts)), None)
    if whole is not None and not _flips(whole, own):
        return ["decoding logic"]
    ran = [row for row in rows if row.ran]
    alone = [next(iter(row.foreign())) for row in ran if len(row.foreign()) == 1 and _flips(row, own)]
    if alone:
        return sorted(set(alone))
    return sorted(set(_taken_out(ran, own))) if whole is not None else []


def _taken_out(rows: Sequence[Combination], own: Difference) -> Iterator[str]:
    for row in rows:
        replaced = set(row.parts) - row.foreign()
        if len(replaced) == 1 and row.foreign() and not _flips(row, own):
            yield next(iter(replaced))


def _flips(row: Combination, own: Difference) -> bool:
    """Whether a combination parts from the reference no later than the candidate does."""
    return row.flip is not None and row.flip.step.at <= own.step.at
