"""Lines up two streams of tensors, chunk by chunk, and decides.

Knows nothing of NeMo or runners: a stream is a mapping of arrays per chunk, described by :class:`TensorSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import family
from ..dump.stored import IN_MEMORY, StoredView, Tensor
from ..tensors import Origin, TensorSpec, integer_tensors, valid_regions
from . import plain, shapes
from .engine import Loops, Region
from .percentiles import KEPT
from .statistics import PERCENTILES, Statistics
from .tolerance import TolerancePolicy

ANY_FLOAT = np.dtype(np.float32)
SEARCH_ROOM = 64 << 20  # bytes of tables that one pass for percentiles may take
Replay = Callable[[], Iterable[tuple[int, Mapping[str, Tensor], Mapping[str, Tensor]]]]


class Judgement(NamedTuple):
    """What became of one tensor.

    Attributes:
        failed_chunk: the earliest chunk past tolerance or not comparable.
        error: why numbers alone do not tell.
        vacuous: it could not have failed: nothing compared, or both sides one constant. Integers are compared exactly.
    """

    failed_chunk: int | None
    error: str | None
    vacuous: bool

    @property
    def passed(self) -> bool:
        """Compared, not vacuous, and within tolerance everywhere."""
        return self.failed_chunk is None and not self.vacuous


@dataclass
class TensorComparison:
    """One tensor over the chunks seen so far.

    Attributes:
        order: place in forward order.
        mismatch: why the two sides could not be compared number by number (shape, dtype), with its chunk.
        missing: the first chunk that one side alone has.
    """

    spec: TensorSpec
    order: int
    statistics: Statistics | None = None
    mismatch: tuple[int, str] | None = None
    missing: int | None = None

    @property
    def seen(self) -> bool:
        """Whether the two sides met at all; a tensor that never did is unmatched."""
        return self.statistics is not None or self.mismatch is not None

    def judge(self) -> Judgement:
        """The verdict on a tensor that was seen."""
        problems = [] if self.mismatch is None else [self.mismatch]
        if self.missing is not None:
            problems.append((self.missing, "only one side has it in this chunk"))
        statistics = self.statistics
        if problems:
            chunk, problem = min(problems)
            past = chunk if statistics is None else statistics.first_failed_chunk
            return Judgement(chunk if past is None else min(chunk, past), problem, vacuous=False)
        if statistics is None:
            return Judgement(None, None, vacuous=True)
        if statistics.first_failed_chunk is not None:
            return Judgement(statistics.first_failed_chunk, statistics.not_finite, vacuous=False)
        constant = statistics.constant and statistics.tolerance.source != "exact"
        return Judgement(None, None, vacuous=statistics.elements == 0 or constant)


@dataclass
class Comparator:
    """Accumulates the comparison of a candidate with a reference.

    Attributes:
        specs: what is to be compared, in forward order.
        total_chunks: how many chunks there should be.
        policy: tolerances.
        allow_unmatched: globs over tap names that the candidate may lack.
        percentiles: percentages to report.
        worst: how many of a tensor's largest errors to show with their neighbours.
        overlap: where one side is longer along one axis, compare what both have.
        overlapping: tensors of which only a part was compared for that reason, with the first two shapes.
        loops: the inner loops to use.
        unmatched: tensors that one side lacks, with the reason.
        failed_step: chunk, module or ``None``, and message of a step that the candidate could not run.
    """

    specs: Sequence[TensorSpec]
    total_chunks: int
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    allow_unmatched: Sequence[str] = ()
    percentiles: Sequence[float] = PERCENTILES
    worst: int = 0
    overlap: bool = False
    loops: Loops = plain
    unmatched: dict[str, str] = field(default_factory=dict)
    overlapping: dict[str, str] = field(default_factory=dict)
    failed_step: tuple[int, str | None, str] | None = None
    compared_chunks: int = 0
    passed_chunks: int = 0

    def __post_init__(self) -> None:
        self.tensors = [TensorComparison(spec, order) for order, spec in enumerate(self.specs)]

    def add(self, chunk: int, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]) -> bool:
        """Compare one chunk; whether all of it is within tolerance. Valid regions are the reference's."""
        counts = integer_tensors(reference)
        passed, met = True, False
        for tensor in self.tensors:
            name = tensor.spec.name
            if name in reference and name in candidate:
                met = True
                passed &= self._compare(tensor, chunk, reference[name], candidate[name], counts)
            elif (name in reference) != (name in candidate) and tensor.spec.kind != "input":
                tensor.missing = chunk if tensor.missing is None else tensor.missing
                passed &= tensor.spec.label in self.unmatched or self._may_lack(tensor.spec)
        self.compared_chunks += 1
        self.passed_chunks += passed and met
        return passed and met

    def fail_step(self, chunk: int, message: str, module: str | None) -> None:
        """Record that the candidate could not run ``chunk``; nothing can follow it."""
        self.failed_step = (chunk, module, message)

    def _compare(
        self, tensor: TensorComparison, chunk: int, reference: Tensor, candidate: Tensor, counts: Mapping[str, Tensor]
    ) -> bool:
        if tensor.mismatch is not None:
            return False
        tolerance = self.policy.tolerance(tensor.spec.label, reference.dtype, candidate.dtype)
        regions, problem = None, _dtype_problem(reference, candidate)
        if problem is None:
            regions = self._regions(tensor.spec, reference, candidate, counts)
            problem = None if regions else shapes.explain(reference, candidate, tolerance, self.loops)
        if regions is None or problem is not None:
            tensor.mismatch = (chunk, problem or "")
            return False
        if self.overlap and reference.shape != candidate.shape:
            self.overlapping.setdefault(tensor.spec.label, f"{list(reference.shape)} and {list(candidate.shape)}")
        if tensor.statistics is None:
            tensor.statistics = Statistics(tolerance, self.loops, self.percentiles, self.worst)
        return tensor.statistics.add(chunk, regions, tolerance)

    def _regions(
        self, spec: TensorSpec, reference: Tensor, candidate: Tensor, counts: Mapping[str, Tensor]
    ) -> list[Region] | None:
        """What is to be compared of a pair; ``None`` where their shapes do not fit."""
        origins = valid_regions(spec, reference.shape, counts)
        if not self.overlap or reference.shape == candidate.shape:
            if not _fits(spec, reference, candidate, origins):
                return None
            return [(_part(reference, origin), _part(candidate, origin), origin) for origin in origins]
        if shapes.longer_axis(reference.shape, candidate.shape) is None:
            return None
        last = spec.valid is not None and spec.valid.keep == "last"
        return [
            shapes.overlap(_part(reference, ours), _part(candidate, theirs), ours, last)
            for ours, theirs in zip(origins, valid_regions(spec, candidate.shape, counts), strict=True)
        ]

    def _resolve(self, replay: Replay) -> None:
        """Go over the chunks again, as often as percentiles need it."""
        while waiting := [t for t in self.tensors if t.statistics is not None and t.statistics.unresolved]:
            room, looking = SEARCH_ROOM, []
            for tensor in waiting:
                if room > 0 and tensor.statistics is not None:
                    room -= tensor.statistics.begin_pass(KEPT // len(waiting))
                    looking.append(tensor)
            for chunk, reference, candidate in replay():
                counts = integer_tensors(reference)
                for tensor in looking:
                    name = tensor.spec.name
                    past = tensor.mismatch is not None and chunk >= tensor.mismatch[0]
                    if name in reference and name in candidate and tensor.statistics is not None and not past:
                        regions = self._regions(tensor.spec, reference[name], candidate[name], counts)
                        tensor.statistics.revisit(regions or ())
            for tensor in looking:
                if tensor.statistics is not None:
                    tensor.statistics.end_pass()

    def _may_lack(self, spec: TensorSpec) -> bool:
        return not spec.is_port and any(fnmatchcase(spec.label, glob) for glob in self.allow_unmatched)

    def mark_unmatched(self, reasons: Mapping[str, str]) -> None:
        """Name tensors (by label) that the candidate lacks, with reasons; the rest is found by absence."""
        self.unmatched.update(reasons)

    def finish(self, replay: Replay | None = None) -> dict[str, Any]:
        """The comparison's part of the result (docs/result.md): verdict, chunks, coverage, tensors, divergence.

        Args:
            replay: gives the chunks again, as they were added. Without it the percentiles of tensors with more errors
                than are held in memory are ``None``.
        """
        if replay is not None:
            self._resolve(replay)
        for tensor in self.tensors:
            if not tensor.seen and tensor.spec.kind != "input" and self.compared_chunks:
                self.unmatched.setdefault(tensor.spec.label, "the candidate does not have it")
        met = [(tensor, tensor.judge()) for tensor in self.tensors if tensor.seen]
        objections = self._objections(met)
        return {
            "verdict": "fail" if objections else "pass",
            "objections": objections,
            "chunks": {
                "total": self.total_chunks,
                "compared": self.compared_chunks,
                "passed": self.passed_chunks,
            },
            "coverage": {
                "compared": sum(tensor.statistics is not None and not judged.vacuous for tensor, judged in met),
                "unmatched": sorted(self.unmatched),
                "unmatched_reasons": dict(sorted(self.unmatched.items())),
                "vacuous": [tensor.spec.label for tensor, judged in met if judged.vacuous],
            },
            "tensors": [self._tensor_json(*each) for each in met],
            "first_divergence": self._first_divergence(met),
        }

    def _objections(self, met: Sequence[tuple[TensorComparison, Judgement]]) -> list[str]:
        """Every reason why this is not a pass, one line each."""
        objections = []
        if self.failed_step is not None:
            objections.append(f"chunk {self.failed_step[0]}: the candidate could not run it")
        elif self.compared_chunks < self.total_chunks:
            objections.append(f"{self.compared_chunks} of {self.total_chunks} chunks were compared")
        failed = [judged for _, judged in met if judged.failed_chunk is not None]
        past = sum(judged.error is None for judged in failed)
        if past:
            objections.append(f"{past} tensor{'s are' if past > 1 else ' is'} past tolerance")
        if len(failed) > past:
            other = len(failed) - past
            objections.append(f"{other} tensor{'s are' if other > 1 else ' is'} not comparable, or not finite")
        for label in sorted(self.unmatched):
            if not any(spec.label == label and self._may_lack(spec) for spec in self.specs):
                objections.append(f"{label} is unmatched: {self.unmatched[label]}")
        for tensor, judged in met:
            if judged.vacuous and tensor.spec.is_port:
                objections.append(f"{tensor.spec.label} is vacuous: empty, or one same value throughout on both sides")
        if not objections and not any(judged.passed for _, judged in met):
            objections.append("nothing was compared")
        return objections

    def _first_divergence(self, met: Sequence[tuple[TensorComparison, Judgement]]) -> dict[str, Any] | None:
        failed = [(j.failed_chunk, t.order, t, j) for t, j in met if j.failed_chunk is not None]
        if self.failed_step is not None and all(self.failed_step[0] < chunk for chunk, *_ in failed):
            chunk, module, message = self.failed_step
            return {"chunk": chunk, "tensor": module or "outputs", "max_abs": None, "tolerance": None, "error": message}
        if not failed:
            return None
        chunk, _, tensor, judged = min(failed, key=lambda each: each[:2])
        found = {"chunk": chunk, "tensor": tensor.spec.label, "max_abs": None, "tolerance": None, "error": judged.error}
        if tensor.statistics is not None and chunk in tensor.statistics.per_chunk_max_abs:
            found["max_abs"] = tensor.statistics.per_chunk_max_abs[chunk]
            found["tolerance"] = tensor.statistics.tolerance.to_json()
            found["error"] = tensor.statistics.not_finite
        return found

    def _tensor_json(self, tensor: TensorComparison, judged: Judgement) -> dict[str, Any]:
        statistics = tensor.statistics
        if statistics is None:
            tolerance = self.policy.tolerance(tensor.spec.label, ANY_FLOAT, ANY_FLOAT)
            statistics = Statistics(tolerance, percentiles=self.percentiles)
        return {
            "name": tensor.spec.label,
            "kind": tensor.spec.kind,
            "order": tensor.order,
            "passed": judged.passed,
            "vacuous": judged.vacuous,
            **statistics.to_json(),
            "tolerance": statistics.tolerance.to_json(),
            "first_failed_chunk": judged.failed_chunk,
            "per_chunk_max_abs": [statistics.per_chunk_max_abs.get(chunk) for chunk in range(self.compared_chunks)],
            "error": judged.error,
        }


def _part(tensor: Tensor, origin: Origin) -> Tensor:
    """A region of a tensor; what is stored stays where it is as long as all of it is meant.

    A view of a file that is small is read here, once for all that is asked of it.
    """
    if isinstance(tensor, StoredView) and tensor.stored.nbytes <= IN_MEMORY:
        tensor = tensor.array()
    if all(part == slice(None) for part in origin):
        return tensor
    return (tensor if isinstance(tensor, np.ndarray) else tensor.array())[tuple(origin)]


def _dtype_problem(reference: Tensor, candidate: Tensor) -> str | None:
    families = [family(side.dtype) for side in (reference, candidate)]
    return None if families[0] == families[1] else f"reference is {reference.dtype}, candidate is {candidate.dtype}"


def _fits(spec: TensorSpec, reference: Tensor, candidate: Tensor, origins: Iterable[Origin]) -> bool:
    """A candidate may only be longer along the axis whose tail the valid region cuts off (a padded last chunk)."""
    expected, actual = list(reference.shape), list(candidate.shape)
    if spec.valid is not None and spec.valid.keep == "first" and len(expected) == len(actual):
        axis = spec.axes.index(spec.valid.axis)
        needed = max(_stop(origin[axis]) for origin in origins)
        if actual[axis] >= needed:
            expected[axis] = actual[axis]
    return expected == actual


def _stop(part: slice | int) -> int:
    return part.stop if isinstance(part, slice) and part.stop is not None else 0
