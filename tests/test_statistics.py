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

from streamparity.comparison.spool import HELD_BYTES, Spool
from streamparity.comparison.statistics import BLOCK, PERCENTILES, Statistics
from streamparity.comparison.tolerance import Tolerance, TolerancePolicy
from streamparity.tensors import TensorSpec, ValidRule, valid_regions

INF, NAN = math.inf, math.nan
LOOSE = Tolerance(1e-3, 1e-2, "flag")
EXACT = Tolerance(0.0, 0.0, "exact")
Pairs = list[tuple[np.ndarray, np.ndarray]]


def measured(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES) -> dict[str, Any]:
    """The statistics of a run whose chunks are ``pairs``."""
    statistics = Statistics(tolerance)
    for chunk, (reference, candidate) in enumerate(pairs):
        everything = tuple([slice(None)] * reference.ndim)
        statistics.add(chunk, [(reference, candidate)], [everything])
    found = statistics.to_json(percentiles)
    json.dumps(found, allow_nan=False)
    return {**found, "per_chunk": list(statistics.per_chunk_max_abs.values()), "failed": statistics.first_failed_chunk}


def obvious(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES) -> dict[str, Any]:
    """The same figures from the whole run at once, written the plain way."""
    reference, candidate = (np.concatenate([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1))
    equal = int((reference == candidate).sum())
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
        "exact_fraction": equal / reference.size if reference.size else None,
        "max_abs": error.max() if finite.all() and error.size else None,
        "max_rel": relative.max() if relative.size and np.isfinite(relative.max()) else None,
        "percentiles": {f"p{q:g}": np.percentile(error, q) if error.size else None for q in percentiles},
        "mean_abs": math.fsum(error) / error.size if error.size else None,
        "rmse": math.sqrt(noise / error.size) if error.size else None,
        "cosine": math.fsum(ref * cand) / norms if norms > 0 else None,
        "snr_db": 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None,
    }


COUNTED = ("elements", "violations", "nonfinite", "exact_fraction", "max_abs", "max_rel", "percentiles")
SUMMED = ("mean_abs", "rmse", "cosine", "snr_db")


def assert_as_obvious(pairs: Pairs, tolerance: Tolerance = LOOSE, percentiles=PERCENTILES) -> None:
    actual, expected = measured(pairs, tolerance, percentiles), obvious(pairs, tolerance, percentiles)
    assert {key: actual[key] for key in COUNTED} == {key: expected[key] for key in COUNTED}
    for key in SUMMED:
        floor = 1e-12 if key in ("cosine", "snr_db") else 0  # these pass through zero
        assert actual[key] == (None if expected[key] is None else pytest.approx(expected[key], rel=1e-12, abs=floor))


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


@pytest.mark.parametrize("percentiles", [PERCENTILES, (0, 1e-3, 12.5, 33.3, 50.1, 99.99, 100)])
@pytest.mark.parametrize("errors", ["spread", "ties", "zeros", "range"])
def test_figures_are_those_of_plain_numpy_past_what_is_held_in_memory(errors, percentiles):
    rng = np.random.default_rng(1)
    size = HELD_BYTES // 8 + 12_345
    error = {
        "spread": rng.normal(size=size),
        "ties": rng.integers(0, 3, size) * 0.1,
        "zeros": np.zeros(size),
        "range": 10.0 ** rng.uniform(-100, 100, size),
    }[errors]
    reference = np.zeros(size) if errors == "range" else rng.normal(size=size)
    candidate = reference + error
    pairs = [(reference[part::3], candidate[part::3]) for part in range(3)]
    assert_as_obvious(pairs, percentiles=percentiles)


def test_one_value_a_last_bit_off_moves_the_percentile_it_is():
    values = np.abs(GAUSS)
    moved = np.where(values == np.median(values), np.nextafter(np.median(values), INF), values)
    spool = [Spool(), Spool()]
    spool[0].add(values)
    spool[1].add(moved)
    assert spool[0].percentiles([50]) == [np.median(values)]
    assert spool[1].percentiles([50]) == [np.nextafter(np.median(values), INF)]
    assert spool[0].percentiles([90, 100]) == spool[1].percentiles([90, 100])


@pytest.mark.parametrize("errors", ["spread", "zeros", "ties"])
def test_percentiles_take_far_less_memory_than_the_run(errors):
    part = {"spread": np.abs(GAUSS), "zeros": np.zeros(10_000), "ties": np.tile([0.1, 0.2], 5000)}[errors]
    spool = Spool()
    tracemalloc.start()
    try:
        for _ in range(1500):
            spool.add(part)
        spool.percentiles(PERCENTILES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spool.count * 8 > 100 << 20
    assert peak < 16 << 20


def test_asking_a_spool_does_not_disturb_it():
    spool = Spool()
    assert spool.percentiles([50]) == [None]
    for half in (GAUSS[:5000], GAUSS[5000:]):
        spool.add(np.abs(half))
        spool.percentiles([50, 99])
    assert spool.percentiles([99]) == [np.percentile(np.abs(GAUSS), 99)]


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
        statistics = Statistics(LOOSE)
        statistics.add(4, [(reference[origin], candidate[origin]) for origin in origins], origins)
        assert statistics.worst == {
            "chunk": 4,
            "index": index,
            "reference": float(reference[tuple(index)]),
            "candidate": float(candidate[tuple(index)]),
        }
        assert statistics.elements == inside.sum()


def test_the_worst_index_is_right_in_an_array_larger_than_one_block():
    reference = np.zeros((3, BLOCK // 2), np.float32)
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
        ([(np.zeros(4), np.ones(4))], False),
        ([(np.zeros(4), of(0, 0, 0, 1e-9))], False),
        ([(of(0, 0, 0, 1e-9), np.zeros(4))], False),
        ([(np.float32(3).reshape(1), np.float32(3).reshape(1))], False),
    ],
    ids=["zeros", "ones", "zeros then ones", "apart", "candidate moves", "reference moves", "one element"],
)
def test_a_constant_is_one_value_on_both_sides_throughout(pairs, constant):
    statistics = Statistics(LOOSE)
    for chunk, pair in enumerate(pairs):
        statistics.add(chunk, [pair], [(slice(None),)])
    assert statistics.constant is constant


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
    assert TolerancePolicy(**given).tolerance("outputs", *map(np.dtype, dtypes)) == Tolerance(*expected)
