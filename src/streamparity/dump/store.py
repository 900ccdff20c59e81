"""Writing and reading a dump folder, safe to kill at any moment."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import StreamparityError
from ..tensors import Array, TensorSpec
from .anatomy import ANATOMY, Anatomy
from .atomic import write_bytes
from .formats.base import BadFile
from .formats.safetensors import load
from .manifest import Manifest
from .noise_floor import NOISE_FLOOR, NoiseFloor

MANIFEST = "dump.json"
CHUNKS = "chunks"
TRACE = "trace.jsonl"
CHUNK_FILE = re.compile(r"\d{6,}\.safetensors(\.partial)?")


def is_dump(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``dump.json``."""
    return (path / MANIFEST).is_file()


def is_unfinished(path: Path) -> bool:
    """Whether ``path`` holds nothing but what a dump killed at its very start, or while it was removed, leaves."""
    if not path.is_dir():
        return False
    ours = {CHUNKS, TRACE, f"{MANIFEST}.partial", f"{TRACE}.partial"}
    return all(item.name in ours for item in path.iterdir()) and all(
        CHUNK_FILE.fullmatch(item.name) for item in (path / CHUNKS).glob("*")
    )


def chunk_path(folder: Path, index: int) -> Path:
    """File of chunk ``index``."""
    return folder / CHUNKS / f"{index:06d}.safetensors"


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
            self.next_chunk = whole_chunks(self.folder)
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
        (self.folder / CHUNKS).mkdir(parents=True, exist_ok=True)
        for partial in [*self.folder.glob("*.partial"), *(self.folder / CHUNKS).glob("*.partial")]:
            partial.unlink()
        self._write_manifest()

    def _remove(self) -> None:
        """Remove a dump's own files and nothing else that may lie beside them."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder / CHUNKS, ignore_errors=True)
        for name in (TRACE, NOISE_FLOOR, ANATOMY):
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
        contiguous = {name: tensor.copy(order="C") for name, tensor in tensors.items()}
        write_bytes(chunk_path(self.folder, self.next_chunk), save(contiguous))
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
        index = self.next_chunk
        while (stale := chunk_path(self.folder, index)).exists():
            stale.unlink()
            index += 1
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
        self.chunk_count = whole_chunks(folder)
        if self.manifest.complete and self.chunk_count != self.manifest.chunks:
            raise StreamparityError(
                f"{folder} says it has {self.manifest.chunks} chunks but {self.chunk_count} are there: "
                f"{chunk_path(folder, self.chunk_count).name} is missing or damaged",
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
        return sum(chunk_path(self.folder, index).stat().st_size for index in range(self.chunk_count))

    def chunk(self, index: int) -> dict[str, Array]:
        """Every tensor of chunk ``index`` by its key.

        Raises:
            StreamparityError: the file is damaged.
        """
        path = chunk_path(self.folder, index)
        try:
            return load(path)
        except (BadFile, OSError) as error:
            raise StreamparityError(f"{path} is damaged: {error}", "run the dump again with --resume") from None

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


def whole_chunks(folder: Path) -> int:
    """How many chunks, counted from 0 without a gap, are there and open as safetensors."""
    index = 0
    while (path := chunk_path(folder, index)).is_file():
        try:
            with safe_open(path, framework="np"):
                index += 1
        except (SafetensorError, OSError):
            break
    return index


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
