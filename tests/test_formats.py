"""Every reader: what a format's own library writes comes back, and what is wrong with a file is said in two lines."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from streamparity.dtypes import DTYPES, EXTENSION_FLOATS, DType
from streamparity.dump import files
from streamparity.dump.files import RawLayout, check_numeric, is_self_describing, read_file
from streamparity.dump.stored import StoredTensor
from streamparity.errors import BackendMissing, StreamparityError

VALUES = np.random.default_rng(9).normal(size=(2, 3, 4)).astype(np.float32)
TERA = 2_500_000_000_000  # float32 elements: 10 TB
BUILTIN = [dtype for dtype in DTYPES.values() if dtype.name not in EXTENSION_FLOATS]


def numbers(dtype: DType) -> np.ndarray:
    """Values of a type, ``[2, 3, 4]``, all different where it has as many."""
    return (np.arange(24).reshape(2, 3, 4) - (0 if dtype.kind in "ub" else 12)).astype(dtype)


def arrays(path: Path, raw: RawLayout = files.UNKNOWN) -> dict[str, list[np.ndarray]]:
    """What a file holds, in memory."""
    return {
        name: [chunk if isinstance(chunk, np.ndarray) else chunk.array() for chunk in chunks]
        for name, chunks in read_file(path, raw).items()
    }


def assert_holds(path: Path, expected: dict[str, list[np.ndarray]], raw: RawLayout = files.UNKNOWN) -> None:
    found = arrays(path, raw)
    assert found.keys() == expected.keys()
    for name, chunks in expected.items():
        assert len(found[name]) == len(chunks)
        for ours, theirs in zip(found[name], chunks, strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert ours.tobytes() == theirs.tobytes()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------------ raw and ggml


@pytest.mark.parametrize("order", ["", "<", ">"])
@pytest.mark.parametrize("name", DTYPES)
def test_raw_files_of_every_type_and_byte_order(tmp_path, name, order):
    if order == ">" and DTYPES[name].name in EXTENSION_FLOATS:
        pytest.skip("ml_dtypes has one byte order")
    stored = numbers(DTYPES[name]) if order != ">" else numbers(DTYPES[name]).astype(DTYPES[name].newbyteorder(">"))
    path = written(tmp_path / "a.bin", stored.tobytes() * 3)
    assert_holds(path, {"value": [stored] * 3}, RawLayout(stored.shape, order + name))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((2, 3, 4), 1), ((4,), 6), ((-1,), 1), ((2, -1, 4), 1), ((1, 24, 1), 1), ((12,), 2)],
)
def test_a_raw_file_is_as_many_chunks_as_the_shape_fits_into_it(tmp_path, shape, chunks):
    path = written(tmp_path / "a.f32", VALUES.tobytes())
    parts = VALUES.reshape(chunks, *shape) if -1 not in shape else [VALUES.reshape(shape)]
    assert_holds(path, {"value": list(parts)}, RawLayout(shape))


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (-1,), (3, -1)])
def test_an_empty_raw_file_holds_an_empty_chunk(tmp_path, shape):
    (chunk,) = arrays(written(tmp_path / "a.bin", b""), RawLayout(shape))["value"]
    assert chunk.shape == tuple(max(extent, 0) for extent in shape)


def test_a_ggml_dump_is_recognised_and_its_axes_are_numpys(tmp_path):
    path = written(tmp_path / "a.bin", struct.pack("<4q", 4, 3, 2, 1) + VALUES.tobytes() + (VALUES + 1).tobytes())
    expected = [VALUES[None], VALUES[None] + 1]
    assert_holds(path, {"value": expected})
    assert_holds(path, {"value": expected}, RawLayout(layout="ggml"))
    assert_holds(path, {"value": [VALUES, VALUES + 1]}, RawLayout((2, 3, 4), layout="ggml"))
    assert_holds(path, {"value": [part.reshape(6, 4) for part in expected]}, RawLayout((-1, 4), layout="ggml"))


@pytest.mark.parametrize("name", ["f16", ">f32", "bf16", "i8"])
def test_a_ggml_dump_of_another_type(tmp_path, name):
    stored = numbers(files.parse_dtype(name))
    path = written(tmp_path / "a.bin", struct.pack("<4q", 4, 3, 2, 1) + stored.tobytes())
    assert_holds(path, {"value": [stored[None]]}, RawLayout(dtype=name))


# ------------------------------------------------------------------------------------------- numpy, safetensors


@pytest.mark.parametrize("suffix", [".npy", ".NPY", ".bin"])
def test_npy_is_known_by_its_name_or_its_first_bytes(tmp_path, suffix):
    with open(tmp_path / f"a{suffix}", "wb") as file:
        np.save(file, VALUES)
    assert_holds(tmp_path / f"a{suffix}", {"value": [VALUES]})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", BUILTIN, ids=str)
def test_npy_and_npz_of_every_type_byte_order_and_axis_order(tmp_path, dtype, order, save):
    array = numbers(dtype).astype(dtype.newbyteorder(order))
    stored = {
        "c": array,
        "f": np.asfortranarray(array),
        "scalar": array[0, 0, 0],
        "none": array[:0],
        "one": array[0, 0],
    }
    for name, part in stored.items():
        np.save(tmp_path / f"{name}.npy", part)
        assert_holds(tmp_path / f"{name}.npy", {"value": [np.asarray(part)]})
    save(tmp_path / "a.npz", **stored)
    assert_holds(tmp_path / "a.npz", {name: [np.asarray(part)] for name, part in stored.items()})


@pytest.mark.parametrize("dtype", BUILTIN, ids=str)
def test_safetensors_of_every_numpy_type(tmp_path, dtype):
    array = numbers(dtype)
    save_file({"a": array, "b": array[:0], "c": np.asarray(array[0, 0, 0])}, tmp_path / "a.safetensors", {"by": "me"})
    expected = {"a": [array], "b": [array[:0]], "c": [np.asarray(array[0, 0, 0])]}
    assert_holds(tmp_path / "a.safetensors", expected)


@pytest.mark.parametrize("name", sorted(EXTENSION_FLOATS))
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_types_that_numpy_has_not(tmp_path, name, suffix):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(-6, 6).to(getattr(torch, name)).reshape(3, 4)
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save({"a": tensor}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file({"a": tensor}, path)
    (found,) = arrays(path)["a"]
    assert found.dtype.name == name
    assert found.astype(np.float32).tolist() == tensor.float().tolist()


def test_what_is_in_a_file_stays_there_until_it_is_read(tmp_path):
    array = np.zeros(4_000_000)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", value=array)
    save_file({"value": array}, tmp_path / "a.safetensors")
    written(tmp_path / "a.bin", array.tobytes())
    tracemalloc.start()
    try:
        for suffix in ("npy", "npz", "safetensors", "bin"):
            raw = RawLayout((1000,), "f64") if suffix == "bin" else files.UNKNOWN
            chunks = read_file(tmp_path / f"a.{suffix}", raw)["value"]
            assert sum(chunk.nbytes for chunk in chunks) == array.nbytes
            assert all(isinstance(chunk, StoredTensor) for chunk in chunks)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------------------------------- torch


def test_torch_files_of_every_type(tmp_path):
    torch = pytest.importorskip("torch")
    stored = {dtype.name: torch.from_numpy(numbers(dtype)) for dtype in BUILTIN}
    torch.save(stored, tmp_path / "a.pt")
    assert_holds(tmp_path / "a.pt", {dtype.name: [numbers(dtype)] for dtype in BUILTIN})


def test_torch_views_containers_and_parameters(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "whole": whole,
        "rows": whole[1:3],
        "columns": whole[:, 2:4],
        "turned": whole.T,
        "every second": whole[::2, 1::2],
        "epoch": 3,
        "layers": [{"weight": torch.nn.Parameter(torch.ones(2))}, (torch.zeros(0, 3), torch.tensor(7))],
        4: {"again": whole},
    }
    torch.save(content, tmp_path / "a.pth")
    expected = {name: content[name].numpy() for name in ("whole", "rows", "columns", "turned", "every second")}
    expected |= {"layers.0.weight": np.ones(2, np.float32), "layers.1.0": np.zeros((0, 3), np.float32)}
    expected |= {"layers.1.1": np.array(7), "4.again": whole.numpy()}
    assert_holds(tmp_path / "a.pth", {name: [array] for name, array in expected.items()})


def test_a_bare_torch_tensor_is_called_value(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(VALUES), tmp_path / "a.pt")
    assert_holds(tmp_path / "a.pt", {"value": [VALUES]})


def test_a_torch_file_needs_a_torch_that_reads_it_safely(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(3), tmp_path / "a.pt")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", type(torch.__version__)("2.5.1"))
        with pytest.raises(BackendMissing, match=r"torch 2\.5\.1 cannot read \.pt files safely, 2\.6 can"):
            read_file(tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(BackendMissing, match="needs torch, which is not installed") as missing:
        read_file(tmp_path / "a.pt")
    assert (missing.value.exit_code, missing.value.hint) == (3, "pip install 'torch>=2.6'")


# ------------------------------------------------------------------------------------------- Polygraphy, records


def run_results(path: Path, runners: dict[str, list[dict[str, Any]]]) -> Path:
    """What ``polygraphy run --save-outputs`` writes."""
    comparator = pytest.importorskip("polygraphy.comparator")
    results = comparator.RunResults()
    for name, iterations in runners.items():
        results.add(iterations, runner_name=name)
    results.save(str(path))
    return path


def test_polygraphys_outputs_are_chunks_by_iteration(tmp_path):
    iterations = [{"logits": VALUES + k, "length": np.array([k], np.int64)} for k in range(3)]
    one = run_results(tmp_path / "one.json", {"trt-runner": iterations})
    expected = {name: [iteration[name] for iteration in iterations] for name in ("logits", "length")}
    assert_holds(one, expected)
    two = run_results(tmp_path / "two.json", {"trt": iterations, "ort": iterations[:2]})
    prefixed = {f"trt:{name}": chunks for name, chunks in expected.items()}
    assert_holds(two, prefixed | {f"ort:{name}": chunks[:2] for name, chunks in expected.items()})


@pytest.mark.parametrize("dtype", BUILTIN, ids=str)
def test_polygraphys_inputs_of_every_type(tmp_path, dtype):
    save_json = pytest.importorskip("polygraphy.json").save_json
    feeds = [{"audio_signal": numbers(dtype)}, {"audio_signal": np.asfortranarray(numbers(dtype))}]
    save_json(feeds, str(tmp_path / "inputs.json"))
    assert_holds(tmp_path / "inputs.json", {"audio_signal": [numbers(dtype)] * 2})
    save_json(feeds[0], str(tmp_path / "feed.json"))
    assert_holds(tmp_path / "feed.json", {"audio_signal": [numbers(dtype)]})


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn"])
def test_polygraphys_torch_outputs(tmp_path, name):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
    path = run_results(tmp_path / "a.json", {"trt": [{"o": tensor, "turned": tensor.T}]})
    found = arrays(path)
    assert found["o"][0].dtype.name == name
    assert found["o"][0].astype(float).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["turned"][0].astype(float).tolist() == [[0, 3], [1, 4], [2, 5]]


def record(array: np.ndarray, dtype: str | None = None) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": dtype or array.dtype.name, "shape": list(array.shape), "data_b64": data}


def lines(path: Path, *records: Any, end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(item) for item in records) + end)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_records_are_named_by_where_they_are_and_counted_by_line(tmp_path, suffix, end):
    rows = [
        {"meta": {"model": "m"}},
        {"step": 0, "out": {"logits": record(VALUES)}, "layers": [record(VALUES + 1), record(VALUES + 2)]},
        {"step": 1, "out": {"logits": record(VALUES + 3)}},
    ]
    expected = {
        "out.logits": [VALUES, VALUES + 3],
        "layers.0": [VALUES + 1],
        "layers.1": [VALUES + 2],
    }
    assert_holds(lines(tmp_path / f"a{suffix}", *rows, end=end), expected)


def test_empty_lines_say_nothing(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"a": record(VALUES)}, end="\n\n \n")
    assert_holds(path, {"a": [VALUES]})


def test_a_tensor_of_polygraphys_is_one(tmp_path):
    content = torch_file(tmp_path / "a.pt", {"a": torch_tensor(3)}).read_bytes()
    tensor = {"tensor": base64.b64encode(content).decode(), "polygraphy_class": "Tensor"}
    path = written(tmp_path / "a.json", json.dumps(results({"x": tensor})).encode())
    with pytest.raises(StreamparityError, match="iteration 0, 'x' holds torch tensors 'a', not one without a name"):
        read_file(path)


def test_a_record_that_is_an_array_has_its_own_name(tmp_path):
    rows = [{"name": "a", **record(VALUES)}, {"tensor": "b", **record(VALUES)}, {"name": 3, **record(VALUES)}]
    expected = {"a": [VALUES, VALUES + 1], "b": [VALUES], "value": [VALUES]}
    assert_holds(lines(tmp_path / "a.jsonl", *rows, {"name": "a", **record(VALUES + 1)}), expected)
    assert_holds(written(tmp_path / "a.json", json.dumps(rows[1], indent=2).encode()), {"b": [VALUES]})


@pytest.mark.parametrize(
    ("written_as", "dtype"),
    [(name, dtype) for name, dtype in DTYPES.items()]
    + [(dtype.name, dtype) for dtype in DTYPES.values()]
    + [("torch.bfloat16", DTYPES["bf16"]), ("<f4", np.dtype("<f4")), (">f4", np.dtype(">f4")), ("|u1", np.dtype("u1"))],
)
def test_records_of_every_type_under_the_names_that_scripts_print(tmp_path, written_as, dtype):
    array = numbers(dtype)
    assert_holds(lines(tmp_path / "a.jsonl", {"a": record(array, written_as)}), {"a": [array]})


# ----------------------------------------------------------------------------------------------------- bad input


def saved(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def npy(shape: tuple[int, ...], descr: str = "<f4", content: bytes = b"x" * 40) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def zipped(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with pytest.MonkeyPatch.context() as patched, zipfile.ZipFile(path, "w", method) as archive:
        patched.setattr(zipfile.ZipFile, "_writecheck", lambda *_: None)  # it warns of names that are there already
        for name, content in members:
            archive.writestr(name, content)
    return path


def patched_zip(path: Path, offset: int, field: bytes) -> Path:
    """Change what the central directory says of the first member."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + offset
    content[at : at + len(field)] = field
    return written(path, bytes(content))


