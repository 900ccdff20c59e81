"""How a side is looked at: permuted, then sliced, exactly as numpy does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamparity import compare
from streamparity.comparison import View
from streamparity.errors import StreamparityError

from .test_compare import command, only, refused, written

X = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)


@st.composite
def views(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...] | None, tuple[slice, ...]]:
    """An array of distinct values, an order of its axes, and ranges that leave something."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.prod(shape)).astype(np.float32) + 1
    array = array.reshape(shape)
    order = draw(st.none() | st.permutations(range(len(shape))).map(tuple))
    extents = shape if order is None else [shape[axis] for axis in order]
    ranges = [draw(st.slices(extent)) for extent in extents[: draw(st.integers(0, len(shape)))]]
    return array, order, tuple(ranges)


def as_text(ranges: tuple[slice, ...]) -> str:
    parts = [[part.start, part.stop, part.step] for part in ranges]
    return ",".join(":".join("" if value is None else str(value) for value in part) for part in parts)


def seen_by_numpy(array: np.ndarray, order: tuple[int, ...] | None, ranges: tuple[slice, ...]) -> np.ndarray:
    return (array if order is None else array.transpose(order))[ranges]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(views())
def test_a_view_is_what_numpy_makes_of_it(case):
    array, order, ranges = case
    expected = seen_by_numpy(array, order, ranges)
    if ranges:
        assert View.parse_slices(as_text(ranges)) == ranges
    view = View(order, ranges)
    assert np.array_equal(view.of(array), expected)
    for options in ({"reference_view": view}, {"candidate_view": view}):
        sides = (array, expected) if "reference_view" in options else (expected, array)
        result = compare(*sides, atol=0, **options)
        assert only(result)["elements"] == expected.size
        assert only(result)["error"] is None
        if expected.size == 0:
            assert (result["verdict"], result["coverage"]["vacuous"]) == ("fail", ["value"])
            continue
        assert result["verdict"] == ("pass" if expected.size == 1 or np.ptp(expected) else "fail")
        changed = expected.copy()
        changed.flat[-1] += 1
        sides = (array, changed) if "reference_view" in options else (changed, array)
        assert only(compare(*sides, atol=0, **options))["violations"] == 1


@settings(max_examples=25, deadline=None, derandomize=True)
@given(views())
def test_a_view_of_a_file_is_that_of_the_array_in_it(tmp_path_factory, case):
    array, order, ranges = case
    expected = seen_by_numpy(array, order, ranges)
    path = written(tmp_path_factory.mktemp("view") / "a.bin", array)
    view = View(order, ranges)
    found, same = (
        compare(expected, side, shape=shape, candidate_view=view)
        for side, shape in ((path, array.shape), (array, None))
    )
    assert (found["verdict"], found["tensors"]) == (same["verdict"], same["tensors"])
    far = compare(expected + 1, path, shape=array.shape, candidate_view=view)
    assert only(far)["violations"] == expected.size


def test_permutations_and_slices_on_the_command_line_speak_of_b_unless_told(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "turned.npy", X.transpose(2, 0, 1))
    np.save(tmp_path / "part.npy", X.transpose(2, 0, 1)[1:3, :, ::2])
    np.save(tmp_path / "off.npy", X + 1)
    x, turned, part, off = (tmp_path / f"{name}.npy" for name in ("x", "turned", "part", "off"))
    passing = [
        (turned, x, "--permute", "2,0,1"),
        (turned, x, "--permute", "b:2,0,1"),
        (x, turned, "--permute", "a:2,0,1"),
        (x, turned, "--permute", "b:1,2,0"),
        (x, x, "--permute", "a:2,0,1", "--permute", "2,0,1"),
        (part, x, "--permute", "2,0,1", "--slice", "1:3,:,::2"),
        (x, part, "--permute", "a:2,0,1", "--slice", "a:1:3,:,::2"),
        (part, turned, "--slice", "1:3,:,::2"),
        (x, x, "--slice", "a:0", "--slice", "b:0:1"),
        (x, x, "--slice", "a:-1", "--slice", "b:1:"),
        (x, x, "--slice", ":,::-1", "--slice", "a::,::-1"),
    ]
    for arguments in passing:
        ended = command("compare", *arguments)
        assert (ended.code, ended.err) == (0, ""), arguments
        if arguments[1] == x:
            assert command("compare", arguments[0], off, *arguments[2:]).code == 1, arguments
        elif arguments[0] == x:
            assert command("compare", off, *arguments[1:]).code == 1, arguments
    failing = [
        (turned, x, "--permute", "1,2,0"),
        (turned, x, "--permute", "a:2,0,1"),
        (part, x, "--slice", "1:3,:,::2", "--permute", "1,0,2"),
        (x, x, "--slice", "0:1"),
        (x, x, "--slice", ":,::-1"),
        (x, x, "--slice", "5:"),
    ]
    for arguments in failing:
        assert command("compare", *arguments).code == 1, arguments


