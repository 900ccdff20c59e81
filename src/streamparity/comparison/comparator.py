"""Lines up two streams of tensors, chunk by chunk, and decides.

Knows nothing of NeMo or runners: a stream is a mapping of arrays per chunk, described by :class:`TensorSpec`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..tensors import Array, TensorSpec, integer_tensors, valid_regions
from .statistics import PERCENTILES, Statistics
from .tolerance import TolerancePolicy

FAMILIES = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}


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
    def problem(self) -> tuple[int, str] | None:
        """The first chunk that could not be compared, and why; a tensor that never met is unmatched instead."""
        problems = [] if self.mismatch is None else [self.mismatch]
        if self.missing is not None and self.seen:
            problems.append((self.missing, "only one side has it in this chunk"))
        return min(problems, default=None)

    @property
    def first_failed_chunk(self) -> int | None:
        """The earliest chunk past tolerance or not comparable."""
        failed = [] if self.problem is None else [self.problem[0]]
        if self.statistics is not None and self.statistics.first_failed_chunk is not None:
            failed.append(self.statistics.first_failed_chunk)
        return min(failed, default=None)

    @property
    def seen(self) -> bool:
        """Whether the two sides met at all."""
        return self.statistics is not None or self.mismatch is not None

    @property
    def vacuous(self) -> bool:
        """Could not have failed: nothing compared, or both sides one constant. Integers are compared exactly."""
        if self.statistics is None or self.first_failed_chunk is not None:
            return False
        return self.statistics.elements == 0 or (
            self.statistics.constant and self.statistics.tolerance.source != "exact"
        )

    @property
    def passed(self) -> bool:
        """Compared, not vacuous, and within tolerance everywhere."""
        return self.statistics is not None and self.first_failed_chunk is None and not self.vacuous


@dataclass
class Comparator:
    """Accumulates the comparison of a candidate with a reference.

    Attributes:
        specs: what is to be compared, in forward order.
        total_chunks: how many chunks there should be.
        policy: tolerances.
        allow_unmatched: globs over tap names that the candidate may lack.
        unmatched: tensors that one side lacks, with the reason.
        failed_step: chunk, module or ``None``, and message of a step that the candidate could not run.
    """

    specs: Sequence[TensorSpec]
    total_chunks: int
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    allow_unmatched: Sequence[str] = ()
    percentiles: Sequence[float] = PERCENTILES
    unmatched: dict[str, str] = field(default_factory=dict)
    failed_step: tuple[int, str | None, str] | None = None
    compared_chunks: int = 0
    passed_chunks: int = 0

    def __post_init__(self) -> None:
        self.tensors = [TensorComparison(spec, order) for order, spec in enumerate(self.specs)]

    def add(self, chunk: int, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> bool:
        """Compare one chunk; whether all of it is within tolerance. Valid regions are the reference's."""
        counts = integer_tensors(reference)
        passed = True
        for tensor in self.tensors:
            name = tensor.spec.name
            if name in reference and name in candidate:
                passed &= self._compare(tensor, chunk, reference[name], candidate[name], counts)
            elif (name in reference) != (name in candidate) and tensor.spec.kind != "input":
                tensor.missing = chunk if tensor.missing is None else tensor.missing
                passed &= tensor.spec.label in self.unmatched or self._may_lack(tensor.spec)
        self.compared_chunks += 1
        self.passed_chunks += passed
        return passed

    def fail_step(self, chunk: int, message: str, module: str | None) -> None:
        """Record that the candidate could not run ``chunk``; nothing can follow it."""
        self.failed_step = (chunk, module, message)

    def _compare(
        self, tensor: TensorComparison, chunk: int, reference: Array, candidate: Array, counts: Mapping[str, Array]
    ) -> bool:
        if tensor.mismatch is not None:
            return False
        origins = valid_regions(tensor.spec, reference.shape, counts)
        problem = _dtype_problem(reference, candidate) or _shape_problem(tensor.spec, reference, candidate, origins)
        if problem:
            tensor.mismatch = (chunk, problem)
            return False
        if tensor.statistics is None:
            tensor.statistics = Statistics(self.policy.tolerance(tensor.spec.label, reference.dtype, candidate.dtype))
        pairs = [(reference[origin], candidate[origin]) for origin in origins]
        return tensor.statistics.add(chunk, pairs, origins)

    def _may_lack(self, spec: TensorSpec) -> bool:
        return not spec.is_port and any(fnmatchcase(spec.label, glob) for glob in self.allow_unmatched)

    def mark_unmatched(self, reasons: Mapping[str, str]) -> None:
        """Name tensors (by label) that the candidate lacks, with reasons; the rest is found by absence."""
        self.unmatched.update(reasons)

    def finish(self) -> dict[str, Any]:
        """The comparison's part of the result (docs/result.md): verdict, chunks, coverage, tensors, divergence."""
        for tensor in self.tensors:
            if not tensor.seen and tensor.spec.kind != "input" and self.compared_chunks:
                self.unmatched.setdefault(tensor.spec.label, "the candidate does not have it")
        met = [tensor for tensor in self.tensors if tensor.seen]
        vacuous = [tensor for tensor in met if tensor.vacuous]
        objections = self._objections(met, vacuous)
        return {
            "verdict": "fail" if objections else "pass",
            "objections": objections,
            "chunks": {
                "total": self.total_chunks,
                "compared": self.compared_chunks,
                "passed": self.passed_chunks,
            },
            "coverage": {
                "compared": sum(not tensor.vacuous for tensor in met),
                "unmatched": sorted(self.unmatched),
                "unmatched_reasons": dict(sorted(self.unmatched.items())),
                "vacuous": [tensor.spec.label for tensor in vacuous],
            },
            "tensors": [self._tensor_json(tensor) for tensor in met],
            "first_divergence": self._first_divergence(met),
        }

    def _objections(self, met: Sequence[TensorComparison], vacuous: Sequence[TensorComparison]) -> list[str]:
        """Every reason why this is not a pass, one line each."""
        objections = []
        if self.failed_step is not None:
            objections.append(f"chunk {self.failed_step[0]}: the candidate could not run it")
        elif self.compared_chunks < self.total_chunks:
            objections.append(f"{self.compared_chunks} of {self.total_chunks} chunks were compared")
        failed = [tensor for tensor in met if tensor.first_failed_chunk is not None]
        if failed:
            objections.append(f"{len(failed)} tensors are past their tolerance")
        specs = {spec.label: spec for spec in self.specs}
        for label in sorted(self.unmatched):
            if not (label in specs and self._may_lack(specs[label])):
                objections.append(f"{label} is unmatched: {self.unmatched[label]}")
        for tensor in vacuous:
            if tensor.spec.is_port:
                objections.append(f"{tensor.spec.label} is vacuous: empty, or one same value throughout on both sides")
        if not any(tensor.passed for tensor in met) and not objections:
            objections.append("nothing was compared")
        return objections

    def _first_divergence(self, met: Sequence[TensorComparison]) -> dict[str, Any] | None:
        failed = [(t.first_failed_chunk, t.order, t) for t in met if t.first_failed_chunk is not None]
        chunk, _, tensor = min(failed, key=lambda f: f[:2], default=(None, None, None))
        if self.failed_step is not None and (chunk is None or self.failed_step[0] < chunk):
            chunk, module, message = self.failed_step
            return {"chunk": chunk, "tensor": module or "outputs", "max_abs": None, "tolerance": None, "error": message}
        if tensor is None or chunk is None:
            return None
        found: dict[str, Any] = {"chunk": chunk, "tensor": tensor.spec.label, "max_abs": None, "tolerance": None}
        if tensor.problem is not None and tensor.problem[0] == chunk:
            found["error"] = tensor.problem[1]
        elif tensor.statistics is not None:
            found["max_abs"] = tensor.statistics.per_chunk_max_abs.get(chunk)
            found["tolerance"] = _tolerance_json(tensor.statistics)
            found["error"] = tensor.statistics.not_finite
        return found

    def _tensor_json(self, tensor: TensorComparison) -> dict[str, Any]:
        head: dict[str, Any] = {
            "name": tensor.spec.label,
            "kind": tensor.spec.kind,
            "order": tensor.order,
            "passed": tensor.passed,
            "vacuous": tensor.vacuous,
        }
        single = np.dtype(np.float32)
        statistics = tensor.statistics or Statistics(self.policy.tolerance(tensor.spec.label, single, single))
        return {
            **head,
            **statistics.to_json(self.percentiles),
            "tolerance": _tolerance_json(statistics),
            "first_failed_chunk": tensor.first_failed_chunk,
            "per_chunk_max_abs": [statistics.per_chunk_max_abs.get(chunk) for chunk in range(self.compared_chunks)],
            "error": statistics.not_finite if tensor.problem is None else tensor.problem[1],
        }


