from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from streamparity.comparison import engine, plain, statistics
from streamparity.comparison import percentiles as percentiles_module
from streamparity.comparison.statistics import HELD, PERCENTILES, Statistics
from streamparity.comparison.tolerance import Tolerance, TolerancePolicy
from streamparity.dtypes import family
from streamparity.tensors import TensorSpec, ValidRule, valid_regions

INF, NAN = math.inf, math.nan
LOOSE = Tolerance(1e-3, 1e-2, "flag")
EXACT = Tolerance(0.0, 0.0, "exact")
Pairs = list[tuple[np.ndarray, np.ndarray]]
LOOPS = {"numpy": plain}
if engine._compiled() is not plain:
    LOOPS["compiled"] = engine._compiled()


@pytest.fixture(params=LOOPS, autouse=True)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every figure is asked of both kinds of loops."""
    monkeypatch.setattr(f"{__name__}.chosen", LOOPS[request.param], raising=False)
    return LOOPS[request.param]


chosen: Any = plain


def whole(array: np.ndarray) -> tuple[slice, ...]:
    return tuple([slice(None)] * array.ndim)


def measured(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES, worst: int = 0) -> dict[str, Any]:
    """The statistics of a run whose chunks are ``pairs``."""
    found = Statistics(tolerance, chosen, percentiles, worst)
    for chunk, (reference, candidate) in enumerate(pairs):
        found.add(chunk, [(reference, candidate, whole(reference))])
    while found.unresolved:
        found.begin_pass(percentiles_module.KEPT)
        for reference, candidate in pairs:
            found.revisit([(reference, candidate, whole(reference))])
        found.end_pass()
    figures = found.to_json()
    json.dumps(figures, allow_nan=False)
    return {**figures, "per_chunk": list(found.per_chunk_max_abs.values()), "failed": found.first_failed_chunk}


def obvious(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES) -> dict[str, Any]:
    """The same figures from the whole run at once, written the plain way."""
    reference, candidate = (np.concatenate([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
    equal = int((reference == candidate).sum())
    units = obvious_units(reference, candidate)
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(reference) & np.isfinite(candidate)
    ref, cand = reference[finite], candidate[finite]
    error = np.abs(cand - ref)
    nonzero = ref != 0
    with np.errstate(over="ignore"):
        relative = error[nonzero] / np.abs(ref[nonzero])
    signal, noise, other = (math.fsum(np.square(values)) for values in (ref, error, cand))
    norms = math.sqrt(signal) * math.sqrt(other)
    return {
        "elements": reference.size,
        "violations": int((~(error <= tolerance.atol + tolerance.rtol * np.abs(ref))).sum() + (~finite).sum()),
        "nonfinite": {
            "reference": int((~np.isfinite(reference)).sum()),
            "candidate": int((~np.isfinite(candidate)).sum()),
        },
        "nan_reference": int(np.isnan(reference).sum()),
        "exact_fraction": equal / reference.size if reference.size else None,
        "max_abs": error.max() if finite.all() and error.size else None,
        "max_rel": relative.max() if relative.size and np.isfinite(relative.max()) else None,
        "max_ulp": None if units is None or not error.size else max(units[finite].tolist()),
        "percentiles": {f"p{q:g}": np.percentile(error, q) if error.size else None for q in percentiles},
        "histogram": obvious_histogram(error),
        "mean_abs": math.fsum(error) / error.size if error.size else None,
        "rmse": math.sqrt(noise / error.size) if error.size else None,
        "cosine": math.fsum(ref * cand) / norms if norms > 0 else None,
        "pearson": obvious_pearson(ref, cand),
        "snr_db": 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 and noise > 0 else None,
    }


def obvious_units(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray | None:
    """How many floats of the type lie between two, by counting from the most negative one in Python's integers."""
    if family(reference.dtype) != "float":
        return None
    width = reference.dtype.itemsize * 8

    def rank(values: np.ndarray) -> np.ndarray:
        bits = values.view(f"u{width // 8}").astype(object)
        return np.array([-(b - 2 ** (width - 1)) if b >= 2 ** (width - 1) else b for b in bits], object)

    return np.minimum(np.abs(rank(reference) - rank(candidate)), 2**63 - 1)


