"""Compare two arrays, two files or two dumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ..dump import DumpReader, is_dump
from ..dump.files import check_numeric, is_self_describing, read_tensors
from ..errors import StreamparityError
from ..tensors import Array, TensorSpec
from . import result
from .comparator import Comparator
from .facts import CandidateFacts
from .statistics import PERCENTILES
from .tokens import compare_tokens
from .tolerance import TolerancePolicy

Source = str | Path | Array


def compare(
    reference: Source,
    candidate: Source,
    *,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    taps: Sequence[str] = (),
    allow_unmatched: Sequence[str] = (),
    percentiles: Sequence[float] = PERCENTILES,
) -> dict[str, Any]:
    """Compare a candidate with a reference.

    Args:
        reference: an array, a file (raw, ``.npy``, ``.npz``, ``.safetensors``) or a dump folder.
        candidate: the same kind of thing.
        shape: extents of raw files.
        dtype: element type of raw files, such as ``f32``.
        atol: absolute tolerance; with neither tolerance given, the default of the coarser dtype.
        rtol: relative tolerance.
        taps: for dumps, globs over the taps to compare; all of them by default.
        allow_unmatched: globs over taps that one side may lack.
        percentiles: percentages to report of ``|candidate - reference|``.

    Returns:
        The result document (docs/result.md).

    Raises:
        StreamparityError: unreadable input, or a dump against a file.
    """
    started = datetime.now(timezone.utc)
    policy = TolerancePolicy(atol, rtol)
    for side in (reference, candidate):
        if isinstance(side, str | Path) and not Path(side).exists():
            raise StreamparityError(f"{side} does not exist", "check the path")
    dumps = [isinstance(side, str | Path) and is_dump(Path(side)) for side in (reference, candidate)]
    if all(dumps) and isinstance(reference, str | Path) and isinstance(candidate, str | Path):
        return _compare_dumps(
            DumpReader(Path(reference)),
            DumpReader(Path(candidate)),
            policy,
            taps,
            allow_unmatched,
            percentiles,
            started,
        )
    if any(dumps):
        raise StreamparityError("one side is a dump and the other is not", "compare two dumps or two files")
    raw = any(isinstance(side, str | Path) and not is_self_describing(Path(side)) for side in (reference, candidate))
    if (shape is not None or dtype is not None) and not raw:
        raise StreamparityError(
            "both sides carry their own shape and dtype", "leave out --shape and --dtype: they are for raw files"
        )
    sides = [_tensors(side, shape, dtype) for side in (reference, candidate)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    specs = [
        TensorSpec(f"out/{name}", "output", str(tensor.dtype), tuple(str(axis) for axis in range(tensor.ndim)))
        for name in names
        for tensor in [sides[0].get(name, sides[1].get(name))]
        if tensor is not None
    ]
    comparator = Comparator(specs, 1, policy, allow_unmatched, percentiles)
    keyed = [{f"out/{name}": tensor for name, tensor in side.items()} for side in sides]
    comparator.mark_unmatched(dict.fromkeys(set(sides[0]) ^ set(sides[1]), "only one side has it"))
    comparator.add(0, keyed[0], keyed[1])
    return result.build(
        comparator.finish(),
        mode="files",
        backend=None,
        model_sha256=None,
        reference_sha256=None,
        started=started,
    )


def _tensors(side: Source, shape: Sequence[int] | None, dtype: str | None) -> dict[str, Array]:
    if isinstance(side, str | Path):
        return read_tensors(Path(side), shape, dtype)
    array = np.asarray(side)
    check_numeric(array, "the array")
    return {"value": array}


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
    reference: DumpReader,
    candidate: DumpReader,
    policy: TolerancePolicy,
    taps: Sequence[str],
    allow_unmatched: Sequence[str],
    percentiles: Sequence[float],
    started: datetime,
) -> dict[str, Any]:
    ours = {spec.name: spec for spec in reference.manifest.tensors}
    theirs = {spec.name: spec for spec in candidate.manifest.tensors}
    judged = CandidateFacts.of(candidate.manifest)
    every = [*ours.values(), *(spec for name, spec in theirs.items() if name not in ours)]
    # A candidate need not record what it was fed; what both recorded is compared.
    specs = select([s for s in every if s.kind != "input" or (s.name in ours and s.name in theirs)], taps)
    specs = [spec for spec in specs if judged.in_scope(spec)]
    total = max(judged.requested_chunks or reference.chunk_count, candidate.chunk_count)
    if policy.atol is None and policy.rtol is None:
        policy = TolerancePolicy(judged.atol, judged.rtol)
    policy = replace(policy, arithmetic=judged.arithmetic, floor=reference.noise_floor())
    comparator = Comparator(specs, total, policy, [*judged.allow_unmatched, *allow_unmatched], percentiles)
    comparator.mark_unmatched(_reasons(specs, ours, theirs, judged.unmatched))
    for index in range(min(reference.chunk_count, candidate.chunk_count)):
        comparator.add(index, reference.chunk(index), candidate.chunk(index))
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
    notes += incomplete(reference)
    return result.build(
        comparator.finish(),
        mode="dumps",
        backend=candidate.manifest.producer.get("backend"),
        model_sha256=reference.manifest.model.get("sha256"),
        reference_sha256=reference.sha256,
        started=started,
        tokens=compare_tokens(reference, candidate.manifest.tokens, candidate.chunk_count),
        notes=tuple(notes),
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
