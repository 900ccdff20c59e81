"""``compare()`` and ``streamparity compare``: what can be compared, what is paired with what, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
import torch

import streamparity
from streamparity import compare
from streamparity.cli import main
from streamparity.comparison import Comparator, engine, plain
from streamparity.dtypes import DTYPES, family
from streamparity.dump.stored import StoredTensor
from streamparity.errors import StreamparityError

NAN, INF = np.nan, np.inf


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Ended:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["streamparity", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    return Ended(int(code or 0), out.getvalue(), err.getvalue())


def refused(expected: str, *arguments: object) -> None:
    """Run a command that must be refused: exit 2, two lines, the first with the expected text."""
    ended = command(*arguments)
    lines = ended.err.splitlines()
    assert (ended.code, ended.out, len(lines)) == (2, "", 2), ended
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert lines[1].startswith("  try: ")


def written(path: Path, *chunks: np.ndarray) -> Path:
    """A raw file."""
    path.write_bytes(b"".join(np.ascontiguousarray(chunk).tobytes() for chunk in chunks))
    return path


def only(result: dict[str, Any]) -> dict[str, Any]:
    """The one tensor of a result."""
    (tensor,) = result["tensors"]
    return tensor


X = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
OFF = X + np.where(np.arange(60).reshape(3, 4, 5) == 33, np.float32(1), np.float32(0))


class Exporter:
    """A tensor of some library: nothing but DLPack."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0), broken: bool = False) -> None:
        self._array, self._device, self._broken = array, device, broken

    def __dlpack__(self, **options: Any) -> object:
        if self._broken:
            raise BufferError("the device is gone\nand with it the tensor")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