def tensors(path: Path, header: dict[str, Any] | str, content: bytes = b"x" * 40) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    return written(path, struct.pack("<Q", len(text)) + text.encode() + content)


def entry(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def torch_file(path: Path, content: Any, **options: Any) -> Path:
    pytest.importorskip("torch").save(content, path, **options)
    return path


def torch_tensor(*extents: int) -> Any:
    return pytest.importorskip("torch").ones(*extents)


def lying_storage(path: Path) -> Path:
    """A pickle that gives a storage of 8 bytes 32, as many as the archive has behind it."""
    torch_file(path, {"a": torch_tensor(2)})
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    # BININT1 2 is the storage's number of elements, then the extent and the offset.
    changed = [(name, data.replace(b"cpuq\x06K\x02", b"cpuq\x06K\x08")) for name, data in members]
    assert changed != members
    return zipped(path, *changed)


def rewritten(path: Path, method: int = zipfile.ZIP_STORED, **changed: bytes) -> Path:
    """A torch file with other bytes in the members that are named."""
    torch_file(path, {"a": torch_tensor(2)})
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    return zipped(path, *((name, changed.get(name.split("/")[-1], data)) for name, data in members), method=method)


def overlapping(path: Path) -> Path:
    """An archive whose second member lies inside the first."""
    inner = npy((100,), content=b"x" * 400)
    alone = zipped(path, ("a.npy", inner)).read_bytes()
    outer = npy((len(alone),), "|u1", alone)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b.npy", outer)
        info = zipfile.ZipInfo("a.npy")
        info.header_offset = 35 + len(outer) - len(alone)
        info.file_size, info.compress_size, info.CRC = len(inner), len(inner), zlib.crc32(inner)
        archive.filelist.append(info)
    return path


def deep(levels: int) -> Any:
    content = torch_tensor(1)
    for _ in range(levels):
        content = [content]
    return content


def script(path: Path) -> Path:
    torch = pytest.importorskip("torch")
    return zipped(path, *((f"x/{name}", b"") for name in ("data.pkl", "constants.pkl", "code/a.py"))) if torch else path


def ndarray(content: bytes) -> dict[str, str]:
    return {"array": base64.b64encode(content).decode(), "polygraphy_class": "ndarray"}


def results(*iterations: Any) -> dict[str, Any]:
    listed = [{"outputs": outputs, "polygraphy_class": "IterationResult"} for outputs in iterations]
    return {"lst": [["r", listed]], "polygraphy_class": "RunResults"}


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


REWRITE = "write it again, whole and as numbers"
NUMBERS = "save floats, integers or bools"
SHAPE = "check --shape and --dtype"
TORCH = "save a dict of tensors: torch.save({name: tensor.cpu().contiguous()}, path)"
POLYGRAPHY = "save it again with polygraphy run --save-outputs"
GGML = struct.pack("<4q", 4, 3, 2, 1)
NAMES = ", ".join(DTYPES)

Make = Callable[[Path], Path]
# What is made, how it is read, and both lines; * stands for words of another library.
BAD: dict[str, tuple[Make, dict[str, Any], str, str]] = {}


def bad(name: str, make: Make, message: str, hint: str = REWRITE, **raw: Any) -> None:
    BAD[name] = (make, raw, message, hint)


bad("missing", lambda at: at / "a.npy", "{path} does not exist", "check the path")
bad("folder", lambda at: folder(at / "a.npy"), "{path} is a folder, not a file", "give a file, or two dump folders")
bad(
    "pipe",
    lambda at: pipe(at / "a.bin"),
    "{path} is a device or a pipe, not a file",
    "write what it gives into a file first",
    shape=(3,),
)
bad(
    "unknown dtype",
    lambda at: written(at / "a.bin", b"x" * 40),
    "unknown dtype 'f31'",
    f"use one of {NAMES}; >f32 is big-endian",
    shape=(10,),
    dtype="f31",
)
for name, size, shape, message in (
    ("truncated", 92, (2, 3, 4), "holds 92 bytes; shape [2, 3, 4] of float32 needs 96 per chunk: truncated, the last"),
    (
        "one byte more",
        97,
        (2, 3, 4),
        "holds 97 bytes; shape [2, 3, 4] of float32 needs 96 per chunk: truncated, the last",
    ),
    (
        "-1 and half an element",
        39,
        (-1,),
        "holds 39 bytes; shape [-1] of float32 needs a multiple of 4 per chunk: trunc",
    ),
    ("nothing", 0, (2, 3), "holds 0 bytes; shape [2, 3] of float32 needs 24 per chunk: truncated"),
    ("not nothing", 4, (2, 0), "holds 4 bytes; shape [2, 0] of float32 needs 0 per chunk: over-long by 4"),
    (
        "10 TB",
        40,
        (TERA,),
        f"holds 40 bytes; shape [{TERA}] of float32 needs {4 * TERA} per chunk: truncated, the last",
    ),
):
    bad(f"raw, {name}", lambda at, n=size: written(at / "a.bin", b"x" * n), f"{{path}} {message}*", SHAPE, shape=shape)
for name, shape, message, hint in (
    ("two unknown", (-1, -1), "leaves more than one answer", "check --shape: one extent may be -1, the others not 0"),
    ("unknown by 0", (0, -1), "leaves more than one answer", "check --shape: one extent may be -1, the others not 0"),
    ("negative", (-3, -20), "is none: a shape is whole numbers from 0 up, not [-3, -20]", "check --shape"),
    ("huge", (2**62, 2**62), "is none: its shape counts more bytes than 64 bits can", "check --shape"),
    ("huge by 0", (0, 2**70), "is none: its shape counts more bytes than 64 bits can", "check --shape"),
    ("40 axes", (1,) * 40, "is none: a shape of 40 axes is more than the 32 that numpy has", "check --shape"),
):
    bad(
        f"raw, shape {name}",
        lambda at: written(at / "a.bin", b"x" * 240),
        f"{{path}} holds 240 bytes; shape * of float32 {message}",
        hint,
        shape=shape,
    )
bad(
    "raw, too many chunks",
    lambda at: written(at / "a.bin", b"x" * 300_000),
    "{path} holds 300000 bytes; shape [1] of uint8 makes 300000 chunks, more than 262144",
    "check --shape: one chunk's extents",
    shape=(1,),
    dtype="u8",
)
bad(
    "raw, no shape",
    lambda at: written(at / "a.bin", b"x" * 40),
    "{path} is a raw file: its shape is not known",
    "pass --shape, such as --shape 1,3,1024",
)
bad(
    "ggml read as raw",
    lambda at: written(at / "a.bin", GGML + VALUES.tobytes()),
    "{path} holds 128 bytes; shape [2, 3, 4] of float32 needs 96 per chunk: truncated, the last one has 32",
    "it begins with a ggml header: pass --layout ggml",
    shape=(2, 3, 4),
)
bad(
    "ggml, truncated",
    lambda at: written(at / "a.bin", GGML + VALUES.tobytes()[:-4]),
    "{path} holds 92 bytes behind its header; shape [1, 2, 3, 4] of float32 needs 96 per chunk: truncated, *",
    SHAPE,
    layout="ggml",
)
bad(
    "ggml, no header",
    lambda at: written(at / "a.bin", b"x" * 31),
    "{path} holds 31 bytes; a ggml header alone has 32",
    "leave out --layout ggml",
    layout="ggml",
)
bad(
    "ggml, wild header",
    lambda at: written(at / "a.bin", struct.pack("<4q", -1, 2**41, 1, 1) + b"x" * 40),
    "{path} begins with ne = [-1, 2199023255552, 1, 1]; a ggml header is four little-endian int64 from 0 to 2^40",
    "leave out --layout ggml, or write the header first",
    layout="ggml",
)
bad(
    "ggml, 10 TB",
    lambda at: written(at / "a.bin", struct.pack("<4q", TERA // 4, 4, 1, 1) + b"x" * 40),
    f"{{path}} holds 40 bytes behind its header; shape [1, 1, 4, {TERA // 4}] of float32 needs {4 * TERA} per chunk: *",
    SHAPE,
    layout="ggml",
)
bad(
    "ggml, another shape",
    lambda at: written(at / "a.bin", GGML + VALUES.tobytes()),
    "{path} has chunks of 24 elements by its ggml header, which are none of shape [5, 5]",
    "check --shape, or leave it out",
    shape=(5, 5),
    layout="ggml",
)

NPY = "{path} is not a readable .npy file: "
bad("npy, empty", lambda at: written(at / "a.npy", b""), NPY + "the file does not begin as a .npy file does")
bad("npy, header cut", lambda at: written(at / "a.npy", npy((10,))[:50]), NPY + "*")
bad(
    "npy, truncated",
    lambda at: written(at / "a.npy", npy((11,))),
    NPY + "the file holds 40 bytes, 44 are needed for shape [11] of float32: truncated by 4",
)
bad(
    "npy, over-long",
    lambda at: written(at / "a.npy", npy((9,))),
    NPY + "the file holds 40 bytes, 36 are needed for shape [9] of float32: over-long by 4",
)
bad(
    "npy, 10 TB",
    lambda at: written(at / "a.npy", npy((TERA,))),
    NPY + f"the file holds 40 bytes, {4 * TERA} are needed for shape [{TERA}] of float32: truncated by {4 * TERA - 40}",
)
bad(
    "npy, negative",
    lambda at: written(at / "a.npy", npy((-2, -5))),
    NPY + "a shape is whole numbers from 0 up, not [-2, -5]",
)
bad(
    "npy, huge",
    lambda at: written(at / "a.npy", npy((2**62, 2**62))),
    NPY + "its shape counts more bytes than 64 bits can",
)
bad(
    "npy, version 3",
    lambda at: written(at / "a.npy", b"\x93NUMPY\x03\x00" + npy((10,))[8:]),
    NPY + "the file is a .npy of version 3.0, not 1.0 or 2.0",
)
for kind, content in (
    ("<U1", np.array(["a", "b"])),
    ("object", np.array([{}, None])),
    ("[('a', '<f4')]", np.zeros(2, [("a", "f4")])),
    ("complex64", np.zeros(2, np.complex64)),
    ("datetime64[s]", np.zeros(2, "M8[s]")),
):
    bad(
        f"npy of {kind}",
        lambda at, array=content: saved(at / "a.npy", array),
        NPY + f"the file holds {kind!r}, not real numbers".replace('"', '"'),
        NUMBERS,
    )
bad(
    "npy of bf16",
    lambda at: saved(at / "a.npy", np.zeros(3, DTYPES["bf16"])),
    NPY + "the file holds *V2, bytes that numpy has no type for",
    "save bf16 and fp8 as .safetensors",
)

NPZ = "{path} is not a readable .npz file: "
bad("npz, no archive", lambda at: written(at / "a.npz", npy((10,))), NPZ + "File is not a zip file")
bad("npz, nothing in it", lambda at: zipped(at / "a.npz"), "{path} holds no tensors", "give a file with at least one")
bad(
    "npz of texts",
    lambda at: zipped(at / "a.npz", ("read.me", b"hello")),
    NPZ + "member 'read.me' does not begin as a .npy file does",
)
bad(
    "npz, one name twice",
    lambda at: zipped(at / "a.npz", ("a.npy", npy((10,))), ("a.npy", npy((10,)))),
    NPZ + "two entries are called 'a.npy'",
    "give every tensor a name of its own",
)
bad(
    "npz, one name with and without suffix",
    lambda at: zipped(at / "a.npz", ("a.npy", npy((10,))), ("a", npy((10,)))),
    NPZ + "two entries are called 'a'",
    "give every tensor a name of its own",
)
for way, method in (("stored", zipfile.ZIP_STORED), ("compressed", zipfile.ZIP_DEFLATED)):
    bad(
        f"npz, {way}, 10 TB",
        lambda at, method=method: zipped(at / "a.npz", ("a.npy", npy((TERA,))), method=method),
        NPZ + f"member 'a.npy' holds 40 bytes, {4 * TERA} are needed for shape [{TERA}] of float32: truncated by *",
    )
    bad(
        f"npz, {way}, over-long",
        lambda at, method=method: zipped(at / "a.npz", ("a.npy", npy((9,))), method=method),
        NPZ + "member 'a.npy' holds 40 bytes, 36 are needed for shape [9] of float32: over-long by 4",
    )
bad(
    "npz, bzip2",
    lambda at: zipped(at / "a.npz", ("a.npy", npy((10,))), method=zipfile.ZIP_BZIP2),
    NPZ + "member 'a.npy' is compressed by method 12",
    "write it with numpy.savez",
)
bad(
    "npz, more than deflate holds",
    lambda at: patched_zip(
        zipped(at / "a.npz", ("a.npy", npy((10**8,))), method=zipfile.ZIP_DEFLATED),
        24,
        struct.pack("<I", 4 * 10**8 + 128),
    ),
    NPZ + "member 'a.npy' claims 400000128 bytes in *, more than deflate can hold",
)
bad(
    "npz, less than it claims",
    lambda at: patched_zip(
        zipped(at / "a.npz", ("a.npy", npy((2_000,))), method=zipfile.ZIP_DEFLATED), 24, struct.pack("<I", 8128)
    ),
    NPZ + "member 'a.npy' ends after 40 of 8000 bytes",
)
bad(
    "npz, stored in two sizes",
    lambda at: patched_zip(zipped(at / "a.npz", ("a.npy", npy((1000,)))), 24, struct.pack("<I", 4128)),
    NPZ + "member 'a.npy' has 168 bytes and claims 4128",
)
bad(
    "npz, member beyond the end",
    lambda at: patched_zip(zipped(at / "a.npz", ("a.npy", npy((1000,)))), 20, struct.pack("<II", 4128, 4128)),
    NPZ + "*",
)
bad(
    "npz, encrypted",
    lambda at: patched_zip(zipped(at / "a.npz", ("a.npy", npy((10,)))), 8, b"\x01\x00"),
    NPZ + "*encrypted*",
)

bad(
    "npz, member a little beyond the end",
    lambda at: patched_zip(zipped(at / "a.npz", ("a.npy", npy((35,)))), 20, struct.pack("<II", 268, 268)),
    NPZ + "member 'a.npy' reaches beyond the end of the file",
)
bad("npz, members that overlap", lambda at: overlapping(at / "a.npz"), NPZ + "*")
bad(
    "npz, another checksum",
    lambda at: patched_zip(zipped(at / "a.npz", ("a.npy", npy((10,))), method=zipfile.ZIP_DEFLATED), 16, b"abcd"),
    NPZ + "Bad CRC-32 for file 'a.npy'",
)

SAFE = "{path} is not a readable .safetensors file: "
bad("safetensors, empty", lambda at: written(at / "a.safetensors", b""), SAFE + "*")
bad("safetensors, header longer than the file", lambda at: written(at / "a.safetensors", b"\xff" * 64), SAFE + "*")
for name, dtype, shape, end in (
    ("10 TB", "F32", [TERA], 4 * TERA),
    ("10 TB in 40 bytes", "F32", [TERA], 40),
    ("truncated", "F32", [11], 44),
    ("over-long", "F32", [9], 36),
    ("huge", "F32", [2**62, 2**62], 40),
    ("negative", "F32", [-2, -5], 40),
):
    bad(
        f"safetensors, {name}",
        lambda at, e=(dtype, shape, end): tensors(at / "a.safetensors", {"a": entry(*e)}),
        SAFE + "*",
    )
bad(
    "safetensors of complex numbers",
    lambda at: tensors(at / "a.safetensors", {"a": entry("C64", [5], 40)}),
    SAFE + "tensor 'a' holds C64",
    f"save it as one of {NAMES}",
)
bad(
    "safetensors, one name twice",
    lambda at: tensors(at / "a.safetensors", '{"a":X,"a":X}'.replace("X", json.dumps(entry("F32", [10], 40)))),
    SAFE + "two entries are called 'a'",
    "give every tensor a name of its own",
)
bad(
    "safetensors, 40 axes",
    lambda at: tensors(at / "a.safetensors", {"a": entry("F32", [1] * 39 + [10], 40)}),
    SAFE + "a shape of 40 axes is more than the 32 that numpy has",
)
bad(
    "safetensors, nothing in it",
    lambda at: tensors(at / "a.safetensors", {}, b""),
    "{path} holds no tensors",
    "give a file with at least one",
)

PT = "{path} is not a readable .pt file: "
bad(
    "torch, a bare pickle",
    lambda at: written(at / "a.pt", pickle.dumps({"a": [1.0]})),
    PT + "it is a bare pickle, or from torch before 1.6, not what torch.save writes",
    TORCH,
)
bad(
    "torch, before 1.6",
    lambda at: torch_file(at / "a.pt", {"a": torch_tensor(3)}, _use_new_zipfile_serialization=False),
    PT + "it is a bare pickle, or from torch before 1.6, not what torch.save writes",
    TORCH,
)
bad(
    "torch, not a zip",
    lambda at: written(at / "a.pt", b"hello"),
    PT + "it is not a zip archive, not what torch.save writes",
    TORCH,
)
bad(
    "torch, TorchScript",
    lambda at: script(at / "a.pt"),
    PT + "it is a TorchScript archive, a program and not tensors",
    TORCH,
)
bad(
    "torch, objects",
    lambda at: torch_file(at / "a.pt", {"a": Path("x")}),
    PT + "it holds objects of pathlib.*, not only tensors",
    TORCH,
)
bad(
    "torch, complex numbers",
    lambda at: torch_file(at / "a.pt", {"a": torch_tensor(3) * 1j}),
    PT + "tensor 'a' holds torch.complex64",
    NUMBERS,
)
bad(
    "torch, sparse",
    lambda at: torch_file(at / "a.pt", {"a": torch_tensor(3, 3).to_sparse()}),
    PT + "tensor 'a' is not dense on the CPU",
    TORCH,
)
bad(
    "torch, one element as 10 TB",
    lambda at: torch_file(at / "a.pt", {"a": torch_tensor(1).expand(TERA)}),
    PT + f"tensor 'a' of shape [{TERA}] has only 1 elements",
    TORCH,
)
bad(
    "torch, one name twice",
    lambda at: torch_file(at / "a.pt", {"a": {"b": torch_tensor(1)}, "a.b": torch_tensor(1)}),
    PT + "two entries are called 'a.b'",
    "give every tensor a name of its own",
)
bad("torch, storage longer than it is", lambda at: lying_storage(at / "a.pt"), PT + "its tensors claim 32 bytes in 1 *")
bad(
    "torch, compressed",
    lambda at: rewritten(at / "a.pt", zipfile.ZIP_DEFLATED),
    PT + "its members are compressed, which torch.save never does",
    TORCH,
)
bad(
    "torch, another byte order",
    lambda at: rewritten(at / "a.pt", byteorder=b"big"),
    PT + "it was written on a machine of another byte order ([b'big'])",
    "save it on this machine",
)
bad(
    "torch, containers without end",
    lambda at: torch_file(at / "a.pt", deep(70)),
    PT + "its containers hold each other, or nest too deep",
    TORCH,
)
bad(
    "torch, a view that is not computed",
    lambda at: torch_file(at / "a.pt", {"a": (torch_tensor(3) * 1j).conj().imag}),
    PT + "tensor 'a' is a view that torch has not computed yet",
    TORCH,
)
bad(
    "torch, no tensors",
    lambda at: torch_file(at / "a.pt", {"epoch": 3}),
    "{path} holds no tensors",
    "give a file with at least one",
)

JSON = "{path} is not a readable .json file: "
bad("json, no JSON", lambda at: written(at / "a.json", b"{]"), JSON + "it is not JSON: *")
bad("json, deep", lambda at: written(at / "a.json", b"[" * 100_000), JSON + "it is not JSON: *")
bad(
    "json, nested",
    lambda at: written(at / "a.json", b'{"a":' * 70 + b"1" + b"}" * 70),
    JSON + "it nests more than 64 levels",
)
bad("json, not UTF-8", lambda at: written(at / "a.json", b'"\xff"'), JSON + "it is not JSON: *")
bad(
    "json, no arrays",
    lambda at: written(at / "a.json", b'{"a": 1}'),
    "{path} holds no tensors",
    "give a file with at least one",
)
bad(
    "json, one name twice",
    lambda at: written(at / "a.json", b'{"a": 1, "a": 2}'),
    JSON + "two entries are called 'a'",
    "give every tensor a name of its own",
)
for name, content, message, hint in (
    (
        "no list of runners",
        {"lst": [["r"]], "polygraphy_class": "RunResults"},
        "its RunResults is not a list of runners and their iterations",
        POLYGRAPHY,
    ),
    (
        "no outputs",
        {"lst": [["r", [3]]], "polygraphy_class": "RunResults"},
        "an iteration is 3, without outputs",
        POLYGRAPHY,
    ),
    (
        "no array",
        results({"a": {"values": 3, "polygraphy_class": "LazyArray"}}),
        "iteration 0, 'a' is a LazyArray without an array",
        POLYGRAPHY,
    ),
    (
        "another class",
        results({"a": {"array": 3, "polygraphy_class": "FormattedArray"}}),
        "iteration 0, 'a' is a 'FormattedArray' of Polygraphy's, which is not supported",
        POLYGRAPHY,
    ),
    ("iterations that differ", results({"a": ndarray(npy((10,)))}, {}), "2 iterations do not all hold 'a'", POLYGRAPHY),
    (
        "10 TB",
        results({"a": ndarray(npy((TERA,)))}),
        f"iteration 0, 'a' holds 40 bytes, {4 * TERA} are needed for shape [{TERA}] of float32: truncated by *",
        REWRITE,
    ),
    ("texts", results({"a": ndarray(npy((10,), "|S4"))}), "iteration 0, 'a' holds '|S4', not real numbers", NUMBERS),
    ("objects", results({"a": ndarray(npy((5,), "|O"))}), "iteration 0, 'a' holds 'object', not real numbers", NUMBERS),
    (
        "not base64",
        results({"a": {"array": "&&", "polygraphy_class": "ndarray"}}),
        "iteration 0, 'a' is not base64: *",
        REWRITE,
    ),
    ("no base64", results({"a": {"polygraphy_class": "ndarray"}}), "iteration 0, 'a' is not base64: *", REWRITE),
    (
        "no torch file",
        results({"a": {"tensor": "AAAA", "polygraphy_class": "Tensor"}}),
        "it is not a zip archive, not what torch.save writes",
        TORCH,
    ),
):
    bad(
        f"polygraphy, {name}",
        lambda at, c=content: written(at / "a.json", json.dumps(c).encode()),
        JSON + message,
        hint,
    )
bad(
    "polygraphy, one runner twice",
    lambda at: written(
        at / "a.json", json.dumps({"lst": [["r", []], ["r", []]], "polygraphy_class": "RunResults"}).encode()
    ),
    JSON + "two entries are called 'r'",
    "give every tensor a name of its own",
)

LINES = "{path} is not a readable .jsonl file: "
GOOD = {"a": record(VALUES)}
bad(
    "jsonl, cut off",
    lambda at: lines(at / "a.jsonl", GOOD, end='\n{"a": {"dty'),
    LINES + "line 2, the last one, is cut off after 11 bytes",
)
bad(
    "jsonl, a line that is no JSON",
    lambda at: lines(at / "a.jsonl", GOOD, end="\n{]\n"),
    LINES + "line 2 is not JSON: *",
)
bad(
    "jsonl, a line that is no object",
    lambda at: lines(at / "a.jsonl", GOOD, [1]),
    LINES + "line 2 holds [1], not an object",
)
bad(
    "jsonl, one key twice",
    lambda at: written(at / "a.jsonl", b'{"a": 1, "a": 2}'),
    LINES + "two entries are called 'a'",
    "give every tensor a name of its own",
)
for name, change, message, hint in (
    (
        "truncated",
        {"shape": [2, 3, 5]},
        "holds 96 bytes, 120 are needed for shape [2, 3, 5] of float32: truncated by 24",
        REWRITE,
    ),
    (
        "over-long",
        {"shape": [2, 3]},
        "holds 96 bytes, 24 are needed for shape [2, 3] of float32: over-long by 72",
        REWRITE,
    ),
    (
        "10 TB",
        {"shape": [TERA]},
        f"holds 96 bytes, {4 * TERA} are needed for shape [{TERA}] of float32: truncated by *",
        REWRITE,
    ),
    ("shape that is none", {"shape": 24}, "has shape 24, not a list", REWRITE),
    ("unknown dtype", {"dtype": "f31"}, "has an unknown dtype 'f31'", f"use one of {NAMES}; >f32 is big-endian"),
    ("dtype that is none", {"dtype": 4}, "has dtype 4, not a name", REWRITE),
    ("not base64", {"data_b64": "&"}, "is not base64: *", REWRITE),
):
    bad(
        f"jsonl, {name}",
        lambda at, c=change: lines(at / "a.jsonl", {"a": record(VALUES) | c}),
        LINES + "line 1, 'a' " + message,
        hint,
    )
bad(
    "jsonl, negative extents",
    lambda at: lines(at / "a.jsonl", {"a": record(VALUES) | {"shape": [-4, -6]}}),
    LINES + "a shape is whole numbers from 0 up, not [-4, -6]",
)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_two_exact_lines_and_allocates_nothing(tmp_path, name):
    make, raw, message, hint = BAD[name]
    path = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(StreamparityError) as refused:
            read_file(path, RawLayout(**raw))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    expected = re.escape(message.replace("{path}", str(path))).replace(r"\*", ".*")
    assert re.fullmatch(expected, refused.value.message), refused.value.message
    assert (refused.value.hint, refused.value.exit_code) == (hint, 2)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("suffix", ["bin", "npy", "npz", "safetensors", "json", "jsonl", "pt"])
def test_a_file_that_may_not_be_read(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}", b"x" * 40)
    path.chmod(0)
    with pytest.raises(StreamparityError, match=r"cannot be read: Permission denied|not a readable"):
        read_file(path, RawLayout(layout="ggml"))


def test_names_from_a_file_do_not_break_the_line(tmp_path):
    name = "a\nb" * 1000
    path = tensors(tmp_path / "a.safetensors", {name: entry("C64", [5], 40)})
    with pytest.raises(StreamparityError) as refused:
        read_file(path)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400


def test_a_file_that_changes_while_it_is_described_or_read(tmp_path, monkeypatch):
    path = lines(tmp_path / "a.jsonl", GOOD)
    read = files.READERS[".jsonl"]

    def slow(path: Path, state: Any) -> Any:
        tensors = read(path, state)
        with open(path, "a") as file:
            file.write("\n")
        return tensors

    monkeypatch.setitem(files.READERS, ".jsonl", slow)
    with pytest.raises(StreamparityError, match="changed while it was read"):
        read_file(path)
    stored = read_file(saved(tmp_path / "a.npy", VALUES))["value"][0]
    saved(tmp_path / "a.npy", VALUES[:1])
    with pytest.raises(StreamparityError, match="changed while it was read"):
        stored.array()


def test_what_describes_itself():
    for suffix in (".npy", ".npz", ".safetensors", ".pt", ".pth", ".json", ".jsonl", ".NPZ"):
        assert is_self_describing(Path(f"a{suffix}"), RawLayout((3,), "f32"))
    for suffix in (".bin", ".raw", ".f32", ""):
        assert not is_self_describing(Path(f"a{suffix}"), RawLayout())


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["a"]), np.array([None]), np.zeros(2, "f4,f4"), 3])
def test_values_that_are_no_numbers(array):
    with pytest.raises(StreamparityError, match=r"the array holds .*, not real numbers"):
        check_numeric(array, "the array")
    for dtype in DTYPES.values():
        check_numeric(np.zeros(2, dtype), "the array")
