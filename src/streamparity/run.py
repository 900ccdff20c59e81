"""``streamparity run``: a model under test against a reference dump, from the two alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .candidate import CandidateDump
from .comparison import Comparator, TolerancePolicy, compare_tokens, incomplete, loops_for, select
from .comparison.against import Against
from .comparison.facts import CandidateFacts
from .comparison.noise import noise
from .comparison.result import build
from .comparison.statistics import WORST
from .decode import CandidateDecoder, arithmetic_of, head_of
from .dump import DumpReader
from .errors import Stateless, StepFailed, StreamparityError
from .identity import check_identity
from .invariants import Violation, objections_to
from .localize import Seen, at_a_glance, examine, of_a_stateless_model
from .localize.broken_invariants import findings_of
from .localize.observation import Observation
from .localize.repro import check_folder
from .localize.state import StateWatch
from .loop import CandidateChunk, ChunkFailure, Mode, drive, total_chunks
from .marking import both_verdicts
from .progress import Note, Progress, no_note, no_progress
from .provenance import file_sha256
from .runners import Runner, RunnerOptions, backend
from .tensors import Array, TensorSpec


@dataclass(frozen=True)
class RunOptions:
    """What to run and how to judge it; see ``streamparity run --help``."""

    backend: str
    model: Path
    mode: Mode = "closed-loop"
    taps: Sequence[str] = ()
    limit: int | None = None
    save: Path | None = None
    force: bool = False
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    allow_unmatched: Sequence[str] = ()
    allow_model_mismatch: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    localize: bool = False
    repro: Path | None = None


def run(
    reference: DumpReader,
    options: RunOptions,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> dict[str, Any]:
    """Drive a model through the reference's chunks and compare everything it returns.

    Args:
        reference: the dump.
        options: backend, model, mode, tolerances.
        progress: called with chunks done and chunks in all.
        note: called with lines the user should see.

    Returns:
        The result document (docs/result.md).

    Raises:
        BackendMissing: a library or device is missing.
        StreamparityError: the model cannot be used with this reference.
    """
    if options.save is not None and options.save.resolve() == reference.folder.resolve():
        raise StreamparityError(f"--save {options.save} is the reference itself", "save to another folder")
    if options.repro is not None:
        taken = (options.save, reference.folder, options.model)
        check_folder(options.repro, options.force, [path for path in taken if path is not None])
    # What a model is fed, the preprocessor's output among it, comes from the dump: there is nothing to compare.
    specs = select([spec for spec in reference.manifest.tensors if spec.kind != "input"], options.taps)
    runner_class = backend(options.backend)
    runner_class.check_settings(options.settings)
    wanted = RunnerOptions.of(specs, reference.manifest.streaming, options.settings)
    try:
        runner = runner_class.open(options.model, wanted)
    except Stateless as error:
        if not options.localize:
            raise
        return _stateless(error, reference, specs, options)
    with closing(runner):
        identity, notes = check_identity(runner, reference, options.model, options.allow_model_mismatch)
        specs, out_of_scope = _scope(specs, runner, reference)
        notes = [*runner.notes, *notes, *out_of_scope, *incomplete(reference)]
        for line in notes:
            note(line)
        result = run_opened(runner, reference, specs, options, identity, tuple(notes), progress)
    if runner.marking is None:
        return result
    bare = [spec for spec in specs if spec.kind != "tap"]
    settings = replace(options, save=None, localize=False, repro=None)
    with closing(runner_class.open(options.model, replace(wanted, taps=()))) as unmarked:
        verdict = run_opened(unmarked, reference, bare, settings, identity, progress=progress)
    return both_verdicts(result, verdict, runner.marking)


def run_opened(
    runner: Runner,
    reference: DumpReader,
    specs: Sequence[TensorSpec],
    options: RunOptions,
    identity: str | None = None,
    notes: tuple[str, ...] = (),
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """As :func:`run`, with a runner that is open already, its origin known and the tensors to compare chosen."""
    with TemporaryDirectory(prefix="streamparity-") as scratch:
        folder = options.save or Path(scratch)
        return _run_saved(runner, reference, specs, options, folder, identity, notes, progress)


def _run_saved(
    runner: Runner,
    reference: DumpReader,
    specs: Sequence[TensorSpec],
    options: RunOptions,
    folder: Path,
    identity: str | None,
    notes: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    """What the model returns is written to ``folder``, from where exact percentiles read it again."""
    started = datetime.now(timezone.utc)
    total = total_chunks(reference, options.limit)
    wanted = {spec.label for spec in specs}
    unmatched = {label: reason for label, reason in runner.unmatched.items() if label in wanted}
    head = arithmetic_of(head_of(runner, reference.manifest.decoder))
    policy = replace(options.policy, arithmetic=runner.arithmetic, head=head, floor=reference.noise_floor())
    policy.check_names(wanted)
    against = Against(reference, policy.arithmetic)
    comparator = Comparator(
        specs, total, policy, options.allow_unmatched, worst=WORST, loops=loops_for(2 * reference.nbytes)
    )
    comparator.mark_unmatched(unmatched)
    decoder = _decoder(runner, reference)
    facts = CandidateFacts(
        scope=tuple(spec.name for spec in specs),
        unmatched=unmatched,
        requested_chunks=total,
        allow_unmatched=tuple(options.allow_unmatched),
        policy=policy,
    )
    producer = {"backend": options.backend, "mode": options.mode, "threads": runner.threads, "math": runner.math}
    saved = CandidateDump(folder, reference, facts, producer, force=options.force)
    failure = None
    observation, watch = Observation(), StateWatch()
    step_ms, overhead_ms = [], []
    broken: list[Violation] = []
    for driven in drive(runner, reference, options.mode, options.limit):
        done = _decoded(driven, decoder)
        if isinstance(done, ChunkFailure):
            failure = done
            comparator.fail_step(done.index, done.message, done.module)
            break
        observation.add(done, comparator.add(done.index, against.chunk(done.index, done.reference), done.tensors))
        if options.localize:
            watch.add(done)
        broken += done.violations
        step_ms.append(done.step_ms)
        overhead_ms.append(done.overhead_ms)
        saved.write(done)
        progress(done.index + 1, total)
    labels = None if decoder is None else decoder.labels
    saved.finish(labels, failure)
    replay = partial(_pairs, against, folder)
    comparison = comparator.finish(replay)
    tokens = compare_tokens(reference, labels, comparator.compared_chunks, comparison, replay, policy)
    seen = Seen(reference, specs, policy, comparison, tokens, observation, watch, runner)
    looked = (options.backend, options.model, options.settings, options.repro)
    found = examine(seen, *looked) if options.localize or options.repro is not None else at_a_glance(seen)
    remarks = [*notes, *against.notes, *found.remarks]
    return build(
        {**comparison, "objections": [*comparison["objections"], *found.objections, *objections_to(broken)]},
        mode=options.mode,
        backend=options.backend,
        model_sha256=identity,
        candidate_sha256=file_sha256(options.model) if options.model.is_file() else None,
        reference_sha256=reference.sha256,
        started=started,
        math=runner.math,
        threads=runner.threads,
        tokens=tokens,
        timing=_timing(step_ms, overhead_ms),
        notes=tuple(remarks),
        diagnosis=tuple(sorted([*found.diagnosis, *findings_of(broken)], key=lambda cause: -cause["confidence"])),
        localization=found.localization,
        state=found.state,
        noise=noise(comparison, policy.floor, policy.arithmetic, against.name),
        invariants=tuple(violation.to_json() for violation in broken),
    )


def _stateless(
    error: Stateless, reference: DumpReader, specs: Sequence[TensorSpec], options: RunOptions
) -> dict[str, Any]:
    """The result of a model that cannot be driven at all, since nothing could be fed back."""
    comparator = Comparator(specs, total_chunks(reference, options.limit), options.policy, options.allow_unmatched)
    comparator.fail_step(0, error.message, None)
    place, causes = of_a_stateless_model(error)
    return build(
        comparator.finish(),
        mode=options.mode,
        backend=options.backend,
        model_sha256=None,
        candidate_sha256=file_sha256(options.model) if options.model.is_file() else None,
        reference_sha256=reference.sha256,
        started=datetime.now(timezone.utc),
        diagnosis=tuple(causes),
        localization=place,
    )


def _pairs(against: Against, folder: Path) -> Iterator[tuple[int, Mapping[str, Array], Mapping[str, Array]]]:
    candidate = DumpReader(folder)
    for index in range(candidate.chunk_count):
        yield index, against.chunk(index), candidate.chunk(index)


def _scope(specs: Sequence[TensorSpec], runner: Runner, reference: DumpReader) -> tuple[list[TensorSpec], list[str]]:
    """Leave out decoder tensors where there is no decoder under test."""
    decoder = reference.manifest.decoder
    if decoder is None or not any(spec.kind == "decoder" for spec in specs):
        return list(specs), []
    encoder_only = [spec for spec in specs if spec.kind != "decoder"]
    if head_of(runner, decoder) is None:
        lacks = "ctc_decoder" if decoder.kind == "ctc" else "decoder_joint"
        return encoder_only, [f"the model under test has no {lacks}: the encoder alone is compared"]
    return list(specs), []


def _decoder(runner: Runner, reference: DumpReader) -> CandidateDecoder | None:
    """What decodes the candidate, where it has the head for it and the rules are known."""
    rules = reference.manifest.decoder
    head = head_of(runner, rules)
    return None if head is None or rules is None else CandidateDecoder(head, rules)


def _decoded(done: CandidateChunk | ChunkFailure, decoder: CandidateDecoder | None) -> CandidateChunk | ChunkFailure:
    """Add what decoding computes to a chunk."""
    if decoder is None or isinstance(done, ChunkFailure):
        return done
    try:
        described, trace = decoder.chunk(done.tensors)
    except StepFailed as failure:
        return ChunkFailure(done.index, failure.message, failure.module)
    tensors = {**done.tensors, **{spec.name: array for spec, array in described}}
    return replace(done, tensors=tensors, trace=trace)


def _timing(step_ms: Sequence[float], overhead_ms: Sequence[float]) -> dict[str, Any] | None:
    if not step_ms:
        return None
    p50, p95 = np.percentile(step_ms, [50, 95])
    return {
        "step_ms": {"p50": float(p50), "p95": float(p95)},
        "overhead_ms": {"p50": float(np.median(overhead_ms))},
    }
