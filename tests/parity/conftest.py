"""Real exports and real reference dumps, of the shipped model and of small random ones, made once per session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamparity.dump import DumpReader

CONTEXT = (70, 1)


class Workshop:
    """Makes exports and dumps when a test first asks for them."""

    def __init__(self, loaded, folder: Path) -> None:
        self.loaded = loaded
        self.folder = folder

    def export(self, context: tuple[int, int] = CONTEXT) -> Path:
        from streamparity.export import export
        from streamparity.reference.nemo import StreamingOptions

        out = self.folder / f"export-{context[1]}"
        if not out.exists():
            export(self.loaded, out, StreamingOptions(context))
        return out

    def reference(self, context: tuple[int, int] = CONTEXT, schedule: str = "padded") -> DumpReader:
        from streamparity.demo import demo_audio, demo_recordings
        from streamparity.reference.dumper import DumpOptions, dump
        from streamparity.reference.nemo import StreamingOptions

        out = self.folder / f"reference-{context[1]}-{schedule}"
        if not out.exists():
            with demo_audio(demo_recordings()[0]) as audio:
                dump(self.loaded, audio, out, DumpOptions(StreamingOptions(context), schedule))
        return DumpReader(out)

    def edited(self, name: str, edit: Callable, graph: str = "encoder.onnx") -> Path:
        """A copy of the export with one of its graphs edited, and no contract beside it."""
        import onnx

        out = self.folder / name
        out.mkdir()
        for path in self.export().glob("*.onnx"):
            shutil.copy(path, out)
        model = onnx.load(out / graph)
        edit(model)
        onnx.save(model, out / graph)
        return out


@pytest.fixture(scope="session")
def workshop(loaded, tmp_path_factory) -> Workshop:
    return Workshop(loaded, tmp_path_factory.mktemp("workshop"))


class Variants:
    """Small models with random weights (``scripts/demo_model/variants.py``), their dumps and exports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        from demo_model.variants import save_variant

        path = self.folder / f"{name}.nemo"
        if not path.exists():
            save_variant(name, path)
        return path

    def streaming(self, name: str):
        from demo_model.variants import STREAMING
        from streamparity.reference.nemo import StreamingOptions

        return StreamingOptions(**STREAMING[name])

    def export(self, name: str) -> Path:
        from streamparity.export import export
        from streamparity.reference.nemo import load_model

        out = self.folder / f"{name}-export"
        if not out.exists():
            export(load_model(str(self.path(name))), out, self.streaming(name))
        return out

    def reference(self, name: str, head: str | None = None, noise_floor: bool = False) -> DumpReader:
        from streamparity.demo import demo_audio, demo_recordings
        from streamparity.reference.dumper import DumpOptions, dump
        from streamparity.reference.nemo import load_model

        out = self.folder / f"{name}-{head}-{noise_floor}"
        if not out.exists():
            options = DumpOptions(self.streaming(name), decoder=head, noise_floor=noise_floor)
            with demo_audio(demo_recordings()[0]) as audio:
                dump(load_model(str(self.path(name))), audio, out, options)
        return DumpReader(out)


@pytest.fixture(scope="session")
def variants(tmp_path_factory) -> Variants:
    return Variants(tmp_path_factory.mktemp("variants"))
