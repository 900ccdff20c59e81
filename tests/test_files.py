from __future__ import annotations

import base64
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from streamparity import compare
from streamparity.dtypes import DTYPES
from streamparity.errors import StreamparityError

VALUES = np.random.default_rng(9).normal(size=(3, 4, 5)).astype(np.float32)
SHAPE = VALUES.shape
TERA = 2_500_000_000_000  # float32 elements: 10 TB


def raw(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(array.tobytes())
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def npz(path: Path, array: np.ndarray) -> Path:
    np.savez(path, first=array, second=np.arange(4))
    return path


def npz_compressed(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path, first=array, second=np.arange(4))
    return path


def safetensors(path: Path, array: np.ndarray) -> Path:
    save_file({"first": np.ascontiguousarray(array), "second": np.arange(4)}, path)
    return path


def ggml(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(struct.pack("<4q", *array.shape[::-1], 1) + array.tobytes())
    return path


def jsonl(path: Path, array: np.ndarray) -> Path:
    data = base64.b64encode(array.tobytes()).decode()
    path.write_text(json.dumps({"first": {"dtype": "float32", "shape": array.shape, "data_b64": data}}) + "\n")
    return path


FORMATS: dict[str, tuple[Callable[[Path, np.ndarray], Path], str, dict[str, Any]]] = {
    "raw": (raw, ".bin", {"shape": SHAPE}),
    "npy": (npy, ".npy", {}),
    "npz": (npz, ".npz", {}),
    "compressed npz": (npz_compressed, ".npz", {}),
    "safetensors": (safetensors, ".safetensors", {}),
    "ggml": (ggml, ".bin", {"shape": SHAPE, "layout": "ggml"}),
    "jsonl": (jsonl, ".jsonl", {}),
    "array": (lambda path, array: array, "", {}),
}


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tensor["name"]: tensor for tensor in result["tensors"]}


def changed(index: tuple[int, ...] = (2, 1, 3), amount: float = 1e-3) -> np.ndarray:
    array = VALUES.copy()
    array[index] += amount
    return array


# ------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_files_pass_and_one_changed_value_is_found_in_every_format(tmp_path, kind):
    write, suffix, options = FORMATS[kind]
    reference = write(tmp_path / f"reference{suffix}", VALUES)
    same = compare(reference, write(tmp_path / f"same{suffix}", VALUES), **options)
    other = compare(reference, write(tmp_path / f"other{suffix}", changed()), **options)
    name = "value" if kind in ("raw", "npy", "ggml", "array") else "first"
    assert (same["verdict"], same["objections"], same["first_divergence"]) == ("pass", [], None)
    assert (other["verdict"], other["first_divergence"]["tensor"]) == ("fail", name)
    assert by_name(same)[name]["elements"] == by_name(other)[name]["elements"] == VALUES.size
    worst = by_name(other)[name]["worst"]
    assert worst["index"] == [2, 1, 3]
    assert (worst["reference"], worst["candidate"]) == (VALUES[2, 1, 3], changed()[2, 1, 3])
    assert by_name(other)[name]["max_abs"] == abs(float(changed()[2, 1, 3]) - float(VALUES[2, 1, 3]))
    json.dumps(other, allow_nan=False)


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "i64", "i32", "i16", "i8", "u8", "float32", "int16"])
def test_a_raw_file_is_read_as_the_type_it_is_said_to_be(tmp_path, dtype):
    code = {"float32": "f32", "int16": "i16"}.get(dtype, dtype)
    reference = np.arange(24).astype(f"<{code[0]}{int(code[1:]) // 8}")
    candidate = reference.copy()
    candidate[17] += 1
    paths = [raw(tmp_path / name, array) for name, array in (("a.bin", reference), ("b.bin", candidate))]
    result = compare(*paths, shape=(2, 3, 4), dtype=dtype)
    assert by_name(result)["value"]["worst"] == {"chunk": 0, "index": [1, 1, 1], "reference": 17, "candidate": 18}
    assert compare(paths[0], paths[0], shape=(2, 3, 4), dtype=dtype)["verdict"] == "pass"


