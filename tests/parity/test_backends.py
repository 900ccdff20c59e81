"""Backends of third parties: one that works as the README draws it, and ones that break the protocol."""

from __future__ import annotations

import importlib.metadata

import pytest

from streamparity.errors import BackendMissing, StepFailed, StreamparityError
from streamparity.run import RunOptions, run
from streamparity.runners import Runner, registry
from streamparity.runners.ort import OrtRunner
from streamparity.tensors import ENCODER_OUTPUTS

OUTPUTS = tuple(ENCODER_OUTPUTS)


class Ported(Runner):
    """A port without taps or decoder that computes with ONNX Runtime and keeps its caches itself."""

    name = "ported"

    @classmethod
    def open(cls, model, options):
        runner = cls()
        runner.port = OrtRunner.open(model, type(options)())
        runner.unmatched = dict.fromkeys(options.taps, "the port has no taps")
        return runner

    def set_caches(self, caches):
        self.port.set_caches(caches)

    def step(self, chunk):
        returned = self.port.step(chunk)
        return {f"out/{name}": returned[f"out/{name}"] for name in OUTPUTS}


class Raises(Ported):
    def step(self, chunk):
        raise ValueError("boom\nand more")


class Gives(Ported):
    returned: object = None

    def step(self, chunk):
        return self.returned


class CannotRun(Ported):
    def step(self, chunk):
        raise StepFailed("shape outside every profile", "encoder.layers.0.conv")


@pytest.fixture
def installed(monkeypatch):
    """Install an object as the backend ``mine``."""

    def install(thing: object) -> None:
        class Entry:
            name = "mine"

            def load(self):
                return thing

        entries = importlib.metadata.entry_points(group=registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [*entries, Entry()])

    return install


def options(workshop, **more):
    return RunOptions("mine", workshop.export() / "encoder.onnx", limit=3, **more)


def test_a_backend_of_ones_own_is_compared_port_by_port(installed, workshop):
    installed(Ported)
    result = run(workshop.reference(), options(workshop, allow_unmatched=["*"]))
    assert result["objections"] == []
    assert [tensor["name"] for tensor in result["tensors"]] == list(OUTPUTS)
    strict = run(workshop.reference(), options(workshop))
    assert strict["verdict"] == "fail"
    assert set(strict["coverage"]["unmatched_reasons"].values()) == {"the port has no taps"}


def test_a_step_that_cannot_be_run_is_a_divergence(installed, workshop):
    installed(CannotRun)
    result = run(workshop.reference(), options(workshop, allow_unmatched=["*"]))
    assert result["first_divergence"]["tensor"] == "encoder.layers.0.conv"
    assert result["first_divergence"]["error"] == "shape outside every profile"


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Raises, "backend ported broke at chunk 0: ValueError boom"),
        (type("Empty", (Gives,), {}), "does not return a dict of numpy arrays"),
        (type("Lists", (Gives,), {"returned": {"out/outputs": [1]}}), "does not return a dict of numpy arrays"),
        (type("Lacks", (Gives,), {"returned": {}}), "does not return out/outputs"),
    ],
    ids=["raises", "nothing", "lists", "lacks ports"],
)
def test_a_backend_that_breaks_the_protocol_is_named(installed, workshop, thing, expected):
    installed(thing)
    with pytest.raises(StreamparityError, match=expected):
        run(workshop.reference(), options(workshop))


def test_what_is_no_backend_is_refused(installed, workshop):
    installed(dict)
    with pytest.raises(BackendMissing, match="is no Runner"):
        run(workshop.reference(), options(workshop))


def test_settings_are_checked_for_every_backend(installed, workshop):
    installed(Ported)
    with pytest.raises(StreamparityError, match="has no option 'speed'"):
        run(workshop.reference(), options(workshop, settings={"speed": "high"}))
