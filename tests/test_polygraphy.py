"""What Polygraphy's comparator lets through, on files that Polygraphy itself wrote: none of it passes here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from .test_compare import command

comparator = pytest.importorskip("polygraphy.comparator")
pytestmark = pytest.mark.filterwarnings(
    "ignore:CompareFunc.simple is deprecated:DeprecationWarning",
    "ignore::RuntimeWarning:numpy",
)

Iterations = list[dict[str, np.ndarray]]

X = np.random.default_rng(0).normal(3, 1, (2, 3, 4)).astype(np.float32)
WHOLE = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
NUDGED = np.where(X.max() == X, X + np.float32(1), X)


class Case(NamedTuple):
    """What both tools are given, and what this one says about it.

    Attributes:
        lenient: options of Polygraphy's comparison.
        options: the same of ``streamparity compare``.
        cured: options with which it may pass, because the user said so.
    """

    reference: Iterations
    candidate: Iterations
    says: str
    lenient: dict[str, Any] | None = None
    options: tuple[str, ...] = ()
    cured: tuple[str, ...] = ()


CASES = {
    "unrelated names": Case([{"encoder": X}], [{"joint": X}], "unmatched: joint (only one side has it)"),
    "unrelated names, in order": Case(
        [{"encoder": X, "lengths": X + 1}],
        [{"joint": X, "state": X + 1}],
        "unmatched: lengths (only one side has it)",
    ),
    "layer1 against layer10": Case([{"layer1": X}], [{"layer10": X}], "unmatched: layer10 (only one side has it)"),
    "layer1 against layer10, beside one that agrees": Case(
        [{"same": X, "layer1": X}], [{"same": X, "layer10": X}], "unmatched: layer1 (only one side has it)"
    ),
    "an output missing from the candidate": Case(
        [{"a": X, "b": X + 1}], [{"a": X}], "unmatched: b (only one side has it)"
    ),
    "an output missing from the reference": Case(
        [{"a": X}], [{"a": X, "b": X + 1}], "unmatched: b (only one side has it)"
    ),
    "five iterations against three": Case(
        [{"a": X}] * 5, [{"a": X}] * 3, "3 of 5 chunks passed", cured=("--overlap",)
    ),
    "three iterations against five": Case(
        [{"a": X}] * 3, [{"a": X}] * 5, "3 of 5 chunks passed", cured=("--overlap",)
    ),
    "float32 against int64": Case(
        [{"a": WHOLE}], [{"a": WHOLE.astype(np.int64)}], "reference is float32, candidate is int64"
    ),
    "int64 against float32": Case(
        [{"a": WHOLE.astype(np.int64)}], [{"a": WHOLE}], "reference is int64, candidate is float32"
    ),
    "transposed": Case(
        [{"a": X}],
        [{"a": X.transpose(0, 2, 1).copy()}],
        "transposed, --permute 0,2,1 of the candidate matches",
        {"check_shapes": False},
        cured=("--permute", "0,2,1"),
    ),
    "flattened": Case(
        [{"a": X}], [{"a": X.reshape(6, 4)}], "the same values in the same order", {"check_shapes": False}
    ),
    # Its relative error is that of the second operand: 1 against 2 is off by half.
    "only the absolute error exceeds": Case(
        [{"a": np.float32([1, 1.5, 3])}],
        [{"a": np.float32([2, 1.5, 3])}],
        "first divergence: chunk 0, a: max abs 1.0e+00",
        {"atol": 0, "rtol": 0.5},
        ("--rtol", "0.5"),
        ("--rtol", "1"),
    ),
    "one value among many, by the mean": Case(
        [{"a": X}],
        [{"a": NUDGED}],
        "first divergence: chunk 0, a: max abs 1.0e+00",
        {"atol": 0.1, "rtol": 0.1, "check_error_stat": "mean"},
        ("--atol", "0.1", "--rtol", "0.1"),
        ("--atol", "0.1", "--rtol", "0.1", "--tol", "a:outliers=0.05"),
    ),
    "nothing but zeros": Case([{"a": X * 0}], [{"a": X * 0}], "a is vacuous"),
    "no elements": Case([{"a": X[:0]}], [{"a": X[:0]}], "a is vacuous"),
}  # fmt: skip


def saved(path: Path, runner: str, iterations: Iterations) -> Path:
    results = comparator.RunResults()
    results.append(
        (runner, [comparator.IterationResult(outputs=outputs, runner_name=runner) for outputs in iterations])
    )
    results.save(str(path))
    return path


def polygraphy_passes(reference: Path, candidate: Path, **options: Any) -> bool:
    results = comparator.RunResults.load(str(reference))
    results.extend(comparator.RunResults.load(str(candidate)))
    compare_func = comparator.CompareFunc.simple(**options)
    return bool(comparator.Comparator.compare_accuracy(results, compare_func=compare_func))


@pytest.fixture
def files(request, tmp_path):
    case = request.param
    return (
        saved(tmp_path / "a.json", "torch", case.reference),
        saved(tmp_path / "b.json", "trt", case.candidate),
        case,
    )


@pytest.mark.parametrize("files", CASES.values(), ids=list(CASES), indirect=True)
def test_what_polygraphy_passes_fails_here(files):
    reference, candidate, case = files
    assert polygraphy_passes(reference, candidate, **(case.lenient or {}))
    status, out, err = command("compare", reference, candidate, *case.options)
    assert (status, err) == (1, "")
    assert case.says in out
    assert out.splitlines()[-1].startswith("FAIL: ")
    status, out, _ = command("compare", reference, candidate, *case.options, "--json", "-")
    assert (status, json.loads(out)["verdict"]) == (1, "fail")


CURABLE = {name: case for name, case in CASES.items() if case.cured}


@pytest.mark.parametrize("files", CURABLE.values(), ids=list(CURABLE), indirect=True)
def test_what_the_user_asks_for_in_so_many_words_passes(files):
    reference, candidate, case = files
    status, out, _ = command("compare", reference, candidate, *case.cured)
    assert (status, out.splitlines()[-1][:5]) == (0, "PASS:")


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ([{"a": X, "b": X + 1}], [{"b": X + 1, "a": X}]),
        ([{"a": X}], [{"a": X + np.float32(1e-6)}]),
        ([{"a": X}], [{"a": X.astype(np.float16)}]),
        ([{"a": WHOLE.astype(np.int32)}], [{"a": WHOLE.astype(np.int64)}]),
        ([{"a": X}, {"a": X * 2}], [{"a": X}, {"a": X * 2}]),
    ],
    ids=["another order of outputs", "within tolerance", "half precision", "another width", "two iterations"],
)
def test_what_is_right_passes_in_both(tmp_path, reference, candidate):
    paths = saved(tmp_path / "a.json", "torch", reference), saved(tmp_path / "b.json", "trt", candidate)
    assert polygraphy_passes(*paths, atol=1e-2)
    assert command("compare", *paths)[0] == 0


@pytest.mark.parametrize("files", [Case([{"a": X}], [{"a": NUDGED}], "")], ids=["nudged"], indirect=True)
def test_what_is_wrong_fails_in_both(files):
    assert not polygraphy_passes(*files[:2])
    assert command("compare", *files[:2])[0] == 1


def test_iterations_are_lined_up_by_number_and_the_first_that_differs_is_named(tmp_path):
    reference = [{"a": X + chunk} for chunk in range(4)]
    candidate = [{"a": X + chunk + np.float32(chunk == 2)} for chunk in range(4)]
    paths = saved(tmp_path / "a.json", "torch", reference), saved(tmp_path / "b.json", "trt", candidate)
    result = json.loads(command("compare", *paths, "--json", "-").out)
    assert result["first_divergence"]["chunk"] == 2
    assert [value > 0.5 for value in result["tensors"][0]["per_chunk_max_abs"]] == [False, False, True, False]
    reordered = saved(tmp_path / "c.json", "trt", [reference[chunk] for chunk in (1, 0, 2, 3)])
    status, out, _ = command("compare", paths[0], reordered, "--json", "-")
    assert (status, json.loads(out)["chunks"]) == (1, {"total": 4, "compared": 4, "passed": 2})
