"""How far a value may be off: the rule to the last bit, who decides, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from streamparity import compare
from streamparity.comparison import ToleranceRule, engine, plain, read_policy
from streamparity.errors import StreamparityError

from .test_compare import command, only, refused, written

INF, NAN = np.inf, np.nan


@pytest.fixture(params=["numpy", "compiled"], autouse=True)
def loops(request, monkeypatch):
    """Every judgement is asked of both kinds of loops."""
    if request.param == "numpy":
        monkeypatch.setattr(engine, "_compiled", lambda: plain)
    else:
        pytest.importorskip("numba")
    assert (engine.loops_for(1 << 40) is plain) == (request.param == "numpy")


def judged(reference: Any, candidate: Any, dtype: Any = np.float64, **options: Any) -> tuple[str, int]:
    """Verdict and number of values past tolerance, beside two values that agree and are not constant."""
    sides = [np.array([1, *values, 2], dtype) for values in (reference, candidate)]
    result = compare(*sides, **options)
    return result["verdict"], only(result)["violations"]


# ------------------------------------------------------------------------------------------------------------ the rule
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("atol", "rtol", "reference", "limit"),
    [
        (0.5, 0.25, 4.0, 5.5),
        (0.5, 0.25, 4.0, 2.5),
        (0.5, None, 4.0, 4.5),
        (0.5, None, 4.0, 3.5),
        (None, 0.25, 4.0, 5.0),
        (None, 0.25, 4.0, 3.0),
        (0.0, 0.0, 4.0, 4.0),
        (0.5, 0.25, 0.0, 0.5),
        (1.0, 0.25, 0.5, 1.625),
        (None, 1.0, 4.0, 8.0),
    ],
)
def test_a_value_at_the_limit_passes_and_the_next_one_does_not(dtype, sign, atol, rtol, reference, limit):
    reference, limit = dtype(sign * reference), dtype(sign * limit)
    away = dtype(INF) if limit > reference else dtype(-INF)
    options = {"atol": atol, "rtol": rtol}
    assert judged([reference], [limit], dtype, **options) == ("pass", 0)
    if limit != reference:
        assert judged([reference], [np.nextafter(limit, reference)], dtype, **options) == ("pass", 0)
        assert judged([reference], [np.nextafter(limit, away)], dtype, **options) == ("fail", 1)
    else:
        for other in (INF, -INF):
            assert judged([reference], [np.nextafter(limit, dtype(other))], dtype, **options) == ("fail", 1)


def test_the_limit_is_that_of_the_reference_and_not_of_the_candidate():
    assert judged([1.0], [2.0], rtol=0.5) == ("fail", 1)
    assert judged([2.0], [1.0], rtol=0.5) == ("pass", 0)


def test_neither_part_alone_excuses_what_both_together_do_not():
    assert judged([100.0], [100.9], atol=0.5, rtol=0.005) == ("pass", 0)
    assert judged([100.0], [101.1], atol=0.5, rtol=0.005) == ("fail", 1)
    assert judged([0.0], [0.6], atol=0.5, rtol=100) == ("fail", 1)
    assert judged([1e6], [1e6 + 1], atol=0.5, rtol=1e-7) == ("fail", 1)


def test_random_values_are_judged_as_the_rule_written_in_numpy():
    rng = np.random.default_rng(0)
    reference, error = rng.normal(size=5000), rng.choice([1, -1], 5000) * 10 ** rng.uniform(-6, 0, 5000)
    for atol, rtol in ((1e-3, 1e-2), (0, 1e-2), (1e-3, 0)):
        candidate = reference + error
        expected = int((np.abs(candidate - reference) > atol + rtol * np.abs(reference)).sum())
        assert 0 < expected < 5000
        assert only(compare(reference, candidate, atol=atol, rtol=rtol))["violations"] == expected


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(INF, INF), (-INF, -INF), (INF, -INF), (NAN, NAN), (1, NAN), (1, INF), (INF, 1), (NAN, 1)],
)
def test_what_is_not_finite_is_past_any_tolerance(reference, candidate):
    assert judged([reference], [candidate], atol=1e300, rtol=1e300) == ("fail", 1)


@pytest.mark.parametrize(
    ("dtypes", "rtol", "atol"),
    [
        (("f4", "f4"), 1e-5, 1e-5),
        (("f8", "f8"), 1e-7, 1e-7),
        (("f2", "f4"), 1e-3, 1e-5),
        (("f8", "f2"), 1e-3, 1e-5),
        ((ml_dtypes.bfloat16, "f4"), 1.6e-2, 1e-5),
        (("f2", ml_dtypes.bfloat16), 1.6e-2, 1e-5),
        ((ml_dtypes.float8_e4m3fn, "f4"), 0.125, 1e-5),
        ((ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn), 0.25, 1e-5),
    ],
    ids=str,
)
def test_without_tolerances_the_coarser_type_decides(dtypes, rtol, atol):
    sides = [np.array([1, 2, 3]).astype(dtype) for dtype in dtypes]
    found = only(compare(*sides))["tolerance"]
    assert found == {"atol": atol, "rtol": rtol, "source": "dtype-default", "outliers": 0.0, "pattern": None}
    assert compare(*sides)["verdict"] == "pass"


@pytest.mark.parametrize("options", [{"atol": 9}, {"rtol": 9}, {"rules": [ToleranceRule("*", 9, 9, 1.0)]}])
@pytest.mark.parametrize("dtype", ["i8", "u1", "?"])
def test_whole_numbers_are_equal_or_they_fail_whatever_is_allowed(options, dtype):
    right, wrong = np.array([0, 1, 1]).astype(dtype), np.array([0, 1, 0]).astype(dtype)
    assert compare(right, right, **options)["verdict"] == "pass"
    result = compare(right, wrong, **options)
    assert (result["verdict"], only(result)["violations"]) == ("fail", 1)
    assert only(result)["tolerance"] == {"atol": 0, "rtol": 0, "source": "exact", "outliers": 0, "pattern": None}


# --------------------------------------------------------------------------------------------------------- who decides
NAMES = ("encoder.layers.0", "encoder.layers.1", "joint")
REFERENCE = {name: np.float64([1, 2, 3]) for name in NAMES}
CANDIDATE = {name: np.float64([1, 2, 3.1]) for name in NAMES}


def verdicts(*rules: str, **options: Any) -> list[bool]:
    result = compare(REFERENCE, CANDIDATE, rules=[ToleranceRule.parse(rule) for rule in rules], **options)
    assert (result["verdict"] == "pass") == all(tensor["passed"] for tensor in result["tensors"])
    return [tensor["passed"] for tensor in result["tensors"]]


@pytest.mark.parametrize(
    ("rules", "options", "expected"),
    [
        ([], {}, [False, False, False]),
        (["*:atol=0.2"], {}, [True, True, True]),
        (["encoder.layers.*:atol=0.2"], {}, [True, True, False]),
        (["encoder.layers.1:rtol=0.2"], {}, [False, True, False]),
        (["encoder.layers.1:atol=0.01", "encoder.*:atol=0.2"], {}, [True, False, False]),
        (["encoder.*:atol=0.2", "encoder.layers.1:atol=0.01"], {}, [True, True, False]),
        (["joint:atol=0.01"], {"atol": 0.2}, [True, True, False]),
        (["joint:atol=0.2"], {"atol": 0.01}, [False, False, True]),
        (["[!j]*:atol=0.2"], {}, [True, True, False]),
        (["JOINT*:atol=0.2", "*t:atol=0.2"], {}, None),
    ],
)
def test_a_rule_speaks_of_the_tensors_its_glob_matches_and_the_first_one_counts(rules, options, expected):
    if expected is None:
        with pytest.raises(StreamparityError, match="matches no tensor"):
            verdicts(*rules, **options)
    else:
        assert verdicts(*rules, **options) == expected


def test_the_command_line_comes_before_a_policy_file_and_that_before_the_type(tmp_path):
    np.savez(tmp_path / "a.npz", **REFERENCE)
    np.savez(tmp_path / "b.npz", **CANDIDATE)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[[tolerance]]\ntensors = "encoder.*"\natol = 0.3\n\n'
        '[[tolerance]]\ntensors = "encoder.layers.1"\natol = 0.4\n\n'
        '[[tolerance]]\ntensors = "nobody"\natol = 0.5\n'
    )

    def decided(*options: object) -> list[tuple[Any, ...]]:
        status, out, err = command("compare", tmp_path / "a.npz", tmp_path / "b.npz", "--json", "-", *options)
        document = json.loads(out)
        assert (status, err) == (int(document["verdict"] == "fail"), "")
        found = [(tensor["tolerance"], tensor["passed"]) for tensor in document["tensors"]]
        return [(t["atol"], t["rtol"], t["source"], t["pattern"], passed) for t, passed in found]

    default = (1e-7, 1e-7, "dtype-default", None, False)
    from_file = (0.3, 0, "policy", "encoder.*", True)
    assert decided() == [default] * 3
    assert decided("--policy", policy) == [from_file, from_file, default]
    flag = (0.2, 0, "flag", None, True)
    assert decided("--policy", policy, "--atol", 0.2) == [flag] * 3
    assert decided("--policy", policy, "--rtol", 0.01) == [(0, 0.01, "flag", None, False)] * 3
    rule = (0.01, 0, "flag", "joint", False)
    assert decided("--policy", policy, "--tol", "joint:atol=0.01") == [from_file, from_file, rule]
    assert decided("--policy", policy, "--tol", "joint:atol=0.01", "--atol", 0.2) == [flag, flag, rule]
    both = (0.05, 0.5, "flag", "*layers.1", True)
    assert decided("--tol", "*layers.1:atol=0.05,rtol=0.5") == [default, both, default]


def test_a_glob_may_hold_a_colon():
    rule = ToleranceRule.parse("torch:layer:atol=1e-4,rtol=0.1,outliers=0.5")
    assert (rule.pattern, rule.atol, rule.rtol, rule.outliers) == ("torch:layer", 1e-4, 0.1, 0.5)
    assert ToleranceRule(**rule.to_json()) == rule


def test_a_rule_that_concerns_no_tensor_is_refused_and_one_of_a_file_is_not(tmp_path):
    np.savez(tmp_path / "a.npz", **REFERENCE)
    compared = ["compare", tmp_path / "a.npz", tmp_path / "a.npz"]
    assert command(*compared, "--tol", "joint:atol=1").code == 0
    refused("--tol 'join' matches no tensor", *compared, "--tol", "join:atol=1")
    refused("--tol 'encoder' matches no tensor", *compared, "--tol", "joint:atol=1", "--tol", "encoder:atol=1")
    (tmp_path / "p.toml").write_text('[[tolerance]]\ntensors = "join"\natol = 1\n')
    assert command(*compared, "--policy", tmp_path / "p.toml").code == 0


# ------------------------------------------------------------------------------------------------------------ outliers
def chunk(outliers: int, error: float = 1.0) -> np.ndarray:
    found = np.linspace(1, 2, 20)
    found[:outliers] += error
    return found


@pytest.mark.parametrize(
    ("outliers", "chunks", "failed"),
    [
        (0.1, [0], None),
        (0.1, [2], None),
        (0.1, [3], 0),
        (0.1, [2, 2, 2], None),
        (0.1, [0, 0, 3], 2),
        (0.1, [1, 3, 0], 1),
        (0.149, [2], None),
        (0.149, [3], 0),
        (0.0, [1], 0),
        (1.0, [20], None),
    ],
)
def test_a_fraction_of_every_chunk_may_be_past_tolerance(tmp_path, outliers, chunks, failed):
    reference = written(tmp_path / "a", *[chunk(0)] * len(chunks))
    candidate = written(tmp_path / "b", *map(chunk, chunks))
    rules = [ToleranceRule("value", atol=1e-3, outliers=outliers)]
    result = compare(reference, candidate, shape=(20,), dtype="f64", rules=rules)
    tensor = only(result)
    assert (result["verdict"], tensor["first_failed_chunk"]) == ("pass" if failed is None else "fail", failed)
    assert tensor["violations"] == sum(chunks)
    assert (tensor["tolerance"]["outliers"], tensor["tolerance"]["pattern"]) == (outliers, "value")
    assert result["chunks"]["passed"] == sum(n <= outliers * 20 for n in chunks)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_never_an_outlier(bad, side):
    sides = [chunk(0), chunk(1)]
    rules = [ToleranceRule("*", atol=1e-3, outliers=1.0)]
    assert compare(*sides, rules=rules)["verdict"] == "pass"
    sides[side][0] = bad
    result = compare(*sides, rules=rules)
    assert (result["verdict"], only(result)["violations"]) == ("fail", 1)


def test_outliers_alone_leave_the_tolerance_to_others():
    rules = [ToleranceRule.parse("value:outliers=0.1")]
    found = compare(chunk(0), chunk(2), rules=rules)
    assert found["verdict"] == "pass"
    assert only(found)["tolerance"] == {
        "atol": 1e-7, "rtol": 1e-7, "source": "dtype-default", "outliers": 0.1, "pattern": None,
    }  # fmt: skip
    assert compare(chunk(0), chunk(3), rules=rules)["verdict"] == "fail"
    with_flag = only(compare(chunk(0), chunk(3, 0.1), rules=rules, atol=0.5))["tolerance"]
    assert (with_flag["atol"], with_flag["source"], with_flag["outliers"]) == (0.5, "flag", 0.1)


def test_outliers_do_not_excuse_another_shape_or_a_missing_tensor():
    rules = [ToleranceRule("*", outliers=1.0)]
    assert compare(chunk(0), chunk(0)[:19], rules=rules)["verdict"] == "fail"
    assert compare({"a": chunk(0), "b": chunk(0)}, {"a": chunk(0)}, rules=rules)["verdict"] == "fail"


# ------------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    "rule",
    [
        "", "x", "x:", ":atol=1", "value:atol", "value:atol=", "value:atol=abc", "value:speed=1", "value:atol=1,,",
        "value:atol=1=2", "value:=1", "value:atol=-1", "value:atol=nan", "value:rtol=inf", "value:outliers=1.1",
        "value:outliers=-0.1", "value:outliers=nan",
    ],
)  # fmt: skip
def test_a_rule_that_is_none_is_refused_in_two_lines(tmp_path, rule):
    np.save(tmp_path / "a.npy", chunk(0))
    compared = ["compare", tmp_path / "a.npy", tmp_path / "a.npy"]
    assert command(*compared, "--tol", "value:atol=1,rtol=0,outliers=1").code == 0
    refused("", *compared, "--tol", rule)


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", ""])
def test_a_tolerance_that_is_none_is_refused_in_two_lines(tmp_path, option, value):
    np.save(tmp_path / "a.npy", chunk(0))
    refused("", "compare", tmp_path / "a.npy", tmp_path / "a.npy", f"{option}={value}")


TABLE = '[[tolerance]]\ntensors = "value"\n'


@pytest.mark.parametrize(
    "text",
    [
        "", "atol = 1", "not toml", "[[tolerance]",
        '[tolerance]\ntensors = "value"\natol = 1\n', "tolerance = []\nmore = 1",
        "tolerance = 3", 'tolerance = ["value"]', TABLE, "[[tolerance]]\natol = 1\n", TABLE + 'atol = "1"\n',
        TABLE + "atol = true\n", TABLE + "atol = -1\n", TABLE + "atol = nan\n", TABLE + "rtol = inf\n",
        TABLE + "outliers = 2\n", TABLE + "speed = 1\n", TABLE + "atol = 1\nspeed = 1\n", TABLE + "atol = [1]\n",
        "[[tolerance]]\ntensors = 3\natol = 1\n", TABLE + "atol = 1\natol = 2\n", "\x00", TABLE + "atol = 1979-05-27\n",
    ],
)  # fmt: skip
def test_a_policy_file_that_is_none_is_refused_in_two_lines(tmp_path, text):
    np.save(tmp_path / "a.npy", chunk(0))
    compared = ["compare", tmp_path / "a.npy", tmp_path / "a.npy", "--policy", tmp_path / "p.toml"]
    (tmp_path / "p.toml").write_text(TABLE + "atol = 1\nrtol = 0.5\noutliers = 0\n")
    assert command(*compared).code == 0
    (tmp_path / "p.toml").write_text(text)
    refused("", *compared)


@pytest.mark.parametrize("make", ["missing", "folder", "bytes"])
def test_a_policy_file_that_cannot_be_read_is_refused(tmp_path, make):
    np.save(tmp_path / "a.npy", chunk(0))
    path: Path = tmp_path / "p.toml"
    if make == "folder":
        path.mkdir()
    elif make == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    refused("p.toml is not readable as TOML", "compare", tmp_path / "a.npy", tmp_path / "a.npy", "--policy", path)


def test_a_policy_file_is_read_in_order(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(TABLE + 'rtol = 1\n\n[[tolerance]]\ntensors = "a*"\noutliers = 0.5\n')
    assert read_policy(path) == [
        ToleranceRule("value", rtol=1, source="policy"),
        ToleranceRule("a*", outliers=0.5, source="policy"),
    ]
