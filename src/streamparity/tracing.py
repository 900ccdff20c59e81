"""``streamparity trace``: opens both sides and compares their decisions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .comparison.result import as_json
from .decisions import Question, Recorded, Side, analyse, chunk_starts, read_trace_file, recorded
from .decode import Head, head_of, valid_frames
from .dump import Decoder, DumpReader, is_dump
from .dump.store import TRACE
from .errors import StepFailed, StreamparityError
from .identity import check_candidate_dump, check_identity
from .loop import ChunkFailure, Mode, drive
from .progress import Note, Progress, no_note, no_progress
from .provenance import host, versions
from .runners import Runner, RunnerOptions, backend
from .tensors import Array


@dataclass(frozen=True)
class TraceOptions:
    """What to compare; see ``streamparity trace --help``."""

    backend: str | None = None
    model: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    mode: Mode = "closed-loop"
    candidate: Path | None = None
    reference_model: Path | None = None
    limit: int | None = None
    offline: str | None = None
    allow_model_mismatch: bool = False


def trace(
    reference: DumpReader, options: TraceOptions, progress: Progress = no_progress, note: Note = no_note
) -> dict[str, Any]:
    """Compare a candidate's decisions with those of a reference dump.

    Args:
        reference: the dump, with its trace.
        options: the model under test, the trace it wrote, or both.
        progress: called with chunks done and chunks in all.
        note: called with lines the user should see.

    Returns:
        The result document (docs/trace.md).

    Raises:
        BackendMissing: a library or device is missing.
        StreamparityError: bad input.
    """
    rules = reference.manifest.decoder
    if rules is None or not reference.trace():
        raise StreamparityError(
            f"{reference.folder} holds no decisions (it has no {TRACE}, or no decoder)", "make the dump again"
        )
    if options.candidate is None and options.model is None:
        raise StreamparityError("there is nothing to compare with", "pass --backend and --model, or --candidate")
    started, notes, failure = datetime.now(timezone.utc), list[str](), None
    with ExitStack() as stack:
        candidate, runner = Side(), None
        chunks = options.limit
        if options.model is not None:
            runner = _opened(options.backend or "", options.model, options.settings, reference, stack)
            notes += [*runner.notes, *check_identity(runner, reference, options.model, options.allow_model_mismatch)[1]]
            candidate, failure = _driven(runner, reference, rules, options, progress)
            chunks = failure.index if failure is not None else chunks
        ours = recorded(reference, rules, chunks)
        theirs, written = None, options.candidate
        if written is not None and is_dump(written):
            notes += check_candidate_dump(DumpReader(written), reference, options.allow_model_mismatch)
            candidate = candidate if candidate.frames is not None else Side(_dumped_frames(written, ours), None)
            written = written / TRACE
        if written is not None:
            # A trace of the whole recording is read by the whole recording's frames, whatever is compared of it.
            starts = ours.starts if chunks is None else chunk_starts(reference)
            theirs = read_trace_file(written, rules, starts).until(len(ours.frames))
        elif candidate.head is None:
            raise StreamparityError(
                f"{options.model} has no {'ctc_decoder' if rules.kind == 'ctc' else 'decoder_joint'} to decode with",
                "put it beside the encoder, or pass the trace that your program wrote with --candidate",
            )
        head = _reference_head(options, reference, rules, stack, notes)
        for line in notes:
            note(line)
        question = Question(
            rules,
            ours,
            head,
            candidate,
            theirs,
            reference.noise_floor(),
            None if runner is None else runner.arithmetic,
            options.offline if options.offline is not None else reference.manifest.extra.get("offline_text"),
        )
        try:
            found = analyse(question)
        except StepFailed as error:
            raise StreamparityError(
                f"the model under test cannot decode: {error.message}", "see where with `streamparity run --localize`"
            ) from error
    objections = [*found["objections"]]
    if failure is not None:
        objections.append(f"the model under test could not run chunk {failure.index}: {failure.message}")
    document = {**found, "verdict": "fail" if objections else "pass", "objections": objections}
    document["backend"], document["chunks"], document["notes"] = options.backend, len(ours.frames), notes
    document["provenance"] = {
        "command": sys.argv,
        "versions": versions(),
        "reference_sha256": reference.sha256,
        "host": host(),
        "started": started.isoformat(timespec="seconds"),
    }
    result: dict[str, Any] = as_json(document)
    return result


def _opened(name: str, model: Path, settings: Mapping[str, str], reference: DumpReader, stack: ExitStack) -> Runner:
    runner_class = backend(name)
    runner_class.check_settings(settings)
    options = RunnerOptions.of([], reference.manifest.streaming, settings)
    runner = runner_class.open(model, options)
    stack.enter_context(closing(runner))
    return runner


def _driven(
    runner: Runner, reference: DumpReader, rules: Decoder, options: TraceOptions, progress: Progress
) -> tuple[Side, ChunkFailure | None]:
    """The candidate's encoder frames, and its head; the chunk it could not run."""
    frames: list[Array] = []
    for done in drive(runner, reference, options.mode, options.limit):
        if isinstance(done, ChunkFailure):
            if not frames:
                raise StreamparityError(
                    f"the model under test cannot run the first chunk: {done.message}",
                    "see where with `streamparity run --localize`",
                )
            return Side(frames, head_of(runner, rules)), done
        frames.append(np.array(valid_frames(done.tensors), np.float32, order="C"))
        progress(len(frames), reference.chunk_count)
    return Side(frames, head_of(runner, rules)), None


def _dumped_frames(folder: Path, ours: Recorded) -> list[Array] | None:
    """Encoder frames of a candidate's dump, where it has as many chunks as the reference and holds them."""
    dump = DumpReader(folder)
    held = {spec.name for spec in dump.manifest.tensors}
    if dump.chunk_count < len(ours.frames) or not {"out/outputs", "out/encoded_lengths"} <= held:
        return None
    return [np.array(valid_frames(dump.chunk(index)), np.float32, order="C") for index in range(len(ours.frames))]


def _reference_head(
    options: TraceOptions, reference: DumpReader, rules: Decoder, stack: ExitStack, notes: list[str]
) -> Head | None:
    """Predictor and joint, or the CTC head, of the model that the dump was made from."""
    path = options.reference_model
    if path is None:
        return None
    runner = _opened("torch" if path.suffix == ".nemo" else "ort", path, {}, reference, stack)
    notes += [f"reference model: {line}" for line in check_identity(runner, reference, path, False)[1]]
    head = head_of(runner, rules)
    if head is None:
        raise StreamparityError(f"{path} has no decoder", "give the .nemo that the dump was made from, or its export")
    return head
