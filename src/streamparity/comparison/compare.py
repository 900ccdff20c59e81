"""Compare two arrays, two files or two dumps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..dtypes import name_of, only_float
from ..dump import DumpReader, is_dump
from ..dump.files import RawLayout, Tensors, is_self_describing
from ..dump.stored import Tensor
from ..errors import StreamparityError
from ..tensors import TensorSpec
from . import result
from .against import Against
from .comparator import Comparator
from .engine import COMPILED_FROM, loops_for
from .facts import CandidateFacts
from .noise import noise
from .shapes import matching_permutation
from .sources import View, paired, tensors_of, total_bytes
from .statistics import PERCENTILES
from .tokens import compare_tokens
from .tolerance import TolerancePolicy, ToleranceRule

WHOLE = View()
UNKNOWN = RawLayout()
DEFAULT = TolerancePolicy()


def compare(
    reference: Any,
    candidate: Any,
    *,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    layout: Literal["c", "ggml"] | None = None,
    candidate_raw: RawLayout | None = None,
    reference_view: View = WHOLE,
    candidate_view: View = WHOLE,
    overlap: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    rules: Sequence[ToleranceRule] = (),
    taps: Sequence[str] = (),
    allow_unmatched: Sequence[str] = (),
    percentiles: Sequence[float] = PERCENTILES,
    worst: int = 0,
) -> dict[str, Any]:
    """Compare a candidate with a reference.

    Args:
        reference: an array or tensor of any library (through DLPack, on any device) or a mapping of them by name, a
            file (raw, ggml-style, ``.npy``, ``.npz``, ``.safetensors``, ``.pt``, Polygraphy's JSON, JSONL with base64
            arrays) or a dump folder.
        candidate: the same kind of thing; two files may be of different formats.
        shape: extents of a chunk of raw files.
        dtype: element type of raw files, such as ``f32``, ``bf16`` or ``>f32``.
        layout: of raw files: ``c``, or ``ggml`` for a 32-byte header and then float32; by their look when not given.
        candidate_raw: the three for a candidate of which they are not the same.
        reference_view: permutation and slices of arrays and files.
        candidate_view: the same for the candidate.
        overlap: where one side is longer along one axis, or has more chunks, compare what both have.
        atol: absolute tolerance; with neither tolerance given, the default of the coarser dtype.
        rtol: relative tolerance.
        rules: tolerances by name of tensor, which come before ``atol`` and ``rtol``.
        taps: for dumps, globs over the taps to compare; all of them by default.
        allow_unmatched: globs over taps that one side may lack.
        percentiles: percentages to report of ``|candidate - reference|``; none saves a pass over large files.
        worst: how many of each tensor's largest errors to report with their neighbours.

    Returns:
        The result document (docs/result.md).

    Raises:
        StreamparityError: unreadable input, or a dump against a file.
    """
    settings = _Settings(
        TolerancePolicy(atol, rtol, rules=tuple(rules)) if atol is not None or rtol is not None or rules else DEFAULT,
        allow_unmatched,
        _checked(percentiles),
        worst,
        overlap,
        datetime.now(timezone.utc),
    )
    views = (reference_view, candidate_view)
    sides = (reference, candidate)
    paths = [Path(side) for side in sides if isinstance(side, str | Path)]
    raw = RawLayout(None if shape is None else tuple(shape), dtype, layout)
    raws = (raw, raw if candidate_raw is None else candidate_raw)
    if paths:
        for path in paths:
            if not os.path.exists(path):  # which no name is too long for
                raise StreamparityError(f"{path} does not exist", "check the path")
        dumps = [path for path in paths if is_dump(path)]
        if len(dumps) == 2:
            _check_no_layout(raws, views)
            return _compare_dumps(DumpReader(dumps[0]), DumpReader(dumps[1]), taps, settings)
        if dumps:
            raise StreamparityError("one side is a dump and the other is not", "compare two dumps or two files")
    if taps or allow_unmatched:
        raise StreamparityError("taps are compared in dumps only", "leave out --taps and --allow-unmatched")
    if raws != (UNKNOWN, UNKNOWN) and not any(
        isinstance(side, str | Path) and not is_self_describing(Path(side), its)
        for side, its in zip(sides, raws, strict=True)
    ):
        raise StreamparityError(
            "both sides carry their own shape and dtype",
            "leave out --shape, --dtype and --layout: they are for raw files",
        )
    tensors = [tensors_of(*each) for each in zip(sides, raws, views, strict=True)]
    # A program loads numba once for many comparisons; on the command line it must pay for itself.
    return _compare_tensors(*paired(*tensors), settings, total_bytes(tensors) if paths else COMPILED_FROM)


class _Settings(NamedTuple):
    """How to judge, whatever is compared."""

    policy: TolerancePolicy
    allow_unmatched: Sequence[str]
    percentiles: tuple[float, ...]
    worst: int
    overlap: bool
    started: datetime

    def comparator(self, specs: Sequence[TensorSpec], total: int, nbytes: int) -> Comparator:
        self.policy.check_names(spec.label for spec in specs)
        return Comparator(
            specs,
            total,
            self.policy,
            self.allow_unmatched,
            percentiles=self.percentiles,
            worst=self.worst,
            overlap=self.overlap,
            loops=loops_for(nbytes),
        )


def _checked(percentiles: Sequence[float]) -> tuple[float, ...]:
    found = tuple(map(float, percentiles))
    for percentage in found:
        if not 0 <= percentage <= 100:
            raise StreamparityError(f"percentile {percentage:g} is not from 0 to 100", "leave it out")
    return found


def _check_no_layout(raws: tuple[RawLayout, RawLayout], views: tuple[View, View]) -> None:
    if raws != (UNKNOWN, UNKNOWN) or views != (WHOLE, WHOLE):
        raise StreamparityError(
            "dumps describe themselves and are compared as they are",
            "leave out --shape, --dtype, --layout, --permute and --slice",
        )


def _compare_tensors(reference: Tensors, candidate: Tensors, settings: _Settings, nbytes: int) -> dict[str, Any]:
    """Tensors by name and chunk against others; names decide what belongs together, never the order."""
    cut = _common_chunks(reference, candidate) if settings.overlap else {}
    first = {name: chunks[0] for name, chunks in {**reference, **candidate, **reference}.items()}
    comparator = settings.comparator(
        [_spec(name, name_of(tensor.dtype), tensor.ndim) for name, tensor in first.items()],
        max((len(chunks) for side in (reference, candidate) for chunks in side.values()), default=0),
        nbytes,
    )
    comparator.mark_unmatched(dict.fromkeys(reference.keys() ^ candidate.keys(), "only one side has it"))

    def replay() -> Iterator[tuple[int, Mapping[str, Tensor], Mapping[str, Tensor]]]:
        for chunk in range(comparator.total_chunks):
            yield chunk, _chunk(reference, chunk), _chunk(candidate, chunk)

    for each in replay():
        comparator.add(*each)
    comparison = comparator.finish(replay)
    return result.build(
        comparison,
        mode="files",
        backend=None,
        model_sha256=None,
        reference_sha256=None,
        started=settings.started,
        notes=(*_left_out({**cut, **comparator.overlapping}), *_turned(comparison, reference, candidate, comparator)),
    )


def _common_chunks(reference: Tensors, candidate: Tensors) -> dict[str, str]:
    """Cut both sides of each tensor to the chunks that both have; those for which that left chunks out."""
    cut = {}
    for name in reference.keys() & candidate.keys():
        ours, theirs = reference[name], candidate[name]
        if len(ours) != len(theirs):
            cut[name] = f"{len(ours)} chunks and {len(theirs)}"
            reference[name], candidate[name] = (side[: min(len(ours), len(theirs))] for side in (ours, theirs))
    return cut


def _left_out(parts: Mapping[str, str]) -> list[str]:
    return [f"{label}: of {sizes}, only what both sides have is compared" for label, sizes in parts.items()]


def _turned(comparison: Mapping[str, Any], reference: Tensors, candidate: Tensors, comparator: Comparator) -> list[str]:
    """Tensors of equal extents that would have matched with their axes permuted."""
    found = []
    for tensor in comparison["tensors"]:
        name, chunk = tensor["name"], tensor["first_failed_chunk"]
        if (
            chunk is not None
            and not tensor["error"]
            and len({*reference[name][chunk].shape}) < reference[name][chunk].ndim
        ):
            sides = reference[name][chunk], candidate[name][chunk]
            tolerance = comparator.policy.tolerance(name, sides[0].dtype, sides[1].dtype)
            order = matching_permutation(*sides, tolerance, comparator.loops)
            if order is not None:
                found.append(f"{name}: --permute {','.join(map(str, order))} of the candidate matches")
    return found


@lru_cache(maxsize=4096)
def _spec(name: str, dtype: str, axes: int) -> TensorSpec:
    return TensorSpec(f"out/{name}", "output", dtype, tuple(str(axis) for axis in range(axes)))


def _chunk(tensors: Tensors, chunk: int) -> dict[str, Tensor]:
    return {f"out/{name}": chunks[chunk] for name, chunks in tensors.items() if chunk < len(chunks)}


def select(specs: Sequence[TensorSpec], taps: Sequence[str]) -> list[TensorSpec]:
    """The tensors to compare: every port, and the taps whose name matches a glob (all when there is none).

    Raises:
        StreamparityError: a glob matches no tap.
    """
    inner = [spec for spec in specs if spec.name.startswith("tap/")]
    for glob in taps:
        if not any(fnmatchcase(spec.label, glob) for spec in inner):
            raise StreamparityError(
                f"--taps {glob!r} matches none of the dump's {len(inner)} taps",
                f"the dump has {', '.join(spec.label for spec in inner[:8])}, ...",
            )
    return [
        spec
        for spec in specs
        if not spec.name.startswith("tap/") or not taps or any(fnmatchcase(spec.label, glob) for glob in taps)
    ]


def _compare_dumps(
    reference: DumpReader, candidate: DumpReader, taps: Sequence[str], settings: _Settings
) -> dict[str, Any]:
    ours = {spec.name: spec for spec in reference.manifest.tensors}
    theirs = {spec.name: spec for spec in candidate.manifest.tensors}
    judged = CandidateFacts.of(candidate.manifest)
    every = [*ours.values(), *(spec for name, spec in theirs.items() if name not in ours)]
    # A candidate need not record what it was fed; what both recorded is compared.
    specs = select([s for s in every if s.kind != "input" or (s.name in ours and s.name in theirs)], taps)
    specs = [spec for spec in specs if judged.in_scope(spec)]
    both = min(reference.chunk_count, candidate.chunk_count)
    total = both if settings.overlap else max(judged.requested_chunks or reference.chunk_count, candidate.chunk_count)
    policy = settings.policy if settings.policy.given else judged.policy
    returned = (spec.dtype for spec in theirs.values() if spec.kind != "input")
    arithmetic = judged.policy.arithmetic or only_float(returned)
    settings = settings._replace(
        policy=replace(policy, arithmetic=arithmetic, floor=reference.noise_floor()),
        allow_unmatched=(*judged.allow_unmatched, *settings.allow_unmatched),
    )
    against = Against(reference, settings.policy.arithmetic)
    comparator = settings.comparator(specs, total, reference.nbytes + candidate.nbytes)
    comparator.mark_unmatched(_reasons(specs, ours, theirs, judged.unmatched))

    def replay() -> Iterator[tuple[int, Mapping[str, Tensor], Mapping[str, Tensor]]]:
        for chunk in range(both):
            yield chunk, against.chunk(chunk), candidate.chunk(chunk)

    for each in replay():
        comparator.add(*each)
    if judged.failed_step is not None:
        comparator.fail_step(*judged.failed_step)
    notes = [
        f"the dumps are of different {what}"
        for what, sides in (
            ("models", (reference.manifest.model, candidate.manifest.model)),
            ("audio", (reference.manifest.audio, candidate.manifest.audio)),
        )
        if sides[0].get("sha256") != sides[1].get("sha256")
    ]
    notes += [*incomplete(reference), *against.notes]
    comparison = comparator.finish(replay)
    return result.build(
        comparison,
        mode="dumps",
        backend=candidate.manifest.producer.get("backend"),
        model_sha256=reference.manifest.model.get("sha256"),
        reference_sha256=reference.sha256,
        started=settings.started,
        tokens=compare_tokens(
            reference, candidate.manifest.tokens, candidate.chunk_count, comparison, replay, settings.policy
        ),
        noise=noise(comparison, settings.policy.floor, settings.policy.arithmetic, against.name),
        notes=(*notes, *_left_out(comparator.overlapping)),
    )


def incomplete(reference: DumpReader) -> list[str]:
    """A line for the user where the reference was cut off."""
    if reference.manifest.complete:
        return []
    return [f"the reference was cut off: its {reference.chunk_count} whole chunks are compared, what follows is not"]


def _reasons(
    specs: Sequence[TensorSpec],
    ours: Mapping[str, TensorSpec],
    theirs: Mapping[str, TensorSpec],
    recorded: Mapping[str, str],
) -> dict[str, str]:
    reasons = dict(recorded)
    for spec in specs:
        if spec.kind != "input" and (spec.name in ours) != (spec.name in theirs):
            side = "reference" if spec.name in theirs else "candidate"
            reasons.setdefault(spec.label, f"the {side} does not have it")
    return reasons
