"""Runs a fault and holds what is found against what should be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from streamparity.comparison import select
from streamparity.run import RunOptions, run, run_opened
from streamparity.runners import RunnerOptions
from streamparity.runners.ort import OrtRunner

from .bench import Bench
from .fault import Fault, Harmless, Planted

TRIES = 7  # of the search for the weakest setting: strengths lie within a factor 2^-7 of the range, in logarithms


@dataclass(frozen=True)
class Row:
    """One fault at one strength, what was expected of it and what was found.

    Attributes:
        bench: what it was planted in.
        fault: what was planted.
        strength: how strongly; ``None`` where a fault has no strengths.
        detected: whether the run failed.
        expected_chunk: where it should have been seen first.
        expected_modules: where it should have been found.
        chunk: where it was seen first.
        module: where it was found.
        code: the diagnosis that came first.
        also: those that came after it.
        tokens_equal: whether no label differed; ``None`` where none were decoded.
        seconds: how long run and localization took.
    """

    bench: str
    fault: Fault
    strength: float | None
    detected: bool
    expected_chunk: int
    expected_modules: tuple[str, ...]
    chunk: int | None
    module: str | None
    code: str | None
    also: tuple[str, ...]
    tokens_equal: bool | None
    seconds: float

    @property
    def verdicts(self) -> dict[str, bool]:
        """What was right and what was not; without what no answer is expected of."""
        asked = {"detection": self.detected}
        if not self.fault.any_chunk:
            asked["chunk"] = self.chunk == self.expected_chunk
        if self.expected_modules:
            found = self.module or ""
            asked["module"] = any(found == name or found.startswith(f"{name}.") for name in self.expected_modules)
        if self.fault.codes:
            asked["diagnosis"] = self.code in self.fault.codes
        return asked

    @property
    def wrong(self) -> list[str]:
        return [what for what, right in self.verdicts.items() if not right]


def run_planted(bench: Bench, planted: Planted, localize: bool = True) -> dict[str, Any]:
    """The result document of a planted fault, by the very functions that ``streamparity run`` calls."""
    reference = bench.reference(planted.reference)
    options = RunOptions(
        planted.backend,
        planted.model,
        mode=planted.mode,
        limit=planted.limit,
        allow_unmatched=planted.allow_unmatched,
        localize=localize,
        settings=planted.settings,
    )
    if planted.runner is OrtRunner:
        return run(reference, options)
    specs = select([spec for spec in reference.manifest.tensors if spec.kind != "input"], [])
    wanted = RunnerOptions.of(specs, reference.manifest.streaming, planted.settings)
    runner = planted.runner.open(planted.model, wanted)
    return run_opened(runner, reference, specs, options)


def alarm(bench: Bench, change: Harmless) -> str:
    """What a harmless change was taken for; empty where it passed, as it should."""
    result = run_planted(bench, change.plant(bench))
    causes = [cause["code"] for cause in result["diagnosis"]]
    if result["verdict"] == "pass" and not (result["objections"] or causes or result["localization"]):
        return ""
    return f"{result['verdict']} {result['objections']} {causes}"


def score(bench: Bench, fault: Fault, strength: float | None = None) -> Row:
    """Plant, run, localize."""
    used = strength if strength is not None else fault.strengths[0] if fault.strengths else 1.0
    planted = fault.plant(bench, used)
    started = time.perf_counter()
    result = run_planted(bench, planted)
    seconds = time.perf_counter() - started
    place, causes, tokens = result["localization"], result["diagnosis"], result["tokens"]
    return Row(
        bench.name,
        fault,
        used if fault.strengths else None,
        result["verdict"] == "fail",
        fault.expected_chunk(bench),
        fault.expected_modules(bench),
        None if place is None else place["chunk"],
        None if place is None else place["module"],
        causes[0]["code"] if causes else None,
        tuple(f"{cause['code']} {cause['confidence']}" for cause in causes[1:4]),
        None if tokens is None else tokens["equal"],
        seconds,
    )


def weakest(bench: Bench, fault: Fault) -> float | None:
    """The weakest strength, to a step of the search, at which a label still differs; ``None`` if none does."""
    assert fault.strengths is not None
    strong, weak = fault.strengths

    def flips(strength: float) -> bool:
        tokens = run_planted(bench, fault.plant(bench, strength), localize=False)["tokens"]
        return tokens is not None and not tokens["equal"]

    if not flips(strong):
        return None
    if flips(weak):
        return weak
    for _ in range(TRIES):
        middle = (strong * weak) ** 0.5
        strong, weak = (middle, weak) if flips(middle) else (strong, middle)
    return strong