@pytest.mark.parametrize("shape", [(3, 4, 5), (60,), (-1,), (3, -1, 5), (1, 60, 1), [3, 20]])
def test_a_raw_file_takes_any_shape_that_fits_its_size(tmp_path, shape):
    reference, candidate = raw(tmp_path / "a.bin", VALUES), raw(tmp_path / "b.bin", changed((2, 1, 3)))
    resolved = VALUES.reshape(shape).shape
    worst = by_name(compare(reference, candidate, shape=shape))["value"]["worst"]
    assert worst["index"] == [int(part) for part in np.unravel_index(2 * 20 + 1 * 5 + 3, resolved)]


def test_files_of_different_formats_are_the_same_tensor(tmp_path):
    reference = npz(tmp_path / "a.npz", VALUES)
    assert compare(reference, safetensors(tmp_path / "b.safetensors", VALUES))["verdict"] == "pass"
    assert compare(reference, safetensors(tmp_path / "c.safetensors", changed()))["verdict"] == "fail"


def test_a_byte_order_is_not_a_difference():
    swapped = VALUES.astype(">f4")
    assert compare(VALUES, swapped)["verdict"] == "pass"
    assert compare(swapped, changed(amount=2e-6).astype(">f4"))["verdict"] == "pass"
    assert compare(swapped, changed().astype(">f4"))["verdict"] == "fail"


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "fail"),
        ({"atol": 1.1e-3}, "pass"),
        ({"atol": 0.9e-3}, "fail"),
        ({"rtol": 1.1e-4}, "pass"),
        ({"rtol": 0.9e-4}, "fail"),
        ({"atol": 0.6e-3, "rtol": 0.6e-4}, "pass"),
        ({"atol": 0.4e-3, "rtol": 0.4e-4}, "fail"),
        ({"atol": 0}, "fail"),
        ({"rtol": 0}, "fail"),
    ],
)
def test_tolerance_flags_decide(options, verdict):
    reference = np.linspace(10, 11, 7)
    candidate = reference.copy()
    candidate[0] += 1e-3
    result = compare(reference, candidate, **options)
    assert result["verdict"] == verdict
    assert by_name(result)["value"]["tolerance"]["source"] == ("flag" if options else "dtype-default")
    assert compare(reference, reference, **options)["verdict"] == "pass"


@pytest.mark.parametrize("options", [{"atol": np.nan}, {"rtol": np.nan}, {"atol": np.inf}, {"atol": -1.0}])
def test_a_tolerance_that_judges_nothing_is_never_a_pass(options):
    assert outcome(VALUES, VALUES + 5, **options) in ("fail", "refused")


@pytest.mark.parametrize(
    ("reference", "candidate", "why"),
    [
        (np.zeros(4), np.zeros(4), "vacuous"),
        (np.full((2, 2), 3.0), np.full((2, 2), 3.0), "vacuous"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "vacuous"),
        (VALUES, VALUES.reshape(3, 5, 4), "not comparable"),
        (VALUES, VALUES.astype(np.int64), "not comparable"),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), "not finite"),
    ],
    ids=["zeros", "constant", "empty", "shape", "dtype", "NaN"],
)
def test_two_arrays_that_do_not_prove_anything_do_not_pass(reference, candidate, why):
    result = compare(reference, candidate)
    assert result["verdict"] == "fail"
    assert why in result["objections"][0]


def test_a_tensor_that_only_one_file_has_fails_whichever_side_lacks_it(tmp_path):
    both, one = npz(tmp_path / "both.npz", VALUES), tmp_path / "one.npz"
    np.savez(one, first=VALUES)
    for pair in ((both, one), (one, both)):
        result = compare(*pair)
        assert (result["verdict"], result["coverage"]["unmatched"]) == ("fail", ["second"])
        with pytest.raises(StreamparityError, match="in dumps only"):
            compare(*pair, allow_unmatched=["*"])
    assert compare(one, one)["verdict"] == "pass"