def test_the_permutation_comes_before_the_slice_in_whatever_order_they_are_given(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "first.npy", X.transpose(2, 0, 1)[:2])
    np.save(tmp_path / "other.npy", X[:1].transpose(2, 0, 1))
    for order in (("--permute", "2,0,1", "--slice", ":2"), ("--slice", ":2", "--permute", "2,0,1")):
        assert command("compare", tmp_path / "first.npy", tmp_path / "x.npy", *order).code == 0
        assert command("compare", tmp_path / "other.npy", tmp_path / "x.npy", *order).code == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--permute", "0,1"], "--permute 0,1 does not fit a tensor of shape [2, 3, 4]"),
        (["--permute", "0,1,2,3"], "does not fit"),
        (["--permute", "0,1,1"], "does not fit"),
        (["--permute", "1,2,3"], "does not fit"),
        (["--permute", "a:2,1"], "does not fit"),
        (["--permute", "-1,0,1"], "does not fit"),
        (["--permute", "x,y,z"], "is not a list of whole numbers"),
        (["--permute", "c:0,1,2"], "is not a list of whole numbers"),
        (["--permute", ""], "is not a list of whole numbers"),
        (["--permute", "0,1,2", "--permute", "b:0,1,2"], "--permute is given twice for B"),
        (["--permute", "a:0,1,2", "--permute", "a:0,1,2"], "--permute is given twice for A"),
        (["--slice", "0:1", "--slice", "0:1"], "--slice is given twice for B"),
        (["--slice", "0:1,0:1,0:1,0:1"], "--slice has 4 ranges"),
        (["--slice", ""], "is no slice"),
        (["--slice", "a:"], "is no slice"),
        (["--slice", "0:1,"], "is no slice"),
        (["--slice", "0:1:0"], "is no slice"),
        (["--slice", "1:2:3:4"], "is no slice"),
        (["--slice", "1.5"], "is no slice"),
        (["--slice", "c:0:1"], "is no slice"),
        (["--slice", "[0:1]"], "is no slice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_view_that_is_none_is_refused_in_two_lines(tmp_path, options, says):
    np.save(tmp_path / "x.npy", X)
    assert command("compare", tmp_path / "x.npy", tmp_path / "x.npy").code == 0
    refused(says, "compare", tmp_path / "x.npy", tmp_path / "x.npy", *options)


def test_a_view_that_does_not_fit_is_refused_in_the_library(tmp_path):
    path = written(tmp_path / "a", X)
    for side in (X, {"x": X}, path):
        raw = {"shape": X.shape} if side is path else {}
        with pytest.raises(StreamparityError, match="does not fit a tensor of shape"):
            compare(side, X, reference_view=View((1, 0)), **raw)


def test_every_tensor_and_chunk_is_looked_at_alike(tmp_path):
    chunks = [X[0] + 10 * chunk for chunk in range(3)]
    plain = written(tmp_path / "a.bin", *chunks)
    turned = written(tmp_path / "b.bin", *(chunk.T for chunk in chunks))
    options: dict[str, Any] = {"shape": (3, 4)}
    result = compare(plain, written(tmp_path / "c.bin", *chunks), **options)
    assert result["chunks"]["passed"] == 3
    json.dumps(result)
    views = {"reference_view": View((1, 0)), "candidate_view": View()}
    assert compare(plain, {"value": chunks[0].T}, overlap=True, **options, **views)["verdict"] == "pass"
    assert compare({"v": X, "w": X}, {"v": X.T, "w": X.T}, candidate_view=View((2, 1, 0)))["verdict"] == "pass"
    assert compare({"v": X, "w": X}, {"v": X.T, "w": X.T + 1}, candidate_view=View((2, 1, 0)))["verdict"] == "fail"
    assert compare(turned, turned, shape=(4, 3), reference_view=View((1, 0)), candidate_view=View((1, 0)))[
        "chunks"
    ] == {
        "total": 3,
        "compared": 3,
        "passed": 3,
    }


@pytest.mark.parametrize("shape", [(1500, 1100), (60, 50, 550)])
def test_a_permuted_view_of_a_large_file_is_compared_as_the_array(tmp_path, shape):
    """Larger than what is copied whole, so that it is read scattered."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    order = tuple(range(len(shape)))[::-1]
    path = written(tmp_path / "a.bin", array)
    expected = np.ascontiguousarray(array.transpose(order))
    options = {"shape": shape, "candidate_view": View(order)}
    assert compare(expected, path, **options)["verdict"] == "pass"
    expected[-1, ..., 7] += 1
    result = compare(expected, path, **options)
    found = only(result)
    same = only(compare(expected, np.ascontiguousarray(array.transpose(order))))
    assert (found["violations"], found["max_abs"], found["percentiles"], found["histogram"], found["worst"]) == (
        same["violations"], same["max_abs"], same["percentiles"], same["histogram"], same["worst"],
    )  # fmt: skip
    assert found["violations"] == np.prod(shape[1:-1], dtype=int)


def test_a_file_cut_short_while_a_view_of_it_is_compared_does_not_kill_the_process(tmp_path):
    """What is mapped and no longer there raises SIGBUS, which no handler in Python can make into two lines."""
    paths = [written(tmp_path / name, np.random.default_rng(0).normal(size=(500, 400))) for name in "ab"]
    program = (
        "import os, sys\n"
        "from streamparity.comparison import Comparator\n"
        "add = Comparator.add\n"
        "def cut(self, *arguments):\n"
        f"    os.truncate({str(paths[1])!r}, 8)\n"
        "    return add(self, *arguments)\n"
        "Comparator.add = cut\n"
        "from streamparity.cli import main\n"
        "main()\n"
    )
    options = ["--shape", "500,400", "--dtype", "f64"]
    for view in ([], ["--permute", "1,0"]):
        written(paths[1], np.random.default_rng(0).normal(size=(500, 400)))
        call = [sys.executable, "-c", program, "compare", *paths, *options, *view]
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONFAULTHANDLER": ""})
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 2), (view, done.returncode)
        assert "changed while it was read" in done.stderr