def obvious_histogram(error: np.ndarray) -> dict[str, Any]:
    decades: dict[str, int] = {}
    for exponent in range(-324, 309):
        low = float(f"1e{exponent}") if exponent > -324 else 5e-324
        high = float(f"1e{exponent + 1}") if exponent < 308 else INF
        inside = (error >= low) & ((error < high) | (high == INF))
        if inside.any():
            decades[str(exponent)] = int(inside.sum())
    return {"zero": int((error == 0).sum()), "decades": decades}


def obvious_pearson(reference: np.ndarray, candidate: np.ndarray) -> float | None:
    if reference.size == 0 or np.ptp(reference) == 0 or np.ptp(candidate) == 0:
        return None
    sides = [side - math.fsum(side) / side.size for side in (reference, candidate)]
    squares = [math.fsum(np.square(side)) for side in sides]
    norms = math.sqrt(squares[0]) * math.sqrt(squares[1])
    return math.fsum(sides[0] * sides[1]) / norms if norms > 0 else None


COUNTED = (
    "elements", "violations", "nonfinite", "nan_reference", "exact_fraction", "max_abs", "max_rel", "max_ulp",
    "percentiles", "histogram",
)  # fmt: skip
SUMMED = ("mean_abs", "rmse", "cosine", "pearson", "snr_db")
THROUGH_ZERO = ("cosine", "pearson", "snr_db")


def assert_as_obvious(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES) -> None:
    actual, expected = measured(pairs, tolerance, percentiles), obvious(pairs, tolerance, percentiles)
    assert {key: actual[key] for key in COUNTED} == {key: expected[key] for key in COUNTED}
    for key in SUMMED:
        floor = 1e-12 if key in THROUGH_ZERO else 0
        assert actual[key] == (None if expected[key] is None else pytest.approx(expected[key], rel=1e-12, abs=floor)), (
            key
        )


# Squares of these neither overflow nor vanish; what does has its own test below.
moderate = st.floats(-1e140, 1e140).map(lambda value: value if abs(value) > 1e-140 else 0.0)
any_float = {
    np.float16: st.floats(width=16),
    np.float32: st.floats(width=32),
    np.float64: moderate | st.sampled_from([INF, -INF, NAN, -0.0]),
}


@st.composite
def runs(draw: st.DrawFn) -> Pairs:
    """Chunks of one shape and dtype; a candidate is near its reference, or has nothing to do with it."""
    dtype = draw(st.sampled_from(list(any_float)))
    shape = draw(array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        reference = draw(arrays(dtype, shape, elements=any_float[dtype]))
        with np.errstate(over="ignore"):
            near = reference * dtype(draw(st.sampled_from([1, 1.001, 1.5])))
        pairs.append((reference, draw(st.just(near) | arrays(dtype, shape, elements=any_float[dtype]))))
    return pairs


@settings(max_examples=400, deadline=None, derandomize=True)
@given(runs())
def test_figures_are_those_of_plain_numpy_on_whatever_floats(pairs):
    with np.errstate(all="ignore"):
        assert_as_obvious(pairs)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([np.int64, np.int32, np.uint8, np.bool_]))
def test_whole_numbers_are_counted_as_plain_numpy_does(data, dtype):
    small = st.booleans() if dtype is np.bool_ else st.integers(0 if dtype is np.uint8 else -100, 100)
    pair = [data.draw(arrays(dtype, 6, elements=small)) for _ in range(2)]
    assert_as_obvious([tuple(pair)], EXACT)


def of(*values: float, dtype=np.float64) -> np.ndarray:
    return np.array(values, dtype)


GAUSS = np.random.default_rng(0).normal(size=10_001)
NAMED: dict[str, Pairs] = {
    "none": [(of(), of())],
    "none, then some": [(of(), of()), (of(1, 2), of(1, 3))],
    "one element": [(of(3), of(3.5))],
    "no dimensions": [(np.array(3.0), np.array(3.5))],
    "denormals of float32": [(of(1e-45, 3e-39, -7e-42, dtype=np.float32), of(2.8e-45, 3e-39, 7e-42, dtype=np.float32))],
    "signed zeros": [(of(0.0, -0.0, 0.0), of(-0.0, 0.0, 1.0))],
    "constant": [(np.full((3, 5), 0.1, np.float32), np.full((3, 5), 0.1, np.float32))] * 3,
    "constant error": [(np.zeros(1000), np.full(1000, 0.1))],
    "huge dynamic range": [(10.0 ** np.arange(-130, 130), 10.0 ** np.arange(-130, 130) * (1 + 1e-13))],
    "NaN in the reference": [(of(NAN, 1, 2), of(0, 1, 2.5))],
    "NaN in the candidate": [(of(0, 1, 2), of(0, NAN, 2.5))],
    "NaN in the same place": [(of(0, NAN, 2), of(0, NAN, 2.5))],
    "nothing but NaN": [(of(NAN, NAN), of(NAN, NAN))],
    "equal infinities": [(of(INF, 1, -INF), of(INF, 1, -INF))],
    "opposite infinities": [(of(INF, 1), of(-INF, 1))],
    "infinite candidate": [(of(5, 1), of(INF, 1))],
    "many chunks": [(part, part + 1e-3 * part[::-1]) for part in np.split(GAUSS[:10_000], 100)],
    "transposed": [(GAUSS[:999].reshape(27, 37).T, GAUSS[1:1000].reshape(37, 27))],
}


