"""What a model under test returned, written as a dump that ``compare`` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .comparison.facts import CandidateFacts
from .dump import DumpReader, DumpWriter
from .loop import CandidateChunk, ChunkFailure
from .provenance import versions
from .tensors import TensorSpec


class CandidateDump:
    """Writes a candidate's chunks beside what is needed to judge them as the run did.

    Args:
        folder: where; must be free unless ``force``.
        reference: the dump that was fed.
        facts: what ``compare`` needs to judge the dump as the run did.
        producer: backend, threads, arithmetic.
        force: replace an earlier dump.

    Raises:
        StreamparityError: the folder is in use.
    """

    def __init__(
        self, folder: Path, reference: DumpReader, facts: CandidateFacts, producer: Mapping[str, Any], force: bool
    ) -> None:
        self._facts = facts
        self._described: Sequence[TensorSpec] = reference.manifest.tensors
        self._decoder = reference.manifest.decoder
        manifest = replace(
            reference.manifest,
            producer={"program": "streamparity run", "versions": versions(), **producer},
            tensors=(),
            chunks=0,
            complete=False,
            tokens=None,
            text=None,
            extra=facts.to_json(),
        )
        self._writer = DumpWriter(folder, manifest, force=force)

    def write(self, done: CandidateChunk) -> None:
        """Add one chunk, in the reference's forward order, with the candidate's own dtypes."""
        present = [spec for spec in self._described if spec.name in done.tensors]
        specs = [replace(spec, dtype=str(done.tensors[spec.name].dtype)) for spec in present]
        self._writer.write(specs, {spec.name: done.tensors[spec.name] for spec in specs}, done.trace)

    def finish(self, labels: list[int] | None, failure: ChunkFailure | None) -> None:
        """Complete the dump with the labels emitted, and the step that failed if one did."""
        if failure is not None:
            failed = replace(self._facts, failed_step=(failure.index, failure.message, failure.module))
            self._writer.annotate(**failed.to_json())
        text = None if self._decoder is None or labels is None else self._decoder.text(labels)
        self._writer.finish(labels, text)
