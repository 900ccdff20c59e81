"""Plants the porter's faults and prints what was said of each: ``python -m tests.faults.porter [--model M] [GLOB...]``.

Before a fault counts, the port is driven next to the sound export without streamparity's judgement: one that changes
nothing is no fault, and the first chunk in which it changes something is where it begins.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "scripts"))

from streamparity.decode import CandidateDecoder
from streamparity.loop import ChunkFailure, drive
from streamparity.runners import RunnerOptions

from . import porter_faults, porter_harmless
from .bench import Bench, demo_bench, regular_bench
from .fault import Planted
from .score import run_planted

FELT = 2e-5  # of a tensor's largest value: ten times what float32 costs over a stream


def outcome(bench: Bench, planted: Planted):
    """Per chunk, what leaves the port: outputs, caches, lengths and decoder's scores."""
    reference = bench.reference(planted.reference)
    runner = planted.runner.open(planted.model, RunnerOptions((), (), reference.manifest.streaming, planted.settings))
    decoder = CandidateDecoder(runner.transducer, reference.manifest.decoder)
    for done in drive(runner, reference, "closed-loop"):
        if isinstance(done, ChunkFailure):
            yield None
            return
        scored = {spec.name: array for spec, array in decoder.chunk(done.tensors)}
        yield {k: v for k, v in done.tensors.items() if k.startswith("out/")} | scored


def effect(bench: Bench, planted: Planted) -> tuple[int | None, float]:
    """The first chunk in which a port does other than the sound export, and by how much at most."""
    sound = outcome(bench, Planted(bench.edited("unharmed", lambda model: None)))
    first, most = None, 0.0
    for index, (right, found) in enumerate(zip(sound, outcome(bench, planted), strict=False)):
        for name, array in right.items():
            other = None if found is None else found[name]
            if other is None or other.shape != array.shape or not np.isfinite(other).all():
                size = np.inf
            elif array.size:
                size = np.abs(array.astype(float) - other).max() / max(np.abs(array).max(), 1e-3)
            else:
                continue
            if size > FELT and first is None:
                first = index
            most = max(most, float(size))
        if found is None:
            break
    return first, most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("globs", nargs="*", default=["*"])
    parser.add_argument("--model", choices=("demo", "regular"), default="demo")
    parser.add_argument("--effect", action="store_true", help="only say what each changes")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        bench = (demo_bench if options.model == "demo" else regular_bench)(Path(scratch))
        for fault in porter_faults.FAULTS:
            if fault.only in (None, options.model) and any(fnmatchcase(fault.name, g) for g in options.globs or ["*"]):
                try:
                    print(_fault(bench, fault, options.effect), flush=True)
                except Exception as error:
                    traceback.print_exc()
                    print(f"| {fault.name} | BROKEN | {type(error).__name__}: {str(error)[:200]} |", flush=True)
        for change in porter_harmless.CHANGES:
            if change.only in (None, options.model) and any(
                fnmatchcase(change.name, g) for g in options.globs or ["*"]
            ):
                try:
                    print(_harmless(bench, change, options.effect), flush=True)
                except Exception as error:
                    traceback.print_exc()
                    print(f"| harmless: {change.name} | BROKEN | {type(error).__name__}: {str(error)[:200]} |")
    return 0


def _fault(bench: Bench, fault, only_effect: bool) -> str:
    planted = fault.plant(bench, 1.0)
    first, most = effect(bench, planted)
    expected = fault.expected_chunk(bench)
    felt = f"from {first}, {most:.2g}"
    if only_effect:
        return f"| {fault.name} | {expected} | {felt} |{'' if first == expected or fault.any_chunk else ' CHUNK?'}"
    started = time.perf_counter()
    result = run_planted(bench, planted)
    seconds = time.perf_counter() - started
    place, causes = result["localization"] or {}, result["diagnosis"]
    code = causes[0]["code"] if causes else None
    chunk, module, right = fault.right(bench, place.get("module"), code, place.get("chunk"))
    wrong = [w for w, ok in zip(("chunk", "module", "code"), (chunk, module, right), strict=True) if not ok]
    wrong = ["not detected"] if result["verdict"] != "fail" else wrong
    said = ", ".join(f"{cause['code']} {cause['confidence']:.2g}" for cause in causes[:3])
    verdict = "ok" if not wrong else f"WRONG {', '.join(wrong)}"
    names = " or ".join(m.format(mid=bench.layers // 2, last=bench.layers - 1) for m in fault.modules)
    return (
        f"| {fault.name} | {expected} | {names} | {' or '.join(fault.codes)} | {felt} "
        f"| {place.get('chunk')} | {place.get('module')} | {said} | {verdict} | {seconds:.1f} |"
    )


def _harmless(bench: Bench, change, only_effect: bool) -> str:
    planted = change.plant(bench)
    first, most = effect(bench, replace(planted))
    if only_effect:
        return f"| harmless: {change.name} | | from {first}, {most:.2g} |"
    result = run_planted(bench, planted)
    passed = result["verdict"] == "pass" and not result["diagnosis"]
    said = ", ".join(f"{cause['code']} {cause['confidence']:.2g}" for cause in result["diagnosis"][:3])
    why = "ok" if passed else f"ALARM {result['verdict']} {result['objections']}"
    return f"| harmless: {change.name} | | | pass | from {first}, {most:.2g} | | | {said} | {why} | |"


if __name__ == "__main__":
    sys.exit(main())