@pytest.mark.parametrize("name", NAMED)
def test_figures_are_those_of_plain_numpy(name):
    with np.errstate(all="ignore"):
        assert_as_obvious(NAMED[name])


MANY = HELD + 12_345


def spread(errors: str) -> Pairs:
    """Three chunks with more errors than are held."""
    rng = np.random.default_rng(1)
    error = {
        "spread": rng.normal(size=MANY),
        "ties": rng.integers(0, 3, MANY) * 0.1,
        "one value": np.full(MANY, 0.1),
        "zeros": np.zeros(MANY),
        "range": 10.0 ** rng.uniform(-100, 100, MANY),
        "denormals": rng.integers(0, 1 << 50, MANY).view(np.float64),
        "one bin": 1 + rng.uniform(0, 1e-3, MANY),
        "float32": rng.normal(size=MANY) * 1e-6,
        "not finite": np.where(rng.random(MANY) < 0.1, rng.choice([NAN, INF, -INF], MANY), 0.5),
    }[errors]
    zero = errors in ("range", "denormals", "one bin", "one value")
    reference = np.zeros(MANY) if zero else rng.normal(size=MANY)
    if errors == "float32":
        reference, error = reference.astype(np.float32), error.astype(np.float32)
    candidate = reference + error
    return [(reference[part::3], candidate[part::3]) for part in range(3)]


@pytest.mark.parametrize("percentiles", [PERCENTILES, (0, 1e-3, 12.5, 33.3, 50.1, 99.99, 100), ()])
@pytest.mark.parametrize(
    "errors", ["spread", "ties", "one value", "zeros", "range", "denormals", "one bin", "float32", "not finite"]
)
def test_figures_are_those_of_plain_numpy_past_what_is_held_in_memory(errors, percentiles):
    with np.errstate(all="ignore"):
        assert_as_obvious(spread(errors), percentiles=percentiles)


@pytest.mark.parametrize("errors", ["spread", "one bin", "one value", "float32", "range"])
def test_figures_do_not_depend_on_how_much_is_kept_held_or_read_at_a_time(monkeypatch, errors):
    """With next to nothing kept, percentiles are found by dividing bins again and again."""
    monkeypatch.setattr(percentiles_module, "KEPT", 3)
    monkeypatch.setattr(statistics, "HELD", 100)
    monkeypatch.setattr(statistics, "ROWS", 2)
    monkeypatch.setattr(engine, "BLOCK", 1001)
    assert_as_obvious(spread(errors))


def test_no_tensor_is_read_in_more_than_so_many_blocks(monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 10)
    monkeypatch.setattr(engine, "MOST_BLOCKS", 7)
    found = Statistics(LOOSE, chosen)
    reference, candidate = spread("spread")[0]
    found.add(0, [(reference, candidate, whole(reference))])
    assert len(found._tally.rows) == 7
    assert_as_obvious(spread("spread"))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_figure(monkeypatch, threads):
    monkeypatch.setattr(engine, "THREADED", 1)
    monkeypatch.setattr(engine, "BLOCK", 1 << 10)
    pairs = [*spread("spread"), *spread("not finite")]
    with np.errstate(all="ignore"):
        monkeypatch.setattr(engine, "THREADS", 1)
        alone = measured(pairs, worst=5)
        monkeypatch.setattr(engine, "THREADS", threads)
        assert measured(pairs, worst=5) == alone


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(engine, "THREADED", 1)
    monkeypatch.setattr(engine, "BLOCK", 1 << 10)
    pair = (np.zeros(1 << 16), np.array(["x"] * (1 << 16)))
    with pytest.raises(ValueError, match="could not convert"):
        engine.accumulate(chosen, *pair, 0.0, 0.0, engine.Tally.empty(1, hold=True))


