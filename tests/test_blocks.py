"""The compiled loops and numpy's give the same figures, however the values lie in memory or in files."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from streamparity import compare
from streamparity.comparison import View, engine, plain, statistics
from streamparity.comparison.blocks import block_of, has_units
from streamparity.dtypes import DTYPES, family

from .test_compare import only, written

kernels = pytest.importorskip("streamparity.comparison.kernels")

SUMS = ("mean_abs", "rmse", "cosine", "pearson", "snr_db")
Figures = dict[str, Any]
Both = Callable[..., tuple[Figures, Figures]]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Both:
    """Compares with numpy's loops and with the compiled ones."""

    def run(*sides: Any, **options: Any) -> tuple[Figures, Figures]:
        found = []
        for loops in (plain, kernels):
            used: list[Any] = []
            for name in ("accumulate", "select", "collect"):
                original = vars(loops)[name]
                spy = lambda *a, _original=original: (used.append(loops), _original(*a))[1]  # noqa: B023, E731
                monkeypatch.setattr(loops, name, spy)
            monkeypatch.setattr(engine, "_compiled", lambda loops=loops: loops)
            monkeypatch.setattr(engine, "COMPILED_FROM", 0)
            result = compare(*sides, worst=4, **options)
            monkeypatch.undo()
            assert loops in used
            found.append(result)
        return found[0], found[1]

    return run


def assert_same(results: tuple[Figures, Figures]) -> None:
    """Bit for bit, but for sums; what it is compared with is not nothing."""
    first, second = results
    assert first["verdict"] == second["verdict"]
    assert first["objections"] == second["objections"]
    assert first["first_divergence"] == second["first_divergence"]
    assert first["tensors"]
    for ours, theirs in zip(first["tensors"], second["tensors"], strict=True):
        assert {k: v for k, v in ours.items() if k not in SUMS} == {k: v for k, v in theirs.items() if k not in SUMS}
        for key in SUMS:
            floor = 0 if key in ("mean_abs", "rmse") else 1e-12
            assert ours[key] == (None if theirs[key] is None else pytest.approx(theirs[key], rel=1e-12, abs=floor)), key


def values(dtype: np.dtype, seed: int, size: int = 5000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if family(dtype) == "bool":
        return rng.random(size) < 0.5
    if family(dtype) == "integer":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, size, dtype, endpoint=True)
    found = (rng.normal(size=size) * 10.0 ** rng.integers(-3, 3, size)).clip(-200, 200)
    found[rng.integers(0, size, 20)] = 0
    return found.astype(dtype)


PAIRS = [(r, c) for r in DTYPES for c in DTYPES if family(DTYPES[r]) == family(DTYPES[c])]


@pytest.mark.parametrize(("reference", "candidate"), PAIRS)
def test_every_pair_of_types_gives_the_same_figures(both, reference, candidate):
    left = values(DTYPES[reference], 0)
    near = left.astype(np.float64) if family(left.dtype) == "float" else left
    for right in (values(DTYPES[candidate], 1), near.astype(DTYPES[candidate])):
        results = both(left, right)
        assert_same(results)
        assert only(results[0])["elements"] == left.size
        exact = only(results[0])["exact_fraction"]
        wide = left.astype(object) == right.astype(object)
        assert exact == np.count_nonzero(wide) / left.size


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_change_nothing_but_what_they_are(both, dtype, bad):
    left, right = values(DTYPES[dtype], 0, 9000), values(DTYPES[dtype], 1, 9000)
    left[[0, 2047, 2048, 8999]] = bad
    right[[1, 2048, 5000]] = bad
    results = both(left, right)
    assert_same(results)
    assert only(results[0])["nonfinite"] == {"reference": 4, "candidate": 3}


@pytest.mark.parametrize("size", [1, 2, 2047, 2048, 2049, 4096, 70_001])
def test_tiles_blocks_and_what_is_left_over_give_the_same_figures(both, monkeypatch, size):
    results = both(values(DTYPES["f32"], 0, size), values(DTYPES["f32"], 1, size))
    assert_same(results)
    assert only(results[0])["elements"] == size


