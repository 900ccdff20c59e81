"""Shapes that differ: what is said about them, and that it never passes unless the user asks for it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from streamparity import compare
from streamparity.comparison import View

from .test_compare import command, only

RNG = np.random.default_rng(2)
X3, X4, SQUARE = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4), (2, 3, 4, 5), (2, 3, 3)))


def said(reference: Any, candidate: Any, **options: Any) -> str:
    """What the comparison says about shapes that differ; it never passes."""
    result = compare(reference, candidate, **options)
    tensor = only(result)
    assert (result["verdict"], tensor["passed"], tensor["first_failed_chunk"]) == ("fail", False, 0)
    assert result["first_divergence"]["error"] == tensor["error"]
    shapes, _, rest = tensor["error"].partition(": ")
    assert shapes == f"reference has shape {list(reference.shape)}, candidate {list(candidate.shape)}"
    return rest


def named(text: str) -> tuple[int, ...]:
    """The permutation in an explanation."""
    assert text.startswith("transposed, --permute ")
    return tuple(int(axis) for axis in text.removeprefix("transposed, --permute ").split()[0].split(","))


def other_orders(axes: int) -> list[tuple[int, ...]]:
    return [order for order in permutations(range(axes)) if order != tuple(range(axes))]


@pytest.mark.parametrize(
    ("array", "order"),
    [*((X3, order) for order in other_orders(3)), *((X4, order) for order in other_orders(4)[::4])],
    ids=lambda value: str(value) if isinstance(value, tuple) else "of",
)
def test_a_transposed_candidate_is_told_with_the_permutation_that_makes_it_match(array, order):
    candidate = np.ascontiguousarray(array.transpose(order))
    found = named(said(array, candidate))
    assert candidate.transpose(found).shape == array.shape
    assert np.array_equal(candidate.transpose(found), array)
    assert compare(array, candidate, candidate_view=View(found))["verdict"] == "pass"
    swapped = np.ascontiguousarray(array.transpose(order))
    swapped.flat[0], swapped.flat[-1] = swapped.flat[-1], swapped.flat[0]
    assert said(array, swapped) == "the extents are permuted, but no permutation of the axes makes the values match"


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_of_permutations_that_fit_the_shape_the_one_that_fits_the_values_is_told(order):
    candidate = SQUARE.transpose(order)
    assert candidate.shape == (3, 3, 2)
    found = named(said(SQUARE, candidate))
    assert np.array_equal(candidate.transpose(found), SQUARE)
    assert found == tuple(np.argsort(order))


def test_the_permutation_on_the_command_line_is_the_one_to_pass(tmp_path):
    np.save(tmp_path / "a.npy", X3)
    np.save(tmp_path / "b.npy", X3.transpose(1, 2, 0))
    status, out, _ = command("compare", tmp_path / "a.npy", tmp_path / "b.npy")
    assert status == 1
    advice = "--permute " + out.partition("--permute ")[2].split()[0]
    assert command("compare", tmp_path / "a.npy", tmp_path / "b.npy", *advice.split()).code == 0


def test_transposed_values_are_judged_by_the_tolerance():
    noise = X3.transpose(0, 2, 1) + np.float32(1e-3)
    assert said(X3, noise, atol=1e-2).startswith("transposed, --permute 0,2,1")
    assert said(X3, noise).startswith("the extents are permuted")
    assert said(X3, np.where(noise == noise.max(), 9, noise), atol=1e-2).startswith("the extents are permuted")
    assert said(X3, np.where(noise == noise.max(), np.nan, noise), atol=1e-2).startswith("the extents are permuted")


def test_a_transposed_tensor_of_whole_numbers_and_of_another_width_is_told():
    numbers = np.arange(24).reshape(2, 3, 4)
    assert named(said(numbers, numbers.T.astype(np.int32))) == (2, 1, 0)
    assert said(numbers, numbers.T + 1).startswith("the extents are permuted")
    assert named(said(numbers > 3, numbers.T > 3)) == (2, 1, 0)


def test_too_many_axes_are_not_searched():
    many = RNG.normal(size=(1, 2, 1, 2, 1, 1, 3))
    assert said(many, many.T).startswith("the extents are permuted")


@pytest.mark.parametrize("shape", [(24,), (6, 4), (1, 2, 3, 4), (2, 12), (8, 3)])
def test_the_same_values_in_another_shape_are_told(shape):
    assert said(X3, X3.reshape(shape)) == "the same values in the same order, only the shape differs"
    assert said(X3.reshape(shape), X3) == "the same values in the same order, only the shape differs"
    other = X3.copy()
    other[1, 2, 3] += 1
    assert said(X3, other.reshape(shape)) == "as many values, but other ones"
    assert said(X3, X3[::-1].reshape(shape)) == "as many values, but other ones"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("longer", ["reference", "candidate"])
@pytest.mark.parametrize("agree", [True, False])
def test_a_side_that_is_longer_is_told_and_compared_as_far_as_both_go_when_asked(axis, longer, agree):
    long = RNG.normal(size=(3, 4, 5))
    short = np.take(long, range(long.shape[axis] - 1), axis).copy()
    short.flat[0] += 0 if agree else 1
    sides = (long, short) if longer == "reference" else (short, long)
    extent = short.shape[axis]
    assert said(*sides) == (
        f"the {longer} is longer along axis {axis}, the first {extent} {'agree' if agree else 'differ'} (see --overlap)"
    )
    result = compare(*sides, overlap=True)
    assert (result["verdict"], only(result)["elements"]) == ("pass" if agree else "fail", short.size)
    assert only(result)["violations"] == (0 if agree else 1)


def test_what_lies_beyond_the_overlap_is_nobodys_business_and_what_lies_in_it_is():
    long = RNG.normal(size=(3, 9))
    long[:, 7:] = np.nan
    short = long[:, :7].copy()
    assert compare(short, long, overlap=True)["verdict"] == "pass"
    assert compare(long, short, overlap=True)["verdict"] == "pass"
    short[2, 6] = np.nan
    assert compare(long, short, overlap=True)["verdict"] == "fail"


def test_an_overlap_of_nothing_is_no_pass():
    result = compare(RNG.normal(size=(3, 4)), np.zeros((3, 0)), overlap=True)
    assert (result["verdict"], result["coverage"]["vacuous"]) == ("fail", ["value"])


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [((3, 4), (2, 5)), ((3, 4), (4, 4, 4)), ((3, 4), (13,)), ((), (2,)), ((5,), ()), ((3, 4), (4, 5))],
)
def test_other_shapes_are_told_and_an_overlap_does_not_help(reference, candidate):
    sides = [RNG.normal(size=shape) for shape in (reference, candidate)]
    for options in ({}, {"overlap": True}):
        assert said(*sides, **options) == ""


@pytest.mark.parametrize(("reference", "candidate"), [((0, 3), (3, 0)), ((0,), (0, 2)), ((2, 0, 3), (3, 2, 0))])
def test_empty_tensors_of_other_shapes_do_not_pass(reference, candidate):
    said(np.zeros(reference), np.zeros(candidate))


def test_shapes_are_judged_for_every_tensor_by_itself():
    sides = [{"good": X3, "turned": X3}, {"good": X3, "turned": X3.transpose(0, 2, 1)}]
    result = compare(*sides)
    assert [tensor["passed"] for tensor in result["tensors"]] == [True, False]
    assert "transposed" in result["first_divergence"]["error"]


# ------------------------------------------------------------------------------------------------- in files, and large
def large_pairs() -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    large = np.random.default_rng(3).normal(size=(40, 130, 200)).astype(np.float32)
    turned = np.ascontiguousarray(large.transpose(0, 2, 1))
    wrong = turned.copy()
    wrong[37, 101, 77] += 1  # one of a million, that no sample has to hit
    return {
        "transposed": (large, turned, "transposed, --permute 0,2,1"),
        "one value of a million off": (large, wrong, "the extents are permuted, but no permutation"),
        "flattened": (large, large.reshape(40, -1), "the same values in the same order"),
        "flattened, off": (turned, wrong.reshape(-1), "as many values, but other ones"),
        "longer": (large[:, :100], large, "the candidate is longer along axis 1, the first 100 agree"),
        "longer, off": (large, large[:39] + 1, "the reference is longer along axis 0, the first 39 differ"),
    }


LARGE = large_pairs()


@pytest.mark.parametrize("name", LARGE)
def test_large_files_are_told_apart_as_arrays_are(tmp_path, name):
    reference, candidate, says = LARGE[name]
    np.save(tmp_path / "a.npy", reference)
    np.save(tmp_path / "b.npy", candidate)
    in_memory, in_files = compare(reference, candidate), compare(tmp_path / "a.npy", tmp_path / "b.npy")
    assert says in only(in_memory)["error"]
    assert in_files["tensors"] == in_memory["tensors"]
    assert in_files["verdict"] == "fail"


def test_the_overlap_of_large_files_is_that_of_arrays(tmp_path):
    reference, candidate, _ = LARGE["longer"]
    np.save(tmp_path / "a.npy", reference)
    np.save(tmp_path / "b.npy", candidate)
    for sides in (("a", "b"), ("b", "a")):
        result = compare(*(tmp_path / f"{side}.npy" for side in sides), overlap=True)
        assert (result["verdict"], only(result)["elements"]) == ("pass", reference.size)
    np.save(tmp_path / "b.npy", np.where(candidate == candidate[39, 99, 199], 9, candidate))
    result = compare(tmp_path / "a.npy", tmp_path / "b.npy", overlap=True)
    assert (result["verdict"], only(result)["worst"]["index"]) == ("fail", [39, 99, 199])
