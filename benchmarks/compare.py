"""How fast two files are compared, and in how much memory, beside other programs that do it.

    make bench-compare               # .venv/bin/python benchmarks/compare.py [--rounds N] [--largest MIB] [--out FILE]

Prints one page of tables and writes the same page to ``benchmarks/compare.md``. Every program runs in a process of its
own, which is what its peak memory is measured of; files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

PAGE = Path(__file__).with_name("compare.md")
SIZES_KIB = (64, 16 << 10, 256 << 10, 1 << 20)
ROUNDS = 7
SLOW_SECONDS = 3.0  # a program slower than this is run once more and no oftener
PIECE = 1 << 22
BASELINE = "cmp"

Job = Callable[[], object]
Paths = tuple[Path, Path]


# --------------------------------------------------------------------------------------------------------- programs
def cmp(paths: Paths) -> Job:
    return lambda: subprocess.run(["cmp", *paths], check=True)


def streamparity_files(paths: Paths) -> Job:
    from streamparity import compare

    return lambda: compare(*paths, shape=(-1,))


def streamparity_one_pass(paths: Paths) -> Job:
    from streamparity import compare

    return lambda: compare(*paths, shape=(-1,), percentiles=())


def streamparity_numpy(paths: Paths) -> Job:
    """As on a machine without numba."""
    from streamparity import compare
    from streamparity.comparison import engine, plain

    engine._compiled = lambda: plain
    return lambda: compare(*paths, shape=(-1,))


def streamparity_command(paths: Paths) -> Job:
    command = [sys.executable, "-m", "streamparity.cli", "compare", *paths, "--shape", "-1", "--quiet"]
    return lambda: subprocess.run(command, check=True)


def arrays(paths: Paths) -> list[np.ndarray]:
    return [np.fromfile(path, np.float32) for path in paths]


def polygraphy(paths: Paths) -> Job:
    from polygraphy.comparator import IterationResult, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    check = SimpleCompareFunc(atol=1e-5, rtol=1e-5)

    def run() -> object:
        sides = [IterationResult({"value": array}) for array in arrays(paths)]
        return check(*sides)

    return run


def torch_testing(paths: Paths) -> Job:
    import torch

    def run() -> None:
        reference, candidate = map(torch.from_numpy, arrays(paths))
        torch.testing.assert_close(candidate, reference, atol=1e-5, rtol=1e-5)

    return run


def numpy_percentile(paths: Paths) -> Job:
    def run() -> object:
        reference, candidate = arrays(paths)
        return np.percentile(np.abs(candidate - reference), (50, 90, 95, 99, 99.9, 100))

    return run


PROGRAMS: dict[str, Callable[[Paths], Job]] = {
    BASELINE: cmp,
    "streamparity": streamparity_files,
    "streamparity, `percentiles=()`": streamparity_one_pass,
    "streamparity without numba": streamparity_numpy,
    "`streamparity compare`, whole process": streamparity_command,
    "`torch.testing.assert_close`": torch_testing,
    "`numpy.percentile`": numpy_percentile,
    "Polygraphy": polygraphy,
}
BUSY = (BASELINE, "streamparity", "streamparity, `percentiles=()`")


# -------------------------------------------------------------------------------------------------------- measuring
def measured_here(name: str, paths: Paths, rounds: int) -> dict[str, float]:
    """Seconds and peak MB of a program in this process; the first run warms up and does not count."""
    job = PROGRAMS[name](paths)
    seconds: list[float] = []
    while len(seconds) < rounds + 1 and not (len(seconds) > 1 and seconds[-1] > SLOW_SECONDS):
        started = perf_counter()
        job()
        seconds.append(perf_counter() - started)
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # A child begins as a copy of this process, which is many times what cmp takes.
    return {"seconds": median(seconds[1:]), "mb": 0 if name == BASELINE else (children or own) / 1024}


def measured(name: str, paths: Paths, rounds: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--program", name, "--rounds", str(rounds), *map(str, paths)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


@contextmanager
def other_core_busy() -> Iterator[None]:
    """All cores but one are kept at work."""
    spinners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(max(1, (os.cpu_count() or 2) - 1))
    ]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def write_pair(folder: Path, kib: int) -> tuple[Paths, Paths]:
    """A reference and a port of it, off by what float32 costs; and for cmp, which stops at a difference, two copies."""
    rng = np.random.default_rng(kib)
    names = [folder / name for name in ("reference.bin", "port.bin", "copy.bin")]
    left = kib << 8
    with open(names[0], "wb") as reference, open(names[1], "wb") as port, open(names[2], "wb") as copy:
        while left:
            values = rng.standard_normal(min(left, PIECE), np.float32)
            values.tofile(reference)
            values.tofile(copy)
            (values + rng.standard_normal(values.size, np.float32) * np.float32(1e-6)).tofile(port)
            left -= values.size
    return (names[0], names[1]), (names[0], names[2])


def pairs_in_memory(rounds: int) -> list[tuple[str, float]]:
    """Microseconds for a pair of 64 KiB arrays that are in memory already."""
    import torch
    from polygraphy.comparator import IterationResult, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    from streamparity import compare
    from streamparity.comparison import Comparator, kernels
    from streamparity.tensors import TensorSpec

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(1 << 14, np.float32)
    candidate = reference + rng.standard_normal(1 << 14, np.float32) * np.float32(1e-6)
    tensors = [torch.from_numpy(side) for side in (candidate, reference)]
    results = [IterationResult({"value": side}) for side in (reference, candidate)]
    simple = SimpleCompareFunc(atol=1e-5, rtol=1e-5)
    spec = TensorSpec("out/value", "output", "float32", ("N",))
    comparator = Comparator([spec], 1 << 62, loops=kernels)
    sides = ({spec.name: reference}, {spec.name: candidate})
    chunk = iter(range(1 << 62))
    jobs: dict[str, Job] = {
        "streamparity, one of a run's pairs (`Comparator.add`)": lambda: comparator.add(next(chunk), *sides),
        "streamparity, the whole result (`streamparity.compare`)": lambda: compare(reference, candidate),
        "`torch.testing.assert_close`": lambda: torch.testing.assert_close(*tensors, atol=1e-5, rtol=1e-5),
        "`numpy.percentile`": lambda: np.percentile(np.abs(candidate - reference), (50, 90, 95, 99, 99.9, 100)),
        "Polygraphy": lambda: simple(*results),
    }
    torch.set_num_threads(1)
    return [(name, best(job, 200 if name != "Polygraphy" else 20, rounds)) for name, job in jobs.items()]


def best(job: Job, times: int, rounds: int) -> float:
    """Microseconds of one run: the median over rounds of so many runs each."""
    found = []
    for _ in range(rounds + 1):
        started = perf_counter()
        for _ in range(times):
            job()
        found.append((perf_counter() - started) / times * 1e6)
    return median(found[1:])


# ------------------------------------------------------------------------------------------------------------- page
def bench(folder: Path, sizes_kib: list[int], rounds: int) -> str:
    sections = [
        "# Comparing two files",
        "",
        f"float32, a reference and a port that is off by 1e-6; median of {rounds} runs, page cache warm; "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        "GB/s are of both files together; `cmp` is given two equal files, since it stops at the first difference. "
        "Programs but `cmp` and the whole process were loaded and warm. Made by `make bench-compare`.",
        "",
    ]
    for kib in sizes_kib:
        pair, equal = write_pair(folder, kib)
        found = {name: measured(name, equal if name == BASELINE else pair, rounds) for name in PROGRAMS}
        sections += table(f"Two files of {size(kib)}", found, kib)
    with other_core_busy():
        found = {name: measured(name, equal if name == BASELINE else pair, rounds) for name in BUSY}
    sections += table(f"Two files of {size(kib)}, all cores but one busy", found, kib)
    rows = pairs_in_memory(rounds)
    sections += ["## A pair of 64 KiB arrays in memory", "", "| program | µs | × Polygraphy |", "|---|---|---|"]
    sections += [f"| {name} | {micros:.0f} | {rows[-1][1] / micros:.1f} |" for name, micros in rows]
    return "\n".join(sections) + "\n"


def table(title: str, found: dict[str, dict[str, float]], kib: int) -> list[str]:
    base = found[BASELINE]["seconds"]
    rows = [f"## {title}", "", "| program | ms | GB/s | × cmp | peak MB |", "|---|---|---|---|---|"]
    for name, figures in found.items():
        seconds = figures["seconds"]
        rate = 2 * kib * 1024 / seconds / 1e9
        memory = f"{figures['mb']:.0f}" if figures["mb"] else "-"
        rows.append(f"| {name} | {seconds * 1e3:.1f} | {rate:.3g} | {base / seconds:.2f} | {memory} |")
    return [*rows, ""]


def size(kib: int) -> str:
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB" if kib < 1 << 20 else f"{kib >> 20} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each program (default {ROUNDS})")
    parser.add_argument("--largest", type=int, default=1024, metavar="MIB", help="leave out larger files")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default benchmarks/compare.md)")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program is not None:
        print(json.dumps(measured_here(options.program, tuple(options.files), options.rounds)))
        return
    sizes = [kib for kib in SIZES_KIB if kib <= options.largest << 10]
    with tempfile.TemporaryDirectory() as folder:
        page = bench(Path(folder), sizes, options.rounds)
    options.out.write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