@pytest.fixture
def small(monkeypatch):
    """Many blocks, threads and bins, for little data."""

    def make(threads: int) -> None:
        monkeypatch.setattr(engine, "BLOCK", 1000)
        monkeypatch.setattr(engine, "THREADED", 1)
        monkeypatch.setattr(engine, "THREADS", threads)
        monkeypatch.setattr(statistics, "HELD", 5000)

    return make


def with_loops(loops: Any, *sides: Any, **options: Any) -> Figures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_compiled", lambda: loops)
        patch.setattr(engine, "COMPILED_FROM", 0)
        return compare(*sides, worst=4, **options)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "i64"])
def test_files_views_and_threads_give_the_same_figures(small, tmp_path, dtype, threads):
    shape = (30, 20, 25)
    left, right = (values(DTYPES[dtype], seed, 15_000).reshape(shape) for seed in (0, 1))
    expected = with_loops(plain, left, right)
    assert only(expected)["percentiles"]["p99"] is not None
    small(threads)
    raw = {"shape": shape, "dtype": dtype}
    paths = [written(tmp_path / name, side) for name, side in (("a", left), ("b", right))]
    turned = written(tmp_path / "c", right.transpose(2, 0, 1))
    for loops in (plain, kernels):
        assert_same((expected, with_loops(loops, left, right)))
        assert_same((expected, with_loops(loops, *paths, **raw)))
        assert_same((expected, with_loops(loops, left, paths[1], **raw)))
        assert_same((expected, with_loops(loops, np.asfortranarray(left), right)))
        view = {"candidate_view": View((1, 2, 0))}
        assert_same((expected, with_loops(loops, left, right.transpose(2, 0, 1), **view)))
        assert_same((expected, with_loops(loops, left, turned, shape=(25, 30, 20), dtype=dtype, **view)))


@pytest.mark.parametrize("loops", [plain, kernels], ids=["numpy", "compiled"])
def test_comparisons_in_several_threads_of_a_program_do_not_meet(monkeypatch, loops):
    """Tables that are kept for the next call are each thread's own."""
    monkeypatch.setattr(engine, "_compiled", lambda: loops)
    sides = [
        (values(DTYPES["f32"], seed, 3000 + seed), values(DTYPES["f32"], seed + 9, 3000 + seed)) for seed in range(8)
    ]
    alone = [compare(*pair)["tensors"] for pair in sides]
    assert len({found[0]["max_abs"] for found in alone}) > 1
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda place: compare(*sides[place % 8])["tensors"], range(200))
        assert all(found == alone[place % 8] for place, found in enumerate(together))


@pytest.mark.parametrize("loops", [plain, kernels], ids=["numpy", "compiled"])
def test_a_difference_anywhere_is_found_whatever_thread_sees_it(small, loops, tmp_path):
    small(3)
    left = values(DTYPES["f32"], 0, 9500)
    for place in (0, 999, 1000, 4321, 9499):
        right = left.copy()
        right[place] += np.float32(1e4)
        for sides in ((left, right), (left, written(tmp_path / "b", right))):
            options = {"shape": (9500,)} if sides[1] is not right else {}
            found = only(with_loops(loops, *sides, **options))
            assert (found["worst"]["index"], found["violations"], found["percentiles"]["p99"]) == ([place], 1, 0)


# ------------------------------------------------------------------------------------------------- without the compiler
WITHOUT_NUMBA = (
    "import sys\n"
    "sys.modules['numba'] = None\n"
    "import numpy as np\n"
    "from streamparity import compare\n"
    "from streamparity.comparison import engine, plain\n"
    "engine.COMPILED_FROM = 0\n"
    "assert engine.loops_for(1 << 40) is plain\n"
    "x = np.random.default_rng(0).normal(size=100_000)\n"
    "result = compare(x, x + 1e-3 * x[::-1], atol=1e-3, worst=3)\n"
    "import json\n"
    "print(json.dumps([result['verdict'], result['tensors']]))\n"
)


def test_without_numba_everything_works_and_gives_the_same_figures():
    import json

    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    verdict, tensors = json.loads(done.stdout)
    x = np.random.default_rng(0).normal(size=100_000)
    result = with_loops(kernels, x, x + 1e-3 * x[::-1], atol=1e-3)
    errors = np.abs(x + 1e-3 * x[::-1] - x)
    assert (verdict, tensors[0]["percentiles"]["p99"]) == ("fail", np.percentile(errors, 99))
    result["tensors"][0]["worst_elements"] = result["tensors"][0]["worst_elements"][:3]
    assert_same(({**result, "tensors": tensors}, result))


