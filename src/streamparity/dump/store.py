"""Writing and reading a dump folder, safe to kill at any moment."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StreamparityError
from ..tensors import Array, TensorSpec
from .anatomy import ANATOMY, Anatomy
from .atomic import write_bytes
from .chunk_files import ChunkFiles
from .manifest import Manifest
from .noise_floor import NOISE_FLOOR, NoiseFloor

MANIFEST = "dump.json"
CHUNKS = "chunks"
FLOAT64 = "float64"
TRACE = "trace.jsonl"
BESIDE = (NOISE_FLOOR, ANATOMY)


def is_dump(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``dump.json``."""
    return (path / MANIFEST).is_file()


def is_unfinished(path: Path) -> bool:
    """Whether ``path`` holds nothing but what a dump killed at its very start, or while it was removed, leaves."""
    if not path.is_dir():
        return False
    ours = {CHUNKS, FLOAT64, *(f"{name}{end}" for name in (TRACE, *BESIDE) for end in ("", ".partial"))}
    return all(item.name in {*ours, f"{MANIFEST}.partial"} for item in path.iterdir()) and all(
        ChunkFiles(path / name).alone() for name in (CHUNKS, FLOAT64)
    )


def float64_files(folder: Path) -> ChunkFiles:
    """Where a dump keeps what the same loop computes in float64 (``dump --noise-floor``)."""
    return ChunkFiles(folder / FLOAT64, "run the dump again with --resume --noise-floor, or remove the float64 folder")


def encode(value: Mapping[str, Any]) -> bytes:
    """A JSON document as it stands in a dump: indented, UTF-8, keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


class DumpWriter:
    """Writes a dump chunk by chunk; whatever is on disk is always readable up to its last whole chunk.

    Args:
        folder: where; must not exist or be empty unless ``force`` or ``resume``.
        manifest: the dump's description, without tensors.
        force: replace what an earlier dump left there; a folder that holds anything else is refused.
        resume: go on after the last whole chunk of the same job.

    Raises:
        StreamparityError: the folder exists, or ``resume`` meets a dump of another job.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, force: bool = False, resume: bool = False) -> None:
        self.folder = folder
        self.manifest = manifest
        self.next_chunk = 0
        self._files = ChunkFiles(folder / CHUNKS)
        self._prepare(force, resume)

    def _prepare(self, force: bool, resume: bool) -> None:
        occupied = self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()))
        unfinished = not is_dump(self.folder) and is_unfinished(self.folder)
        if resume and is_dump(self.folder):
            earlier = Manifest.read(self.folder / MANIFEST)
            if not earlier.same_job(self.manifest):
                raise StreamparityError(
                    f"{self.folder} holds a dump of another job (model, audio, schedule, taps or versions differ)",
                    "resume with the arguments it was begun with, or choose another --out",
                )
            self.manifest = replace(earlier, complete=False, tokens=None, text=None)
            self.next_chunk = self._files.whole()
            self._cut_trace()
        elif occupied and not force and not (resume and unfinished):
            raise StreamparityError(
                f"{self.folder} already exists", "choose another folder, pass --force to replace it, or --resume a dump"
            )
        elif occupied:
            if not is_dump(self.folder) and not unfinished:
                raise StreamparityError(
                    f"{self.folder} exists and is not a dump: --force replaces dumps only",
                    "choose another --out, or remove it yourself",
                )
            self._remove()
        self._files.prepare()
        for partial in self.folder.glob("*.partial"):
            partial.unlink()
        self._write_manifest()

    def _remove(self) -> None:
        """Remove a dump's own files and nothing else that may lie beside them."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for name in (CHUNKS, FLOAT64):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (TRACE, *BESIDE):
            (self.folder / name).unlink(missing_ok=True)

    def _cut_trace(self) -> None:
        """Drop trace lines of a chunk that was never finished."""
        kept = [line for line in read_trace(self.folder) if line["chunk"] < self.next_chunk]
        write_bytes(self.folder / TRACE, b"".join(trace_line(line) for line in kept))

    def _write_manifest(self) -> None:
        write_bytes(self.folder / MANIFEST, encode(self.manifest.to_json()))

    def write(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Array], trace: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Add the next chunk: ``specs`` describe ``tensors`` (the ``state/`` ones excepted).

        Order on disk is what makes a kill harmless: description, then trace, then the chunk itself.
        """
        known = {spec.name for spec in self.manifest.tensors}
        new = tuple(spec for spec in specs if spec.name not in known)
        if new:
            self.manifest = replace(self.manifest, tensors=(*self.manifest.tensors, *new))
            self._write_manifest()
        if trace:
            with open(self.folder / TRACE, "ab") as file:
                file.writelines(trace_line(line) for line in trace)
        self._files.write(self.next_chunk, tensors)
        self.next_chunk += 1

    def abandon(self) -> None:
        """Take back a dump to which nothing was written, so that it does not stand in the way of the next."""
        if self.next_chunk == 0:
            self._remove()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def annotate(self, **facts: Any) -> None:
        """Add facts to ``dump.json``; they are written when the dump is finished."""
        self.manifest = replace(self.manifest, extra={**self.manifest.extra, **facts})

    def finish(self, tokens: list[int] | None, text: str | None) -> Manifest:
        """Declare the dump complete; whatever chunks an earlier, longer dump left behind are removed."""
        self._files.cut(self.next_chunk)
        self.manifest = self.manifest.completed(self.next_chunk, tokens, text)
        self._write_manifest()
        return self.manifest