# ---------------------------------------------------------------------------------------------- what can be compared
FORMS = {
    "an array": (lambda x: x, "value"),
    "a list": (lambda x: x.tolist(), "value"),
    "a mapping": (lambda x: {"x": x}, "x"),
    "a mapping of lists": (lambda x: {"x": x.tolist()}, "x"),
    "a key that is no string": (lambda x: {7: x}, "7"),
    "DLPack alone": (Exporter, "value"),
    "not contiguous": (lambda x: np.repeat(x, 2, axis=2)[:, :, ::2], "value"),
    "in Fortran's order": (np.asfortranarray, "value"),
    "reversed": (lambda x: x[::-1].copy()[::-1], "value"),
    "read-only": (lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape), "value"),
    "in the other byte order": (lambda x: x.astype(x.dtype.newbyteorder()), "value"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_array_in_any_form_is_compared(form):
    make, name = FORMS[form]
    result = compare(make(X), make(X), atol=1e-6)
    assert (result["verdict"], only(result)["name"], only(result)["max_abs"]) == ("pass", name, 0)
    result = compare(make(X), make(OFF), atol=1e-6)
    assert (result["verdict"], only(result)["worst"]["index"]) == ("fail", [1, 2, 3])
    assert only(result)["max_abs"] == float(OFF[1, 2, 3]) - float(X[1, 2, 3])


@pytest.mark.parametrize("form", FORMS)
def test_an_array_in_any_form_is_compared_with_one_in_the_plain_form(form):
    make = FORMS[form][0]
    for pair in ((X, make(X)), (make(X), X)):
        assert compare(*pair, atol=1e-6)["verdict"] == "pass"
    for pair in ((X, make(OFF)), (make(X), OFF)):
        assert compare(*pair, atol=1e-6)["verdict"] == "fail"


@pytest.mark.parametrize("loops", ["numpy", "compiled"])
@pytest.mark.parametrize(
    "kind",
    [np.asmatrix, lambda x: np.ma.masked_array(x, mask=x > 0.5), lambda x: x.view(Odd)],
    ids=["matrix", "masked", "odd"],
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_an_array_of_a_class_of_its_own_is_compared_as_the_values_it_holds_or_refused(monkeypatch, kind, loops):
    """A mask hides nothing: what is not compared must not pass."""
    if loops == "numpy":
        monkeypatch.setattr(engine, "_compiled", lambda: plain)
    values = X[0].copy()
    changed = np.where(values == values.max(), values + 9, values)
    verdicts = []
    for other in (values, changed):
        try:
            verdicts.append(compare(kind(values), kind(other))["verdict"])
        except StreamparityError:
            verdicts.append("refused")
    assert verdicts in (["pass", "fail"], ["refused", "refused"])


class Odd(np.ndarray):
    """A class of somebody's, whose arithmetic is another."""

    def __abs__(self):
        return self * 0

    def __sub__(self, other):
        return self * 0


@pytest.mark.parametrize(("off", "verdict"), [(0, "pass"), (1, "fail")])
@pytest.mark.parametrize("number", [3.5, 2, np.float32(3), np.int64(7)])
def test_a_number_is_compared(number, off, verdict):
    result = compare(number, number + off)
    assert (result["verdict"], only(result)["elements"], only(result)["worst"]["index"]) == (verdict, 1, [])


def torch_forms() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {
        "float32": lambda x: torch.from_numpy(x.copy()),
        "requires_grad": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
        "not contiguous": lambda x: torch.from_numpy(x.copy()).transpose(0, 2).contiguous().transpose(0, 2),
        "negated lazily": lambda x: torch._neg_view(torch.from_numpy(-x)),
        "a parameter": lambda x: torch.nn.Parameter(torch.from_numpy(x.copy())),
        "bfloat16": lambda x: torch.from_numpy(x).to(torch.bfloat16),
        "bfloat16, not contiguous": lambda x: torch.from_numpy(x).to(torch.bfloat16).permute(2, 0, 1).permute(1, 2, 0),
        "bfloat16, strided": lambda x: torch.from_numpy(np.repeat(x, 2, 2)).to(torch.bfloat16)[:, :, ::2],
        "bfloat16, requires_grad": lambda x: torch.from_numpy(x).to(torch.bfloat16).requires_grad_(),
        "float8_e4m3fn": lambda x: torch.from_numpy(x).to(torch.float8_e4m3fn),
        "float8_e5m2": lambda x: torch.from_numpy(x).to(torch.float8_e5m2),
        "float16": lambda x: torch.from_numpy(x).half(),
        "int64": lambda x: torch.from_numpy(x * 100).to(torch.int64),
        "bool": lambda x: torch.from_numpy(x > 0.2),
    }


TORCH = [
    "float32", "requires_grad", "not contiguous", "negated lazily", "a parameter", "bfloat16",
    "bfloat16, not contiguous", "bfloat16, strided", "bfloat16, requires_grad", "float8_e4m3fn", "float8_e5m2",
    "float16", "int64", "bool",
]  # fmt: skip


@pytest.mark.parametrize("form", TORCH)
def test_a_torch_tensor_is_compared_with_one_like_it_and_with_numpys(form):
    make = torch_forms()[form]
    reference, changed = make(X), make(np.where(X[1, 2, 3] == X, -X, X))
    same = compare(reference, make(X))
    assert (same["verdict"], only(same)["elements"], only(same)["max_abs"]) == ("pass", 60, 0)
    assert compare({"x": reference}, {"x": make(X)})["verdict"] == "pass"
    result = compare(reference, changed)
    assert (result["verdict"], only(result)["worst"]["index"], only(result)["violations"]) == ("fail", [1, 2, 3], 1)
    like = {
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
    }
    values = reference.detach().to(torch_forms()["float32"](X).dtype).numpy() if "loat" in form else X
    for name, dtype in like.items():
        if form.startswith(name):
            assert np.array_equal(values, X.astype(dtype).astype(np.float32))
            assert compare(X.astype(dtype), reference, atol=0)["verdict"] == "pass"


def test_what_was_given_is_not_changed():
    torch = pytest.importorskip("torch")
    tensor, array = torch.from_numpy(X.copy()).requires_grad_(), X.copy()
    compare(tensor, array)
    assert tensor.requires_grad
    assert np.array_equal(array, X)
    assert array.flags.writeable


@pytest.mark.parametrize(
    "thing",
    [
        Exporter(X, device=(2, 0), broken=True),
        Exporter(X, broken=True),
        {"x": Exporter(X, device=(10, 0), broken=True)},
    ],
    ids=["on a GPU", "on the CPU", "by name"],
)
def test_a_tensor_that_its_library_will_not_give_is_refused_in_one_line(thing):
    for pair in ((thing, X), (X, thing)):
        with pytest.raises(StreamparityError) as refusal:
            compare(*pair)
        assert refusal.value.message.startswith("a Exporter cannot be read as an array: ")
        assert "\n" not in refusal.value.message
        assert "CPU" in refusal.value.hint


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (np.array(["a", "b"]), "not real numbers"),
        (np.array([1j, 2]), "not real numbers"),
        (np.array([None, 1]), "not real numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "not real numbers"),
        (object(), "not real numbers"),
        ([[1, 2], [3]], "cannot be read as an array"),
        ({"a": [1, 2], "b": ["x"]}, "b holds"),
        (None, "not real numbers"),
    ],
    ids=["text", "complex", "objects", "dates", "an object", "ragged", "by name", "None"],
)
def test_what_is_no_array_of_numbers_is_refused(thing, says):
    for pair in ((thing, X), (X, thing)):
        with pytest.raises(StreamparityError) as refusal:
            compare(*pair)
        assert says in refusal.value.message


@pytest.mark.parametrize("number", [float, int, np.float64, np.float32, np.int64])
def test_the_result_is_json_whatever_the_numbers_in_it_came_from(number):
    for result in (compare(X, OFF, atol=number(1)), compare(X, OFF, percentiles=(number(50),))):
        document = json.dumps(result, allow_nan=False)
        assert json.loads(document)["tensors"] == result["tensors"]


# ------------------------------------------------------------------------------------------------------- every type
def filled(dtype: np.dtype) -> np.ndarray:
    """Values that every type has."""
    return (np.arange(24) % 2 == 1).astype(dtype) if family(dtype) == "bool" else (np.arange(24) % 8).astype(dtype)


def flipped(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[5] = array.dtype.type(not array[5]) if family(array.dtype) == "bool" else array.dtype.type(0)
    return changed


@pytest.mark.parametrize("candidate", DTYPES)
@pytest.mark.parametrize("reference", DTYPES)
def test_types_of_one_family_are_compared_by_value_and_no_others(reference, candidate):
    sides = [filled(DTYPES[name]) for name in (reference, candidate)]
    families = [family(DTYPES[name]) for name in (reference, candidate)]
    result = compare(*sides)
    if families[0] != families[1]:
        assert result["verdict"] == "fail"
        names = [DTYPES[name].name for name in (reference, candidate)]
        assert only(result)["error"] == f"reference is {names[0]}, candidate is {names[1]}"
        return
    assert (result["verdict"], only(result)["max_abs"], only(result)["exact_fraction"]) == ("pass", 0, 1)
    assert (only(result)["tolerance"]["source"] == "exact") == (families[0] != "float")
    has_units = families[0] == "float" and reference == candidate
    assert only(result)["max_ulp"] == (0 if has_units else None)
    result = compare(sides[0], flipped(sides[1]))
    assert (result["verdict"], only(result)["violations"], only(result)["worst"]["index"]) == ("fail", 1, [5])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", DTYPES)
def test_a_raw_file_of_either_byte_order_holds_what_the_array_holds(tmp_path, name, order):
    dtype = DTYPES[name]
    array = filled(dtype)

    def stored(values: np.ndarray) -> np.ndarray:
        swap = order == ">" and dtype.itemsize > 1
        return values.view(f"u{dtype.itemsize}").byteswap().view(dtype) if swap else values

    path = written(tmp_path / "a.bin", stored(array))
    changed = written(tmp_path / "b.bin", stored(flipped(array)))
    raw = {"shape": (24,), "dtype": order + name}
    assert compare(path, path, **raw)["verdict"] == "pass"
    assert compare(array, path, **raw)["verdict"] == "pass"
    result = compare(array, changed, **raw)
    assert (result["verdict"], only(result)["worst"]["index"]) == ("fail", [5])
    assert only(result)["worst"]["reference"] == float(array[5])
    assert command("compare", path, path, "--shape", 24, "--dtype", order + name).code == 0
    assert command("compare", path, changed, "--shape", 24, "--dtype", order + name).code == 1


@pytest.mark.parametrize(
    ("reference", "candidate", "worst"),
    [
        (np.uint64([2**53 + 1, 7]), np.int64([2**53, 7]), [0]),
        (np.int64([2**53 + 1, 7]), np.uint64([2**53, 7]), [0]),
        (np.int64([7, -1]), np.uint64([7, 2**64 - 1]), [1]),
        (np.int64([2**62 + 1, 3]), np.int64([2**62, 3]), [0]),
        (np.uint64([2**64 - 1, 3]), np.uint64([2**64 - 2, 3]), [0]),
        (np.int64([2**40, 3]), np.int32([0, 3]), [0]),
        (np.int8([-1, 3]), np.uint8([255, 3]), [0]),
    ],
    ids=["above", "below", "minus one", "signed", "unsigned", "past the narrow one", "one byte"],
)
def test_whole_numbers_are_compared_as_whole_numbers(reference, candidate, worst):
    result = compare(reference, candidate)
    assert (result["verdict"], only(result)["violations"], only(result)["worst"]["index"]) == ("fail", 1, worst)
    assert only(result)["max_abs"] == float(abs(int(reference[worst[0]]) - int(candidate[worst[0]])))


@pytest.mark.parametrize("number", [2**53 + 1, 2**62, 2**63 - 1])
def test_large_whole_numbers_that_are_equal_pass_whatever_holds_them(number):
    assert compare(np.int64([number, 1]), np.uint64([number, 1]))["verdict"] == "pass"


def test_bfloat16_passes_against_what_it_was_rounded_from_and_float32_does_not_excuse_it():
    bf16 = X.astype(ml_dtypes.bfloat16)
    assert compare(X, bf16)["verdict"] == "pass"
    assert only(compare(X, bf16))["tolerance"]["rtol"] == 1.6e-2
    assert compare(X, bf16.astype(np.float32))["verdict"] == "fail"
    assert compare(X, (X * 1.05).astype(ml_dtypes.bfloat16))["verdict"] == "fail"


# ---------------------------------------------------------------------------------------------- what is paired
@pytest.mark.parametrize("named", [{"logits": X}, {"a.b.c": X}])
def test_a_tensor_without_a_name_goes_by_the_only_name_there_is(named):
    (name,) = named
    for pair in ((X, named), (named, X)):
        result = compare(*pair)
        assert (result["verdict"], only(result)["name"], result["coverage"]["unmatched"]) == ("pass", name, [])
    assert compare(named, OFF)["verdict"] == "fail"


@pytest.mark.parametrize(
    ("reference", "candidate", "unmatched"),
    [
        ({"a": X}, {"b": X}, ["a", "b"]),
        ({"layer1": X}, {"layer10": X}, ["layer1", "layer10"]),
        ({"a": X}, {"A": X}, ["A", "a"]),
        ({"value": X}, {"logits": X}, ["logits", "value"]),  # a name, if the one that is given to what has none
        ({"a": X, "b": X}, X, ["a", "b", "value"]),
        (X, {"a": X, "b": X}, ["a", "b", "value"]),
        ({"a": X, "b": X}, {"a": X}, ["b"]),
        ({"a": X}, {"a": X, "b": X}, ["b"]),
    ],
)
def test_tensors_are_paired_by_name_and_by_nothing_else(reference, candidate, unmatched):
    result = compare(reference, candidate)
    assert (result["verdict"], result["coverage"]["unmatched"]) == ("fail", unmatched)
    for name in unmatched:
        assert f"{name} is unmatched: only one side has it" in result["objections"]


def test_the_order_of_names_says_nothing():
    result = compare({"a": X, "b": -X}, {"b": -X, "a": X})
    assert (result["verdict"], [tensor["name"] for tensor in result["tensors"]]) == ("pass", ["a", "b"])
    assert compare({"a": X, "b": -X}, {"b": X, "a": -X})["verdict"] == "fail"


def test_two_names_that_read_alike_are_refused_and_not_merged():
    """Else the first of them would never be compared."""
    assert compare({1: X, "2": X}, {1: X, "2": X})["verdict"] == "pass"
    with pytest.raises(StreamparityError):
        compare({1: X, "1": X}, {1: OFF, "1": X})


@pytest.mark.parametrize("sides", [({}, {}), ({}, {"a": X}), ({"a": X}, {})])
def test_nothing_to_compare_is_no_pass(sides):
    assert compare(*sides)["verdict"] == "fail"


@pytest.mark.parametrize("extension", [".npy", ".npz", ".safetensors", ".pt", ".jsonl", ".json", ".bin"])
def test_a_file_of_any_format_is_compared_with_the_array_it_holds_and_with_another_format(tmp_path, extension):
    raw = {"shape": X.shape} if extension == ".bin" else {}
    same, other = stored_as(tmp_path / f"a{extension}", X), stored_as(tmp_path / f"b{extension}", OFF)
    npy = stored_as(tmp_path / "c.npy", X)
    for pair in ((same, X), (X, same), (same, npy), (npy, same)):
        assert compare(*pair, **raw)["verdict"] == "pass"
    for pair in ((same, OFF), (X, other), (other, npy), (npy, other)):
        result = compare(*pair, **raw)
        assert (result["verdict"], only(result)["worst"]["index"]) == ("fail", [1, 2, 3])


def stored_as(path: Path, array: np.ndarray) -> Path:
    """A file that holds one array, in the format of its suffix."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"x": array}, path)
    elif path.suffix == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({"x": torch.from_numpy(array)}, path)
    elif path.suffix == ".bin":
        written(path, array)
    else:
        path.write_text(json.dumps({"x": record(array)}) + "\n")
    return path


def record(array: np.ndarray) -> dict[str, Any]:
    import base64

    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data_b64": data}


# ----------------------------------------------------------------------------------------------------------- chunks
CHUNKS = [X[0] + np.float32(10 * chunk) for chunk in range(5)]


def chunked(path: Path, chunks: list[np.ndarray]) -> tuple[Path, dict[str, Any]]:
    """Several chunks in one file, and what must be said about it."""
    kind = path.suffix
    if kind == ".raw":
        return written(path, *chunks), {"shape": chunks[0].shape}
    if kind == ".ggml":
        extents = np.int64([*chunks[0].shape[::-1], 1, 1])
        return written(path, extents, *chunks), {}
    if kind == ".jsonl":
        path.write_text("".join(json.dumps({"step": k, "x": record(chunk)}) + "\n" for k, chunk in enumerate(chunks)))
        return path, {}
    comparator = pytest.importorskip("polygraphy.comparator")
    results = comparator.RunResults()
    results.append(("r", [comparator.IterationResult(outputs={"x": chunk}, runner_name="r") for chunk in chunks]))
    results.save(str(path))
    return path, {}


@pytest.mark.parametrize("kind", [".raw", ".ggml", ".jsonl", ".json"])
def test_a_file_of_chunks_is_compared_chunk_by_chunk_and_in_total(tmp_path, kind):
    later = [chunk.copy() for chunk in CHUNKS]
    later[2][1, 3] += 0.5
    later[4][2, 0] -= 2
    reference, raw = chunked(tmp_path / f"a{kind}", CHUNKS)
    candidate, _ = chunked(tmp_path / f"b{kind}", later)
    same = compare(reference, reference, **raw)
    assert (same["verdict"], same["chunks"]) == ("pass", {"total": 5, "compared": 5, "passed": 5})
    assert (same["first_divergence"], only(same)["per_chunk_max_abs"]) == (None, [0.0] * 5)
    result = compare(reference, candidate, **raw)
    tensor, errors = only(result), [float(np.abs(a - b).max()) for a, b in zip(CHUNKS, later, strict=True)]
    lead = [0, 0] if kind == ".ggml" else []
    assert (result["verdict"], result["chunks"]) == ("fail", {"total": 5, "compared": 5, "passed": 3})
    assert tensor["per_chunk_max_abs"] == errors
    assert (tensor["elements"], tensor["max_abs"], tensor["violations"]) == (100, errors[4], 2)
    assert (tensor["worst"]["chunk"], tensor["worst"]["index"]) == (4, [*lead, 2, 0])
    assert tensor["worst"]["candidate"] == float(later[4][2, 0])
    assert tensor["first_failed_chunk"] == 2
    assert (result["first_divergence"]["chunk"], result["first_divergence"]["max_abs"]) == (2, errors[2])


@pytest.mark.parametrize("kind", [".raw", ".ggml", ".jsonl", ".json"])
@pytest.mark.parametrize("lengths", [(5, 3), (3, 5)])
def test_a_file_of_fewer_chunks_fails_unless_the_overlap_is_asked_for(tmp_path, kind, lengths):
    (reference, raw), (candidate, _) = (
        chunked(tmp_path / f"{side}{kind}", CHUNKS[:length]) for side, length in zip("ab", lengths, strict=True)
    )
    result = compare(reference, candidate, **raw)
    assert (result["verdict"], result["chunks"]) == ("fail", {"total": 5, "compared": 5, "passed": 3})
    assert result["first_divergence"]["chunk"] == 3
    assert "only one side has it in this chunk" in result["first_divergence"]["error"]
    overlap = compare(reference, candidate, overlap=True, **raw)
    assert (overlap["verdict"], overlap["chunks"]) == ("pass", {"total": 3, "compared": 3, "passed": 3})


def test_chunks_of_different_formats_are_compared(tmp_path):
    files = [chunked(tmp_path / f"a{kind}", CHUNKS)[0] for kind in (".raw", ".jsonl", ".json")]
    for other in files[1:]:
        assert compare(files[0], other, shape=CHUNKS[0].shape)["chunks"]["passed"] == 5
    late = chunked(tmp_path / "b.jsonl", [*CHUNKS[:4], CHUNKS[0]])[0]
    assert compare(files[0], late, shape=CHUNKS[0].shape)["first_divergence"]["chunk"] == 4


TYPES_BY_CHUNK = {
    "whole numbers after floats": (
        [np.float32([1, 2]), np.int64([10**6, 3])],
        [np.float32([1, 2]), np.int64([10**6 + 1, 3])],
    ),
    "single precision after half": ([X[0], X[1]], [X[0].astype(np.float16), X[1] * np.float32(1.0005)]),
}


@pytest.mark.parametrize("turn", [1, -1], ids=["as written", "turned round"])
@pytest.mark.parametrize("name", TYPES_BY_CHUNK)
def test_a_chunk_is_judged_by_its_own_type_whatever_came_before(tmp_path, name, turn):
    reference, candidate = (chunks[::turn] for chunks in TYPES_BY_CHUNK[name])
    paths = [chunked(tmp_path / f"{side}.jsonl", chunks)[0] for side, chunks in (("a", reference), ("b", candidate))]
    assert compare(paths[0], paths[0])["verdict"] == "pass"
    assert compare(*paths)["verdict"] == "fail"


# ------------------------------------------------------------------------------------------------------ percentiles
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("asked", [(), (50,), (0, 12.5, 99.99, 100), (99, 1), (50, 50)])
def test_the_percentiles_asked_for_are_given_and_no_others(tmp_path, asked, stored):
    rng = np.random.default_rng(3)
    sides = [rng.normal(size=70_000).astype(np.float32) for _ in range(2)]
    paths = [written(tmp_path / name, side) for name, side in zip("ab", sides, strict=True)]
    result = compare(*(paths if stored else sides), shape=(-1,) if stored else None, percentiles=asked)
    errors = np.abs(sides[1].astype(np.float64) - sides[0])
    expected = {f"p{q:g}": np.percentile(errors, q) for q in asked}
    assert only(result)["percentiles"] == expected
    assert only(result)["max_abs"] == errors.max()
    assert (result["verdict"], only(result)["violations"]) == (
        "fail",
        int((errors > 1e-5 + 1e-5 * np.abs(sides[0])).sum()),
    )


def test_every_percentile_has_a_name_of_its_own():
    asked = (99.9, 99.99, 99.999, 99.9999, 99.99999, 100)
    found = only(compare(X, OFF, percentiles=asked))["percentiles"]
    assert list(found) == [f"p{percentage}" for percentage in asked]
    assert found["p99.99999"] < found["p100"]


def test_percentiles_on_the_command_line(tmp_path):
    path = written(tmp_path / "a", X)

    def asked(text: str) -> dict[str, Any]:
        return only(json.loads(command("compare", path, path, "--shape", -1, "--percentiles", text, "--json", "-").out))

    assert asked("none")["percentiles"] == {}
    assert asked("1,99.5")["percentiles"] == {"p1": 0.0, "p99.5": 0.0}
    assert set(only(compare(X, X))["percentiles"]) == {"p50", "p90", "p95", "p99", "p99.9", "p100"}


@pytest.mark.parametrize("bad", [-1, 100.5, NAN, INF])
def test_a_percentile_that_is_none_is_refused(bad, tmp_path):
    with pytest.raises(StreamparityError, match="is not from 0 to 100"):
        compare(X, X, percentiles=(50, bad))
    path = written(tmp_path / "a", X)
    refused("is not from 0 to 100", "compare", path, path, "--shape", -1, f"--percentiles={bad}")


@pytest.mark.parametrize("bad", ["", "p50", "50;90", "50,", "all"])
def test_a_list_of_percentiles_that_is_none_is_refused(bad, tmp_path):
    path = written(tmp_path / "a", X)
    refused("not a list of numbers", "compare", path, path, "--shape", -1, f"--percentiles={bad}")


# ------------------------------------------------------------------------------------------------------- what is not
@pytest.mark.parametrize("given", [{"shape": (60,)}, {"dtype": "f32"}, {"layout": "ggml"}, {"layout": "c"}])
def test_a_layout_that_no_side_needs_is_refused(tmp_path, given):
    np.save(tmp_path / "a.npy", X)
    for side in (tmp_path / "a.npy", X):
        with pytest.raises(StreamparityError, match="both sides carry their own shape and dtype"):
            compare(side, tmp_path / "a.npy", **given)
    option, value = next(iter(given.items()))
    text = "60" if option == "shape" else value
    refused("carry their own", "compare", tmp_path / "a.npy", tmp_path / "a.npy", f"--{option}", text)


def test_a_layout_that_one_side_needs_is_taken(tmp_path):
    np.save(tmp_path / "a.npy", X)
    raw = written(tmp_path / "a.bin", X)
    for pair in ((tmp_path / "a.npy", raw), (raw, tmp_path / "a.npy"), (X, raw), (raw, X)):
        assert compare(*pair, shape=X.shape)["verdict"] == "pass"
    refused("its shape is not known", "compare", tmp_path / "a.npy", raw)


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dump") / "d"
    folder.mkdir()
    (folder / "dump.json").write_text(json.dumps({"schema": "streamparity.dump/1"}))
    return folder


@pytest.mark.parametrize("other", ["file", "array"])
def test_a_dump_against_anything_else_is_refused(dump, tmp_path, other):
    np.save(tmp_path / "a.npy", X)
    side = {"file": tmp_path / "a.npy", "array": X}[other]
    for pair in ((dump, side), (side, dump)):
        with pytest.raises(StreamparityError, match="one side is a dump and the other is not"):
            compare(*pair)


@pytest.mark.parametrize("option", [("--shape", "3"), ("--dtype", "f32"), ("--permute", "0"), ("--slice", "a:0:1")])
def test_dumps_are_compared_as_they_are(dump, option):
    refused("dumps describe themselves", "compare", dump, dump, *option)


@pytest.mark.parametrize("place", [0, 1])
def test_a_path_that_is_not_there_or_a_folder_is_refused(tmp_path, place):
    np.save(tmp_path / "a.npy", X)
    for bad, says in ((tmp_path / "nope", "does not exist"), (tmp_path, "is a folder")):
        pair = [tmp_path / "a.npy"] * 2
        pair[place] = bad
        refused(says, "compare", *pair)


# ---------------------------------------------------------------------------------------------------------- vacuity
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("reference", "candidate", "vacuous", "verdict"),
    [
        (np.zeros((0,)), np.zeros((0,)), True, "fail"),
        (np.zeros((3, 0)), np.zeros((3, 0)), True, "fail"),
        (np.zeros(9), np.zeros(9), True, "fail"),
        (np.zeros(9), -np.zeros(9), True, "fail"),
        (np.full(9, 2.5), np.full(9, 2.5), True, "fail"),
        (np.zeros(1), np.zeros(1), True, "fail"),
        (np.array(0.0), np.array(0.0), True, "fail"),
        (np.ones(1), np.ones(1), False, "pass"),
        (np.array(3.0), np.array(3.0), False, "pass"),
        (np.float64([2.5, 2.5, 2.6]), np.float64([2.5, 2.5, 2.6]), False, "pass"),
        (np.full(9, 2.5), np.full(9, 3.5), False, "fail"),
        (np.zeros(9), np.full(9, 3.5), False, "fail"),
        (np.full(9, 3.5), np.zeros(9), False, "fail"),
    ],
    ids=[
        "empty", "empty along an axis", "zeros", "zeros of either sign", "equal constants", "one zero", "a zero",
        "one element", "no axes", "one value that differs", "other constants", "zeros against a constant",
        "a constant against zeros",
    ],
)  # fmt: skip
def test_what_could_not_have_failed_is_named_and_never_passes(tmp_path, reference, candidate, vacuous, verdict, stored):
    if stored:
        np.save(tmp_path / "a.npy", reference)
        np.save(tmp_path / "b.npy", candidate)
        result = compare(tmp_path / "a.npy", tmp_path / "b.npy")
        assert command("compare", tmp_path / "a.npy", tmp_path / "b.npy").code == (verdict == "fail")
    else:
        result = compare(reference, candidate)
    assert result["verdict"] == verdict
    assert result["coverage"]["vacuous"] == (["value"] if vacuous else [])
    assert [line for line in result["objections"] if "value is vacuous" in line][:] == (
        ["value is vacuous: empty, or one same value throughout on both sides"] if vacuous else []
    )
    assert (only(result)["vacuous"], only(result)["passed"]) == (vacuous, verdict == "pass")
    assert result["coverage"]["compared"] == (0 if vacuous else 1)


def test_a_vacuous_tensor_beside_a_good_one_is_no_pass():
    result = compare({"good": X, "silent": X * 0}, {"good": X, "silent": X * 0})
    assert (result["verdict"], result["coverage"]["vacuous"], result["coverage"]["compared"]) == ("fail", ["silent"], 1)
    assert compare({"good": X}, {"good": X})["verdict"] == "pass"


def test_equal_whole_numbers_are_not_vacuous():
    assert compare(np.full(4, 7), np.full(4, 7))["verdict"] == "pass"
    assert compare(np.full(4, 7), np.full(4, 8))["verdict"] == "fail"


def test_zeros_in_one_chunk_of_many_are_not_vacuous(tmp_path):
    silent, loud = np.zeros((3, 4), np.float32), X[0, :3, :4]
    path, raw = chunked(tmp_path / "a.raw", [silent, silent, loud])
    assert compare(path, path, **raw)["verdict"] == "pass"
    path, raw = chunked(tmp_path / "b.raw", [silent] * 3)
    assert compare(path, path, **raw)["verdict"] == "fail"


# --------------------------------------------------------------------------------------------------- what is not finite
@pytest.fixture
def broken(tmp_path):
    """Files by what is wrong with them."""
    values = {
        "good": X,
        "nan": np.where(X[0, 0, 1] == X, NAN, X).astype(np.float32),
        "inf": np.where(X[0, 0, 1] == X, INF, X).astype(np.float32),
        "all nan": np.full_like(X, NAN),
    }
    for name, array in values.items():
        np.save(tmp_path / f"{name}.npy", array)
    return lambda name: tmp_path / f"{name}.npy"


@pytest.mark.parametrize("candidate", ["good", "nan", "all nan"])
@pytest.mark.parametrize("target", ["file", "-", None])
def test_nan_in_the_reference_is_bad_input_and_the_result_is_written_all_the_same(broken, tmp_path, candidate, target):
    path = tmp_path / "r.json" if target == "file" else target
    options = [] if target is None else ["--json", path]
    ended = command("compare", broken("nan"), broken(candidate), *options)
    lines = ended.err.splitlines()
    assert (ended.code, len(lines)) == (2, 2)
    assert "nan.npy: 1 of 60 values of value are NaN, which cannot be a reference" in lines[0]
    assert lines[1].startswith("  try: ")
    if target is None:
        assert ended.out == ""
        return
    document = json.loads(path.read_text() if target == "file" else ended.out)
    assert (document["verdict"], only(document)["nan_reference"]) == ("fail", 1)


@pytest.mark.parametrize(
    ("reference", "candidate", "counts"),
    [("good", "nan", (0, 1)), ("good", "inf", (0, 1)), ("inf", "good", (1, 0)), ("inf", "inf", (1, 1))],
)
def test_what_is_not_finite_is_a_divergence(broken, reference, candidate, counts):
    status, out, err = command("compare", broken(reference), broken(candidate))
    assert (status, err) == (1, "")
    assert f"not finite: {counts[0]} values of the reference, {counts[1]} of the candidate" in out
    result = compare(broken(reference), broken(candidate))
    assert only(result)["nonfinite"] == {"reference": counts[0], "candidate": counts[1]}
    assert (only(result)["max_abs"], only(result)["worst"]["index"]) == (None, [0, 0, 1])


# ------------------------------------------------------------------------------------------- files that change
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("change", ["append", "overwrite", "truncate", "remove and write"])
def test_a_file_that_changes_while_it_is_compared_is_refused(tmp_path, monkeypatch, side, change):
    paths = [written(tmp_path / name, np.tile(X, 100)) for name in "ab"]
    assert command("compare", *paths, "--shape", "-1").code == 0
    original = StoredTensor.read
    changed = []

    def read_and_change(self: StoredTensor, *arguments: Any) -> np.ndarray:
        found = original(self, *arguments)
        if self.path == paths[side] and not changed:
            changed.append(change)
            if change == "append":
                with open(self.path, "ab") as file:
                    file.write(b"more")
            elif change == "truncate":
                os.truncate(self.path, 8)
            elif change == "overwrite":
                with open(self.path, "r+b") as file:
                    file.write(b"else")
                os.utime(self.path, ns=(1, 1))
            else:
                self.path.rename(tmp_path / "moved")
                written(self.path, np.zeros(3))
                os.utime(tmp_path / "moved", ns=(1, 1))
        return found

    monkeypatch.setattr(StoredTensor, "read", read_and_change)
    refused("changed while it was read", "compare", *paths, "--shape", "-1")
    assert changed


def test_a_file_that_another_program_writes_to_is_refused(tmp_path):
    """The real thing: a writer that does not stop, against a reader that goes over the file twice."""
    paths = [written(tmp_path / name, np.arange(1 << 22) * factor) for name, factor in (("a", 1.0), ("b", 1.1))]
    writing, stop = threading.Event(), threading.Event()

    def write() -> None:
        with open(paths[1], "r+b", buffering=0) as file:
            while not stop.is_set():
                file.seek(0)
                file.write(os.urandom(8))
                writing.set()
                time.sleep(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert writing.wait(10)
        refused("changed while it was read", "compare", *paths, "--shape", "-1", "--dtype", "f64")
    finally:
        stop.set()
        writer.join()
    assert command("compare", *paths, "--shape", "-1", "--dtype", "f64", "--percentiles", "none").code in (1, 2)


@pytest.mark.parametrize("view", [{}, {"candidate_view": "permuted"}])
def test_a_file_that_changes_between_two_passes_is_refused(tmp_path, monkeypatch, view):
    """The second pass, for percentiles, must be over what the first one saw."""
    from streamparity.comparison import View

    views = {"candidate_view": View((1, 0))} if view else {}
    rng = np.random.default_rng(0)
    paths = [written(tmp_path / name, rng.normal(size=(300, 300))) for name in "ab"]
    original = Comparator.finish

    def touch_and_finish(self: Comparator, *arguments: Any) -> dict[str, Any]:
        with open(paths[1], "ab") as file:
            file.write(b"more")
        return original(self, *arguments)

    raw = {"shape": (300, 300), "dtype": "f64"}
    assert compare(*paths, **raw, **views)["verdict"] == "fail"
    monkeypatch.setattr(Comparator, "finish", touch_and_finish)
    with pytest.raises(StreamparityError, match="changed while it was read"):
        compare(*paths, **raw, **views)


# -------------------------------------------------------------------------------------------------------- the process
HEAVY = ("numba", "torch", "nemo", "onnx", "onnxruntime", "polygraphy", "scipy", "hypothesis")


def imported(program: str, *arguments: object) -> tuple[list[str], int]:
    """Heavy modules that a program has loaded when it ends, and its exit code."""
    watch = f"import sys, atexit\natexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))\n"
    call = [sys.executable, "-c", watch + program, *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True)
    return eval(done.stdout.splitlines()[-1]), done.returncode


def test_comparing_small_files_loads_nothing_heavy(tmp_path):
    values = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
    paths = [written(tmp_path / name, values) for name in "ab"]
    assert paths[0].stat().st_size == 256 << 10
    program = "from streamparity.cli import main; main()"
    assert imported(program, "compare", *paths, "--shape", "-1") == ([], 0)
    values[7] += 1
    written(paths[1], values)
    assert imported(program, "compare", *paths, "--shape", "-1", "--json", tmp_path / "r.json") == ([], 1)


@pytest.mark.parametrize(
    "program", ["import streamparity", "import streamparity.testing", "import streamparity.comparison"]
)
def test_the_package_is_imported_light(program):
    assert imported(program) == ([], 0)


def test_the_check_of_imports_can_fail():
    loaded, code = imported("import numba")
    assert ("numba" in loaded, code) == (True, 0)


def test_exit_codes_and_streams_of_the_process(tmp_path):
    paths = [written(tmp_path / name, array) for name, array in (("a", X), ("b", OFF))]
    call = [sys.executable, "-m", "streamparity.cli", "compare"]
    good = subprocess.run([*call, paths[0], paths[0], "--shape", "-1"], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[-1].startswith("PASS: 1 of 1 chunks passed")
    bad = subprocess.run([*call, *paths, "--shape", "-1"], capture_output=True, text=True)
    assert (bad.returncode, bad.stderr) == (1, "")
    assert bad.stdout.splitlines()[-1].startswith("FAIL: 0 of 1 chunks passed")
    wrong = subprocess.run([*call, *paths, "--shape", "7"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 2)


# -------------------------------------------------------------------------------------------------- what was found once
def test_whole_numbers_of_unlike_sign_are_as_far_apart_as_python_says():
    pairs = [(-3248722127271838370, 5233614642722632505), (-(2**63), 2**63 - 1), (-1, 1), (5, -7)]
    for first, second in pairs:
        result = compare(np.array([first]), np.array([second]))
        assert only(result)["max_abs"] == float(abs(second - first))
    result = compare(np.array([-(2**63)]), np.array([2**64 - 1], np.uint64))
    assert only(result)["max_abs"] == float(2**63 + 2**64 - 1)


@pytest.mark.parametrize("size", [2, 5000])
def test_a_difference_too_large_for_a_float_is_past_any_tolerance(size):
    reference, candidate = np.ones(size), np.ones(size)
    reference[1], candidate[1] = 1.7e308, -1.7e308
    assert only(compare(reference, candidate, rtol=1.5))["violations"] == 1
    candidate[1] = 1e307
    assert compare(reference, candidate, rtol=1.5)["verdict"] == "pass"


def test_a_square_tensor_that_was_transposed_is_told():
    square = np.random.default_rng(0).normal(size=(8, 8))
    result = compare(square, square.T)
    assert (result["verdict"], result["notes"]) == ("fail", ["value: --permute 1,0 of the candidate matches"])
    for other, options in ((square + 1, {}), (square.T + 1e-3, {}), (-square, {"atol": 0.1})):
        assert compare(square, other, **options)["notes"] == []


def test_what_overlap_leaves_out_is_told(tmp_path):
    result = compare(np.arange(12.0), np.arange(10.0), overlap=True)
    assert (result["verdict"], len(result["notes"])) == ("pass", 1)
    assert "[12] and [10]" in result["notes"][0]
    chunks = [np.arange(8.0, dtype=np.float32) + 1, np.arange(4.0, dtype=np.float32) + 1]
    paths = [written(tmp_path / name, chunk) for name, chunk in zip("ab", chunks, strict=True)]
    assert "2 chunks and 1" in compare(*paths, shape=(4,), overlap=True)["notes"][0]


@pytest.mark.parametrize("options", [{"taps": ("x",)}, {"allow_unmatched": ("x",)}])
def test_options_for_dumps_are_refused_for_anything_else(options):
    with pytest.raises(StreamparityError, match="in dumps only"):
        compare(X, X, **options)


def test_raw_files_of_two_shapes_types_and_layouts(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    single = written(tmp_path / "a.bin", x)
    half = written(tmp_path / "b.bin", np.ascontiguousarray(x.T).astype(np.float16))
    header = np.array([8, 3, 1, 1], np.int64).tobytes()
    (tmp_path / "c.bin").write_bytes(header + x.tobytes())
    both = ("--shape", "3,8", "--tol", "value:atol=1e-2")
    assert command("compare", single, half, "--shape", "a:3,8", "--shape", "b:8,3", "--dtype", "b:f16",
                   "--permute", "1,0", "--tol", "value:atol=1e-2").code == 0  # fmt: skip
    assert command("compare", single, half, *both, "--dtype", "b:f16").code == 1
    assert command("compare", single, tmp_path / "c.bin", *both, "--layout", "b:ggml").code == 0
    refused("given twice for A", "compare", single, single, "--shape", "3,8", "--shape", "a:3,8")
    refused("no layout", "compare", single, single, "--shape", "3,8", "--layout", "a:fortran")


class OnADevice:
    """As CuPy's arrays: DLPack on a device, and no implicit copy."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return torch.arange(6.0).__dlpack__()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion is not allowed")


def test_an_array_on_a_device_is_copied_by_dlpack_before_anything_else(monkeypatch):
    monkeypatch.setattr(torch, "from_dlpack", lambda value: torch.utils.dlpack.from_dlpack(value.__dlpack__()))
    assert compare(np.arange(6.0, dtype=np.float32), OnADevice())["verdict"] == "pass"


def test_numba_that_finds_no_place_for_its_cache_is_done_without(tmp_path):
    """A read-only installation without a home, as in containers."""
    package = tmp_path / "streamparity"
    shutil.copytree(Path(streamparity.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    (package / "comparison" / "__pycache__").write_text("in the way")
    program = (
        "import numpy as np, streamparity, sys\n"
        "print(streamparity.__file__, streamparity.compare(np.arange(9.), np.arange(9.))['verdict'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(package / "__init__.py"), "pass"], done.stderr
