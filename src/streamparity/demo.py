"""``streamparity demo``: the whole job on the model and the speech that ship with the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from .dump import DumpReader
from .dump.atomic import write_bytes
from .dump.store import encode
from .errors import StreamparityError
from .progress import Progress
from .run import RunOptions, run


@dataclass(frozen=True)
class DemoRecording:
    """A held-out recording that ships with the package: file name, what is said, and by which voice."""

    file: str
    text: str
    voice: str
    seconds: float


def demo_model() -> AbstractContextManager[Path]:
    """The shipped ``demo.nemo`` as a file."""
    return as_file(files("streamparity") / "data" / "demo.nemo")


def demo_audio(recording: DemoRecording) -> AbstractContextManager[Path]:
    """A shipped recording as a file."""
    return as_file(files("streamparity") / "data" / recording.file)


def demo_recordings() -> list[DemoRecording]:
    """The shipped recordings, shortest first."""
    listed = json.loads((files("streamparity") / "data" / "recordings.json").read_text(encoding="utf-8"))
    return [DemoRecording(**recording) for recording in listed]


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found: a result document per backend, and what was really said."""

    results: dict[str, dict[str, Any]]
    said: str


def demo(
    out: Path,
    att_context: tuple[int, ...],
    *,
    force: bool,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> DemoOutcome:
    """Dump, export, run on PyTorch and on ONNX Runtime, compare.

    Args:
        out: folder for ``reference/``, the export, ``result.json`` (ONNX Runtime) and ``result-torch.json``.
        att_context: attention context in encoder frames.
        force: replace what an earlier demo left there.
        progress: makes a progress bar with a title.

    Raises:
        StreamparityError: ``out`` is in use.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise StreamparityError(f"{out} already exists", "choose another --out, or pass --force to replace it")
    from .export import export
    from .reference.dumper import DumpOptions, dump
    from .reference.nemo import StreamingOptions, load_model

    recording = demo_recordings()[-1]
    streaming = StreamingOptions(att_context)
    with demo_model() as model_path, demo_audio(recording) as audio:
        loaded = load_model(str(model_path))
        with progress("reference") as show:
            dump(loaded, audio, out / "reference", DumpOptions(streaming, force=force), show)
        export(loaded, out, streaming, force=force)
        reference = DumpReader(out / "reference")
        results = {}
        for backend, model, target in (
            ("torch", model_path, "result-torch.json"),
            ("ort", out / "encoder.onnx", "result.json"),
        ):
            with progress(backend) as show:
                results[backend] = run(reference, RunOptions(backend=backend, model=model), show)
            write_bytes(out / target, encode(results[backend]))
    return DemoOutcome(results, recording.text)
