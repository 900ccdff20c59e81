"""``assert_parity``: silent when all is well, and all there is to know when it is not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from streamparity import compare
from streamparity.comparison import ToleranceRule, View
from streamparity.errors import StreamparityError
from streamparity.testing import assert_parity

X = np.random.default_rng(0).normal(size=(4, 5, 10)).astype(np.float32)
OFF = X.copy()
OFF[1, 2, 3] += 2
OFF[3, 4, 9] -= 0.5


def message(*arguments, **options) -> str:
    with pytest.raises(AssertionError) as failure:
        assert_parity(*arguments, **options)
    return str(failure.value)


def test_what_agrees_passes_without_a_word(capfd):
    assert assert_parity(X, X.copy()) is None
    assert_parity({"a": X}, {"a": X + np.float32(1e-7)})
    assert_parity(X, OFF, atol=2.1)
    assert_parity(X, OFF, rules=[ToleranceRule("*", atol=1e-3, outliers=0.01)])
    assert_parity(X, X.T, candidate_view=View((2, 1, 0)))
    assert_parity(X, X[:, :3], overlap=True)
    assert capfd.readouterr() == ("", "")


def test_files_are_compared_too(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", OFF)
    assert_parity(tmp_path / "a.npy", str(tmp_path / "a.npy"))
    assert "mismatched elements: 2 / 200" in message(tmp_path / "a.npy", tmp_path / "b.npy")


def test_the_message_says_how_many_are_off_by_how_much_where_and_what_was_allowed():
    lines = message(X, OFF, atol=1e-3, rtol=1e-2).splitlines()
    error = abs(float(OFF[1, 2, 3]) - float(X[1, 2, 3]))
    relative = max(abs(float(OFF[i]) - float(X[i])) / abs(float(X[i])) for i in ((1, 2, 3), (3, 4, 9)))
    assert lines[0].startswith("FAIL: 0 of 1 chunks passed, 1 tensors compared")
    assert "value: mismatched elements: 2 / 200 (1.0%)" in lines
    assert (
        f"  greatest absolute difference: {error:.9g} at chunk 0, index (1, 2, 3): "
        f"reference {float(X[1, 2, 3]):.9g}, candidate {float(OFF[1, 2, 3]):.9g}"
    ) in lines
    assert f"  greatest relative difference: {relative:.9g}" in lines
    assert "  allowed: 0.001 + 0.01 * |reference| (flag)" in lines


def test_the_message_has_the_percentiles_that_were_asked_for():
    text = message(X, OFF)
    errors = np.abs(OFF.astype(np.float64) - X)
    figures = next(line for line in text.splitlines() if line.startswith("  rmse "))
    for name, value in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("p100", 100)):
        assert f"{name} {np.percentile(errors, value):.6g}" in figures
    assert f"rmse {np.sqrt(np.square(errors).mean()):.6g}" in figures
    assert "max_ulp " in figures
    assert "p50" not in message(X, OFF, percentiles=())
    assert f"p75 {np.percentile(errors, 75):.6g}" in message(X, OFF, percentiles=(75,))


def test_the_message_shows_the_worst_elements_among_their_neighbours():
    text = message(X, OFF)
    around = " ".join(f" {value:.7g} " for value in OFF[1, 2, :3])
    assert "worst elements, each among its neighbours along the last axis:" in text
    assert "  chunk 0, [1, 2, 3]: off by 2" in text
    assert "  chunk 0, [3, 4, 9]: off by 0.5" in text
    assert all(value in text for value in around.split())
    assert "errors of value, 200 values:" in text
    assert message(X, X + 1).count("off by") == 3
    assert message(X, X + 1, worst=1).count("off by") == 1


def test_the_message_names_every_tensor_that_is_off_and_no_other():
    text = message({"good": X, "bad": X, "worse": X}, {"good": X, "bad": OFF, "worse": OFF * 2})
    assert "bad: mismatched elements: 2 / 200" in text
    assert "worse: mismatched elements: 200 / 200 (100.0%)" in text
    assert "good: mismatched" not in text
    assert "first divergence: chunk 0, bad: max abs 2.0e+00" in text


@pytest.mark.parametrize(
    ("reference", "candidate", "says"),
    [
        (X, X[:3], "reference has shape [4, 5, 10], candidate [3, 5, 10]: the reference is longer along axis 0"),
        (X, X.transpose(0, 2, 1), "transposed, --permute 0,2,1 of the candidate matches"),
        (X, X.astype(np.int64), "reference is float32, candidate is int64"),
        ({"a": X}, {"b": X}, "a is unmatched: only one side has it"),
        ({"a": X, "b": X}, {"a": X}, "unmatched: b (only one side has it)"),
        (X * 0, X * 0, "value is vacuous"),
        (X[:0], X[:0], "value is vacuous"),
        ({}, {}, "nothing was compared"),
        (X, np.where(X[1, 2, 3] == X, np.nan, X), "not finite: 0 values of the reference, 1 of the candidate"),
        (np.where(X[1, 2, 3] == X, np.inf, X), X, "not finite: 1 values of the reference, 0 of the candidate"),
        (np.arange(5), np.array([0, 1, 2, 3, 9]), "value: mismatched elements: 1 / 5 (20.0%)"),
    ],
    ids=["shape", "transposed", "type", "names", "missing", "zeros", "empty", "nothing", "NaN", "infinity", "integers"],
)
def test_every_reason_to_fail_is_in_the_message(reference, candidate, says):
    assert says in message(reference, candidate)


def test_the_message_agrees_with_the_result():
    result = compare(X, OFF, atol=1e-3)
    for objection in result["objections"]:
        assert objection in message(X, OFF, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("nope.npy", X), {}),
        ((X, object()), {}),
        ((X, X), {"shape": (3,)}),
        ((X, X), {"atol": -1}),
        ((X, X), {"percentiles": (101,)}),
        ((X, X), {"rules": [ToleranceRule("other", 1)]}),
        ((X, X), {"candidate_view": View((0, 0, 0))}),
    ],
    ids=["no file", "no array", "shape", "tolerance", "percentiles", "rule", "view"],
)
def test_what_cannot_be_compared_is_no_failed_assertion(arguments, options):
    with pytest.raises(StreamparityError):
        assert_parity(*arguments, **options)


def test_an_option_that_there_is_not_is_a_mistake():
    with pytest.raises(TypeError, match="tolerance"):
        assert_parity(X, X, tolerance=1)


def test_pytest_shows_the_line_of_the_test_and_the_message(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import numpy as np\n"
        "from streamparity.testing import assert_parity\n\n"
        "def test_port():\n"
        "    assert_parity(np.arange(5.0), np.arange(5.0) + 1)  # the line\n"
    )
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "# the line" in done.stdout
    assert "mismatched elements: 5 / 5 (100.0%)" in done.stdout
    assert "raise AssertionError" not in done.stdout