def test_files_without_tensors_do_not_pass(tmp_path):
    np.savez(tmp_path / "none.npz")
    assert outcome(tmp_path / "none.npz", tmp_path / "none.npz") == "refused"


def test_percentiles_can_be_chosen_and_are_numpys():
    errors = np.abs(np.random.default_rng(1).normal(size=1001))
    found = by_name(compare(np.zeros(1001), errors, percentiles=(12.5, 99)))["value"]["percentiles"]
    assert found == {"p12.5": np.percentile(errors, 12.5), "p99": np.percentile(errors, 99)}


# ------------------------------------------------------------------------------------------------ bad input


def outcome(reference: Any, candidate: Any, **options: Any) -> str:
    """The verdict, or ``refused`` in the one way that the command line can print."""
    try:
        return compare(reference, candidate, **options)["verdict"]
    except StreamparityError as error:
        return "refused" if error.hint and "\n" not in error.message + error.hint else repr(error)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def safetensors_header(dtype: str, shape: list[int], size: int) -> bytes:
    header = json.dumps({"first": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header


def zipped(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def bytes_in(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


BAD: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "missing": (lambda at: at / "absent.npy", {}, "does not exist"),
    "folder": (lambda at: folder(at / "folder"), {}, "is a folder"),
    "raw without shape": (lambda at: raw(at / "a.bin", VALUES), {}, "pass --shape"),
    "size not a multiple": (lambda at: bytes_in(at / "a.bin", b"x" * 39), {"shape": (-1,)}, "holds 39 bytes"),
    "size one element short": (lambda at: bytes_in(at / "a.bin", b"x" * 236), {"shape": SHAPE}, "holds 236 bytes"),
    "rest with -1": (lambda at: bytes_in(at / "a.bin", b"x" * 40), {"shape": (3, -1)}, "holds 40 bytes"),
    "wrong shape": (lambda at: raw(at / "a.bin", VALUES), {"shape": (3, 4, 6)}, "needs 288"),
    "negative extents": (lambda at: raw(at / "a.bin", VALUES), {"shape": (-3, -20)}, "check --shape"),
    "two unknown extents": (lambda at: raw(at / "a.bin", VALUES), {"shape": (-1, -1)}, "check --shape"),
    "unknown beside zero": (lambda at: raw(at / "a.bin", VALUES), {"shape": (0, -1)}, "check --shape"),
    "other element size": (lambda at: raw(at / "a.bin", VALUES), {"shape": SHAPE, "dtype": "f64"}, "needs 480"),
    "unknown dtype": (lambda at: raw(at / "a.bin", VALUES), {"shape": SHAPE, "dtype": "f31"}, "unknown dtype 'f31'"),
    "shape for npy": (lambda at: npy(at / "a.npy", VALUES), {"shape": SHAPE}, "both sides carry their own shape"),
    "dtype for safetensors": (
        lambda at: safetensors(at / "a.safetensors", VALUES),
        {"dtype": "f32"},
        "both sides carry their own shape",
    ),
    "text called npy": (lambda at: bytes_in(at / "a.npy", b"not an array"), {}, "not a readable .npy"),
    "empty npy": (lambda at: bytes_in(at / "a.npy", b""), {}, "not a readable .npy"),
    "npz called npy": (lambda at: npz(at / "a.npz", VALUES).rename(at / "a.npy"), {}, "not a readable .npy"),
    "npy called npz": (lambda at: npy(at / "a.npy", VALUES).rename(at / "a.npz"), {}, "not a readable .npz"),
    "npz of texts": (lambda at: zipped(at / "a.npz", "read.me", b"hello"), {}, "not a readable .npz"),
    "npy of texts": (lambda at: npy(at / "a.npy", np.array(["a", "b"])), {}, "not a readable .npy"),
    "npy of objects": (lambda at: npy(at / "a.npy", np.array([{}, None])), {}, "not a readable .npy"),
    "npy of records": (lambda at: npy(at / "a.npy", np.zeros(2, [("a", "f4")])), {}, "not a readable .npy"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_bad_input_is_refused_in_two_lines(tmp_path, name, side):
    make, options, says = BAD[name]
    bad = make(tmp_path)
    sides = (bad, VALUES) if side == "reference" else (VALUES, bad)
    with pytest.raises(StreamparityError) as refused:
        compare(*sides, **options)
    assert says in f"{refused.value.message}\n{refused.value.hint}"
    assert "\n" not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    "make",
    [
        lambda at: (bytes_in(at / "a.bin", b"x" * 40), {"shape": (TERA,)}),
        lambda at: (bytes_in(at / "a.npy", npy_header((TERA,)) + b"x" * 40), {}),
        lambda at: (zipped(at / "a.npz", "first.npy", npy_header((TERA,)) + b"x" * 40), {}),
        lambda at: (bytes_in(at / "a.safetensors", safetensors_header("F32", [TERA], 4 * TERA) + b"x" * 40), {}),
        lambda at: (bytes_in(at / "a.safetensors", safetensors_header("F32", [TERA], 40) + b"x" * 40), {}),
    ],
    ids=["raw", "npy", "npz", "safetensors", "safetensors with its real size"],
)
def test_ten_terabytes_in_forty_bytes_are_refused_without_allocating(tmp_path, make):
    path, options = make(tmp_path)
    tracemalloc.start()
    try:
        assert outcome(path, path, **options) == "refused"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed npz", "safetensors"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path, kind):
    write, suffix, _ = FORMATS[kind]
    whole = write(tmp_path / f"whole{suffix}", VALUES)
    content, cut = whole.read_bytes(), tmp_path / f"cut{suffix}"
    lengths = np.unique(np.linspace(0, len(content) - 1, 40, dtype=int)).tolist()
    outcomes = {length: outcome(whole, bytes_in(cut, content[:length])) for length in lengths}
    assert {length for length, found in outcomes.items() if found != "refused"} == set()
    assert outcome(whole, bytes_in(cut, content)) == "pass"


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed npz", "safetensors"])
def test_a_damaged_byte_is_refused_or_compared_and_never_a_crash(tmp_path, kind):
    write, suffix, _ = FORMATS[kind]
    whole = write(tmp_path / f"whole{suffix}", VALUES)
    content, damaged = whole.read_bytes(), tmp_path / f"damaged{suffix}"
    rng = np.random.default_rng(11)
    found = set()
    for position in rng.permutation(len(content))[:150].tolist():
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        found.add(outcome(whole, bytes_in(damaged, bytes(flipped))))
    assert "refused" in found
    assert found <= {"refused", "fail", "pass"}
    assert outcome(whole, bytes_in(damaged, content)) == "pass"


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "F8_E5M2", "U16"])
def test_every_type_of_safetensors_is_compared(tmp_path, dtype):
    paths = []
    for name, last in (("a", 4), ("b", 8)):
        content = np.array([1, 2, 3, last]).astype(DTYPES[dtype.lower()]).tobytes()
        head = safetensors_header(dtype, [4], len(content))
        paths.append(bytes_in(tmp_path / f"{name}.safetensors", head + content))
    assert outcome(paths[0], paths[0]) == "pass"
    assert outcome(*paths) == "fail"


@pytest.mark.parametrize("order", [1, -1], ids=["dump against file", "file against dump"])
def test_a_dump_against_a_file_is_refused(tmp_path, order):
    dump = folder(tmp_path / "dump")
    (dump / "dump.json").write_text("{}")
    for other in (npy(tmp_path / "a.npy", VALUES), VALUES, folder(tmp_path / "plain")):
        with pytest.raises(StreamparityError, match="one side is a dump and the other is not"):
            compare(*(dump, other)[::order])