def _tolerance_json(statistics: Statistics) -> dict[str, Any]:
    tolerance = statistics.tolerance
    return {"atol": tolerance.atol, "rtol": tolerance.rtol, "source": tolerance.source}


def _dtype_problem(reference: Array, candidate: Array) -> str | None:
    kinds = [FAMILIES.get(array.dtype.kind, array.dtype.kind) for array in (reference, candidate)]
    return None if kinds[0] == kinds[1] else f"reference is {reference.dtype}, candidate is {candidate.dtype}"


def _shape_problem(
    spec: TensorSpec, reference: Array, candidate: Array, origins: Iterable[tuple[slice | int, ...]]
) -> str | None:
    """A candidate may only be longer along the axis whose tail the valid region cuts off (a padded last chunk)."""
    expected, actual = list(reference.shape), list(candidate.shape)
    if spec.valid is not None and spec.valid.keep == "first" and len(expected) == len(actual):
        axis = spec.axes.index(spec.valid.axis)
        needed = max(_stop(origin[axis]) for origin in origins)
        if actual[axis] >= needed:
            expected[axis] = actual[axis]
    if expected == actual:
        return None
    return f"reference has shape {list(reference.shape)}, candidate {actual}"


def _stop(part: slice | int) -> int:
    return part.stop if isinstance(part, slice) and part.stop is not None else 0