def test_one_value_a_last_bit_off_moves_the_percentile_it_is():
    values = np.abs(np.random.default_rng(0).normal(size=HELD + 1001))
    moved = np.where(values == np.median(values), np.nextafter(np.median(values), INF), values)
    found = [measured([(np.zeros_like(side), side)])["percentiles"] for side in (values, moved)]
    assert found[0]["p50"] == np.median(values)
    assert found[1]["p50"] == np.nextafter(np.median(values), INF)
    assert [found[0][p] for p in ("p90", "p100")] == [found[1][p] for p in ("p90", "p100")]


@pytest.mark.parametrize("errors", ["spread", "zeros", "ties"])
def test_a_run_takes_far_less_memory_than_its_errors(errors):
    part = {"spread": np.abs(GAUSS), "zeros": np.zeros(10_001), "ties": np.tile([0.1, 0.2], 5000)}[errors]
    pairs = [(np.zeros_like(part), part)] * 1500
    measured(pairs[:4])
    tracemalloc.start()
    try:
        assert measured(pairs)["elements"] * 8 > 100 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


def test_percentiles_that_need_another_pass_are_unknown_without_it():
    found = Statistics(LOOSE, chosen)
    for reference, candidate in spread("spread"):
        found.add(0, [(reference, candidate, whole(reference))])
    assert found.unresolved
    assert set(found.to_json()["percentiles"].values()) == {None}


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (of(1e200, 2e200), of(1e200, 2e200)),
        (of(1e200, 2e200), of(1.5e200, 2e200)),
        (of(1.7e308, 1), of(-1.7e308, 1)),
        (of(1e-150, 2e-150), of(1e150, 2e150)),
        (of(1e150, 0), of(1e150, 1e-150)),
        (of(1e-200, 2e-200), of(1e-200, 2e-200)),
        (of(5e-324, 1e-310), of(5e-324, 1e-310)),
    ],
    ids=["large", "large apart", "error overflows", "no signal", "no noise", "tiny", "denormal"],
)
def test_numbers_whose_squares_leave_the_range_never_give_a_wrong_figure(reference, candidate):
    with np.errstate(all="ignore"):
        found = measured([(reference, candidate)])  # which must be JSON, too
        error = np.abs(candidate - reference)
        scaled = [side / np.abs(side).max() for side in (reference, candidate)]
        cosine = scaled[0] @ scaled[1] / (np.linalg.norm(scaled[0]) * np.linalg.norm(scaled[1]))
    assert found["max_abs"] in (None, error.max())
    assert found["max_abs"] is not None or np.isinf(error.max())
    assert found["violations"] == int((error > LOOSE.atol + LOOSE.rtol * np.abs(reference)).sum())
    assert found["cosine"] in (None, pytest.approx(cosine))
    if np.array_equal(reference, candidate):
        assert found["cosine"] in (None, pytest.approx(1.0))
        assert found["rmse"] == found["mean_abs"] == 0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_beyond_doubles_are_exact(dtype):
    reference = np.array([7, 2**53, 2**62 + 1], dtype)
    candidate = reference.copy()
    same = measured([(reference, candidate)], EXACT)
    assert (same["violations"], same["max_abs"], same["exact_fraction"]) == (0, 0.0, 1.0)
    candidate[1] += 1
    off = measured([(reference, candidate)], EXACT)
    assert (off["violations"], off["exact_fraction"], off["failed"]) == (1, 2 / 3, 0)
    assert (off["worst"]["index"], off["max_abs"]) == ([1], 1.0)


def test_each_chunk_has_its_own_maximum_and_the_first_past_tolerance_is_named():
    exact, near, far = (of(1, 2), of(1, 2)), (of(1, 2), of(1.0005, 2)), (of(1, 2), of(1, 2.5))
    found = measured([exact, near, far, near, (of(NAN, 2), of(1, 2))])
    assert found["per_chunk"] == [0.0, pytest.approx(5e-4), 0.5, pytest.approx(5e-4), None]
    assert (found["failed"], found["violations"]) == (2, 2)
    assert measured([exact, near, near])["failed"] is None


def test_the_first_element_that_is_not_finite_is_the_worst_whatever_else_is_wrong():
    found = measured([(of(1, 2, 3), of(1e9, 2, 3)), (of(1, 2, 3), of(1, NAN, INF)), (of(1, 2, 3), of(-1e9, 2, 3))])
    assert found["worst"] == {"chunk": 1, "index": [1], "reference": 2.0, "candidate": None}
    assert found["max_abs"] is None