class DumpReader:
    """Reads a dump, complete or cut off.

    Args:
        folder: the dump.

    Raises:
        StreamparityError: not a dump, another schema, or no whole chunk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        self._files = ChunkFiles(folder / CHUNKS)
        self._float64 = float64_files(folder)
        self.chunk_count = self._files.whole()
        if self.manifest.complete and self.chunk_count != self.manifest.chunks:
            raise StreamparityError(
                f"{folder} says it has {self.manifest.chunks} chunks but {self.chunk_count} are there: "
                f"{self._files.path(self.chunk_count).name} is missing or damaged",
                "copy the whole folder, or make the dump again",
            )
        if self.chunk_count == 0 and "failed_step" not in self.manifest.extra:
            raise StreamparityError(f"{folder} has no whole chunk", "run the dump again with --resume")

    @property
    def sha256(self) -> str:
        """Hash of ``dump.json``, which names model, audio, schedule and versions."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks on disk."""
        return sum(self._files.path(index).stat().st_size for index in range(self.chunk_count))

    def chunk(self, index: int) -> dict[str, Array]:
        """Every tensor of chunk ``index`` by its key.

        Raises:
            StreamparityError: the file is damaged.
        """
        return self._files.read(index)

    @property
    def has_float64(self) -> bool:
        """Whether the dump keeps what the same loop computes in float64; its floor is then measured against that."""
        return self._float64.folder.is_dir()

    def float64_chunk(self, index: int) -> dict[str, Array]:
        """What the same loop computes in float64 of chunk ``index``: output ports and taps, by the keys of the chunk.

        Decoder tensors are there up to the first decision that float64 makes differently.

        Raises:
            StreamparityError: the file is missing or damaged.
        """
        stored = self._float64.read(index)
        return {name: array for name, array in stored.items() if name.startswith(("out/", "tap/"))}

    def noise_floor(self) -> NoiseFloor | None:
        """What arithmetic alone costs, where the dump says (``dump --noise-floor``)."""
        return NoiseFloor.read(self.folder)

    def anatomy(self) -> Anatomy | None:
        """What the model is made of, where the dump says."""
        return Anatomy.read(self.folder)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self.chunk(index) for index in range(self.chunk_count))

    def trace(self) -> list[dict[str, Any]]:
        """Decoding steps of the whole chunks, oldest first."""
        return [line for line in read_trace(self.folder) if line["chunk"] < self.chunk_count]


def trace_line(line: Mapping[str, Any]) -> bytes:
    """One decoding step as a JSON line."""
    return (json.dumps(line, separators=(", ", ": ")) + "\n").encode()


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of ``trace.jsonl``; a line cut off by a kill ends the list.

    Raises:
        StreamparityError: a line is no decoding step.
    """
    path = folder / TRACE
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for raw in path.read_bytes().splitlines(keepends=True):
        if not raw.endswith(b"\n"):
            break
        try:
            step = json.loads(raw)
            lines.append({**step, "chunk": int(step["chunk"]), "label": int(step["label"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StreamparityError(
                f"{path}, line {len(lines) + 1} is no decoding step: {type(error).__name__} {error}",
                "make the dump again",
            ) from None
    return lines