def test_kernels_that_cannot_be_imported_are_done_without(monkeypatch):
    original = importlib.import_module

    def refuse(name: str, *arguments: Any) -> Any:
        if name == engine.KERNELS:
            raise ImportError("Numba needs NumPy 1.9 or less")
        return original(name, *arguments)

    engine._compiled.cache_clear()
    monkeypatch.setattr(importlib, "import_module", refuse)
    try:
        assert engine.loops_for(1 << 40) is plain
        assert compare(np.arange(5.0), np.arange(5.0))["verdict"] == "pass"
        assert compare(np.arange(5.0), np.arange(5.0) + 1)["verdict"] == "fail"
    finally:
        monkeypatch.undo()
        engine._compiled.cache_clear()
    assert engine.loops_for(1 << 40) is kernels


# ----------------------------------------------------------------------------------------------------------- the blocks
@pytest.mark.parametrize(("reference", "candidate"), PAIRS)
def test_a_block_holds_the_values_exactly_and_bits_that_order_as_they_do(reference, candidate):
    left, right = (np.sort(values(DTYPES[name], seed, 300)) for seed, name in enumerate((reference, candidate)))
    block = block_of(left, right)
    assert block.reference.dtype == block.candidate.dtype
    assert block.reference.dtype in (np.float32, np.float64)
    small = [np.abs(side.astype(object)) <= 2**53 for side in (left, right)]
    assert np.array_equal(block.reference[small[0]], left.astype(np.float64)[small[0]])
    assert np.array_equal(block.candidate[small[1]], right.astype(np.float64)[small[1]])
    if block.error is not None:
        exact = [abs(int(r) - int(c)) for r, c in zip(left, right, strict=True)]
        assert block.error.tolist() == pytest.approx([float(error) for error in exact], rel=1e-15, abs=0)
    if not has_units(left.dtype, right.dtype):
        assert not block.reference_bits.any()
        assert not block.candidate_bits.any()


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"])
def test_neighbours_of_every_float_type_are_one_unit_apart(dtype):
    kind = DTYPES[dtype]
    if kind.itemsize <= 2:
        every = np.arange(1 << (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
        numbers = np.unique(every[np.isfinite(every.astype(np.float32))].astype(np.float32)).astype(kind)
    else:
        numbers = np.array([-2, -1, -0.5, 0, 1e-30, 1, 3], kind)
        numbers = np.unique(np.concatenate([numbers, np.nextafter(numbers, kind.type(np.inf))]))
        numbers = np.sort(np.concatenate([numbers[::2], np.nextafter(numbers[::2], kind.type(np.inf))]))[:2]
    assert numbers.size > 1
    for loops in (plain, kernels):
        up = with_loops(loops, numbers[:-1], numbers[1:])
        down = with_loops(loops, numbers[1:], numbers[:-1])
        assert only(up)["max_ulp"] == only(down)["max_ulp"] == 1


@pytest.mark.parametrize(
    ("left", "right", "units"),
    [
        (np.float32([1, 1]), np.float32([1, 1 + 2**-23]), 1),
        (np.float64([1, 1]), np.float64([1, 1 + 2**-50]), 4),
        (np.float32([1, 0.0]), np.float32([1, -0.0]), 0),
        (np.float32([1, 1e-45]), np.float32([1, -1e-45]), 2),
        (np.float64([1, 5e-324]), np.float64([1, -5e-324]), 2),
        (np.float32([1, np.finfo(np.float32).max]), np.float32([1, np.finfo(np.float32).min]), 2 * 0x7F7FFFFF),
        (np.array([1, 1], ml_dtypes.bfloat16), np.array([1, 1.0078125], ml_dtypes.bfloat16), 1),
        (np.float32([1, 1]), np.float64([1, 2]), None),
        (np.int32([1, 1]), np.int32([1, 2]), None),
        (np.float64([1, np.finfo(np.float64).max]), np.float64([1, -np.finfo(np.float64).max]), 2**63 - 1),
    ],
)
def test_units_in_the_last_place_are_counted(left, right, units):
    for loops in (plain, kernels):
        assert only(with_loops(loops, left, right))["max_ulp"] == units