EXTENT = 7
REGIONS: dict[str, tuple[ValidRule | None, Callable[[int], slice]]] = {
    "everything": (None, lambda n: slice(None)),
    "first": (ValidRule("T", "first", "n"), lambda n: slice(0, n)),
    "last": (ValidRule("T", "last", "n"), lambda n: slice(EXTENT - n, EXTENT)),
    "extent": (ValidRule("T", "first", "extent"), lambda n: slice(0, EXTENT)),
}


@pytest.mark.parametrize("lengths", [[3], [3, 5, 1]], ids=["single", "batch"])
@pytest.mark.parametrize("rule", REGIONS)
def test_the_worst_index_points_into_the_whole_tensor(rule, lengths):
    shape = (len(lengths), 4, EXTENT)
    reference = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    valid, kept = REGIONS[rule]
    origins = valid_regions(
        TensorSpec("out/x", "output", "float32", ("B", "D", "T"), valid), shape, {"n": np.array(lengths)}
    )
    inside = np.zeros(shape, bool)
    for item, length in enumerate(lengths):
        inside[item, :, kept(length)] = True
    for index in np.argwhere(inside).tolist():
        candidate = reference + np.where(inside, np.float32(1e-4), np.float32(100))
        candidate[tuple(index)] += 1
        found = Statistics(LOOSE, chosen)
        found.add(4, [(reference[origin], candidate[origin], origin) for origin in origins])
        assert found.worst == [
            {
                "chunk": 4,
                "index": index,
                "reference": float(reference[tuple(index)]),
                "candidate": float(candidate[tuple(index)]),
            }
        ]
        assert found.elements == inside.sum()


def test_the_worst_index_is_right_in_an_array_larger_than_one_block():
    reference = np.zeros((3, engine.BLOCK // 2), np.float32)
    candidate = reference.copy()
    candidate[2, 77] = -2
    candidate[0, 5] = 1
    found = measured([(reference, candidate)])
    assert (found["worst"]["index"], found["worst"]["candidate"], found["violations"]) == ([2, 77], -2.0, 2)


@pytest.mark.parametrize(
    ("pairs", "constant"),
    [
        ([(np.zeros(4), np.zeros(4))] * 2, True),
        ([(np.ones(4), np.ones(4))] * 2, True),
        ([(np.zeros(4), np.zeros(4)), (np.ones(4), np.ones(4))], False),
        ([(np.zeros(4), np.ones(4))], True),
        ([(np.zeros(4), of(0, 0, 0, 1e-9))], False),
        ([(of(0, 0, 0, 1e-9), np.zeros(4))], False),
        ([(np.float32(3).reshape(1), np.float32(3).reshape(1))], False),
    ],
    ids=["zeros", "ones", "zeros then ones", "apart", "candidate moves", "reference moves", "one element"],
)
def test_a_constant_is_one_value_on_both_sides_throughout(pairs, constant):
    found = Statistics(LOOSE, chosen)
    for chunk, (reference, candidate) in enumerate(pairs):
        found.add(chunk, [(reference, candidate, whole(reference))])
    assert found.constant is constant


@pytest.mark.parametrize(
    ("dtypes", "given", "expected"),
    [
        (("float32", "float32"), {}, (1e-5, 1e-5, "dtype-default")),
        (("float32", "float16"), {}, (1e-5, 1e-3, "dtype-default")),
        (("float64", "float32"), {}, (1e-5, 1e-5, "dtype-default")),
        (("float32", "float32"), {"atol": 0.5}, (0.5, 0.0, "flag")),
        (("float32", "float32"), {"rtol": 0.5}, (0.0, 0.5, "flag")),
        (("float32", "float32"), {"atol": 0.0}, (0.0, 0.0, "flag")),
        ((">f4", "<f4"), {"atol": 0.5}, (0.5, 0.0, "flag")),
        (("int64", "int32"), {"atol": 9.0}, (0.0, 0.0, "exact")),
        (("bool", "bool"), {"rtol": 9.0}, (0.0, 0.0, "exact")),
    ],
)
def test_the_tolerance_is_the_users_or_that_of_the_coarser_dtype_and_none_for_whole_numbers(dtypes, given, expected):
    assert TolerancePolicy(**given).tolerance("x", *map(np.dtype, dtypes)) == Tolerance(*expected)
