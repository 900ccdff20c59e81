"""Feeds damaged files to every reader: `python scripts/fuzz_readers.py --seconds 60`.

With atheris installed the search follows the readers' code coverage; without it, or with --count, files are damaged at
random. A file passes when it is read within bounds or refused in two lines; anything else ends the run and is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import random
import re
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if importlib.util.find_spec("atheris") and __name__ == "__main__" and "--count" not in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["streamparity"]):
        importlib.import_module("streamparity.dump.files")
else:
    atheris = None

import numpy as np
from safetensors.numpy import save

from streamparity.dump.files import UNKNOWN, RawLayout, Tensors, read_file
from streamparity.errors import StreamparityError

Rng = random.Random
LARGEST_RATIO = 1032  # what deflate can reach
SLACK = 4096
VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
NUMBERS = (0, 1, -1, 2, 3, 31, 32, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1)
JSON_VALUES = (*NUMBERS, 2**64, 10**30, 1.5, True, None, "", "a.b", "F64", "C64", "ndarray", "Tensor", [], {}, [[]])
PIECES = (b"[", b"{", b'"', b"\n", b"'<f8'", b"'|O'", b"'<U9'", b"True", b"-1", b"(9999999999999,)", b"PK\x01\x02", b"")


@dataclass(frozen=True)
class Seed:
    """A whole file, and how it is read."""

    name: str
    suffix: str
    content: bytes
    raw: RawLayout = UNKNOWN


def seeds() -> list[Seed]:
    """One valid file per format and way of storing."""
    header = struct.pack("<4q", 4, 3, 2, 1)
    found = [
        Seed("raw", ".bin", VALUES.tobytes() * 2, RawLayout((2, 3, 4), "f32")),
        Seed("raw, one unknown", ".bin", VALUES.tobytes(), RawLayout((2, -1), ">f16")),
        Seed("ggml", ".bin", header + VALUES.tobytes() * 2),
        Seed("ggml, forced", ".bin", header + VALUES.tobytes(), RawLayout((6, -1), "f32", "ggml")),
        Seed("npy", ".npy", _written(lambda file: np.save(file, VALUES))),
        Seed("npy, fortran", ".npy", _written(lambda file: np.save(file, np.asfortranarray(VALUES.astype(">f8"))))),
        Seed("npz", ".npz", _written(lambda file: np.savez(file, a=VALUES, b=np.asfortranarray(VALUES), c=np.int8(3)))),
        Seed("npz, compressed", ".npz", _written(lambda file: np.savez_compressed(file, a=VALUES, b=np.zeros(9999)))),
        Seed("safetensors", ".safetensors", save({"a": VALUES, "b": np.arange(4), "c": np.zeros((0, 3), bool)})),
        Seed("jsonl", ".jsonl", b"".join(json.dumps(_record(k)).encode() + b"\n" for k in range(3))),
        Seed("json record", ".json", json.dumps(_record(0), indent=1).encode()),
        Seed("polygraphy outputs", ".json", json.dumps(_run_results(2)).encode()),
        Seed("polygraphy inputs", ".json", json.dumps([{"a": _ndarray()}, {"a": _ndarray()}], indent=1).encode()),
    ]
    if importlib.util.find_spec("torch"):
        found.append(Seed("torch", ".pt", _torch_file()))
    return found


def check(seed: Seed, content: bytes, folder: Path) -> str:
    """Read a damaged file; ``read``, or the line of its refusal.

    Raises:
        AssertionError: tensors larger than any file of this size can hold, or a refusal that is not two lines.
    """
    path = folder / f"damaged{seed.suffix}"
    path.write_bytes(content)
    try:
        tensors = read_file(path, seed.raw)
        _check_bounds(tensors, len(content))
    except StreamparityError as error:
        _check_refusal(error)
        return error.message
    return "read"


def mutate(content: bytes, rng: Rng) -> bytes:
    """One to four changes: to bytes anywhere, or to what a header, a zip member or a JSON value says."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(MUTATIONS)(content, rng)
    return content


def _check_refusal(error: StreamparityError) -> None:
    assert error.hint, "no hint"
    assert len(f"{error.message}\n{error.hint}\n".splitlines()) == 2, repr((error.message, error.hint))
    assert len(error.message) < 2000, error.message
    for word in ("memory", "allocate"):
        assert word not in error.message.lower(), f"a small file asked for too much: {error.message}"


def _check_bounds(tensors: Tensors, size: int) -> None:
    chunks = [chunk for several in tensors.values() for chunk in several]
    total = sum(chunk.nbytes for chunk in chunks)
    assert total <= size * LARGEST_RATIO + SLACK, f"{total} bytes of tensors from {size} bytes"
    for chunk in chunks:
        array = chunk.copy() if isinstance(chunk, np.ndarray) else chunk.array()
        assert array.shape == chunk.shape
        assert array.dtype == chunk.dtype
        assert array.nbytes == chunk.nbytes


def _written(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _record(index: int) -> dict[str, Any]:
    array = {"dtype": "float32", "shape": [2, 3, 4], "data_b64": b64encode(VALUES.tobytes()).decode()}
    return {"step": index, "layers": [array, array], "out": {"logits": array}}


def _ndarray() -> dict[str, Any]:
    content = b64encode(_written(lambda file: np.save(file, VALUES))).decode()
    return {"array": content, "polygraphy_class": "ndarray"}


def _run_results(runners: int) -> dict[str, Any]:
    lazy = {"values": _ndarray(), "polygraphy_class": "LazyArray"}
    iteration = {"outputs": {"a": lazy}, "runtime": 1.0, "runner_name": "x", "polygraphy_class": "IterationResult"}
    return {"lst": [[f"r{k}", [iteration, iteration]] for k in range(runners)], "polygraphy_class": "RunResults"}


def _torch_file() -> bytes:
    import torch

    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {"a": tensor, "t": tensor.T, "n": [torch.ones(3, dtype=torch.bfloat16), {"z": torch.zeros(0), "k": 1}]}
    return _written(lambda file: torch.save(content, file))


# ---------------------------------------------------------------------------------------------- kinds of damage


def _flip(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(content: bytes, rng: Rng) -> bytes:
    return content[: rng.randint(0, len(content))]


def _insert(content: bytes, rng: Rng) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + rng.choice((*PIECES, rng.randbytes(rng.randint(1, 40)))) + content[at:]


def _delete(content: bytes, rng: Rng) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + content[at + rng.randint(1, 40) :]


def _repeat(content: bytes, rng: Rng) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + content[at : at + rng.choice((8, 64, 512))] + content[at:]


def _number(content: bytes, rng: Rng) -> bytes:
    """A field of 2, 4 or 8 bytes, often one of the first or of a zip header."""
    form = rng.choice(("<H", "<I", "<Q"))
    field = struct.pack(form, rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(form)))
    marks = [at for sign in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06") for at in _every(content, sign)] or [0]
    at = rng.choice(marks) + rng.randrange(64) if rng.random() < 0.7 else rng.randint(0, len(content))
    return content[:at] + field + content[at + len(field) :]


def _text(content: bytes, rng: Rng) -> bytes:
    """A decimal number that a header spells out, or a word of it."""
    found = list(re.finditer(rb"\d+|'[^']*'|\"[^\"]{1,20}\"", content[:4096]))
    if not found:
        return content
    match = rng.choice(found)
    new = rng.choice((*PIECES, str(rng.choice(NUMBERS)).encode()))
    return content[: match.start()] + new + content[match.end() :]


def _every(content: bytes, sign: bytes) -> list[int]:
    found, at = [], content.find(sign)
    while at >= 0:
        found.append(at)
        at = content.find(sign, at + 1)
    return found


def _zip_surgery(content: bytes, rng: Rng) -> bytes:
    """The archive written again, whole, around a damaged, renamed, repeated or differently compressed member."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # it was damaged before
        return content
    if not members:
        return content
    at = rng.randrange(len(members))
    name, inner = members[at]
    method = zipfile.ZIP_STORED
    action = rng.randrange(5)
    if action == 0:
        members[at] = (rng.choice(("a", "a.npy", "../a.npy", "x/data/0", name + "\n")), inner)
    elif action == 1:
        members.append((name, inner))
    elif action == 2:
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    else:
        members[at] = (name, rng.choice((_flip, _number, _text, _truncate, _insert, _delete))(inner, rng))
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")
        for member in members:
            archive.writestr(*member)
    return file.getvalue()


def _json_surgery(content: bytes, rng: Rng) -> bytes:
    """A value of the JSON, or of the header of safetensors, replaced; sometimes its object twice in the list."""
    start = 8 if content[8:9] == b"{" else 0
    length = int.from_bytes(content[:8], "little") if start else len(content)
    lines = content[start : start + length].split(b"\n") if not start and b"}\n{" in content else None
    text = rng.choice(lines) if lines else content[start : start + length]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return content
    _replace(document, rng)
    new = json.dumps(document).encode()
    if start:
        return struct.pack("<Q", len(new)) + new + content[start + length :]
    return content.replace(text, new, 1) if lines else new


def _replace(document: Any, rng: Rng) -> None:
    while isinstance(document, dict | list) and document:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key = rng.choice(keys)
        inner = document[key]
        if not isinstance(inner, dict | list) or rng.random() < 0.2:
            if isinstance(inner, str) and rng.random() < 0.5:
                document[key] = _flip(inner.encode(), rng).decode("latin-1")
            else:
                document[key] = rng.choice(JSON_VALUES)
            return
        document = inner


MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(_flip, _truncate, _insert, _delete, _repeat, _number, _number, _text, _text),
    *(_zip_surgery, _zip_surgery, _json_surgery, _json_surgery),
)


# ------------------------------------------------------------------------------------------------------- running


def run_random(count: int, start: int, spare: int | None) -> None:
    """Damage at random; with ``spare``, in no more address space than that many MiB beyond what is mapped already."""
    every = seeds()
    refusals: set[str] = set()
    slowest, reads = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in every:
            check(seed, seed.content, Path(folder))
        if spare is not None:
            import resource  # not on Windows

            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + spare * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for index in range(start, start + count):
            rng = Rng(index)
            seed = rng.choice(every)
            began = time.perf_counter()
            try:
                outcome = check(seed, mutate(seed.content, rng), Path(folder))
            except BaseException:
                print(f"{seed.name}, --start {index} --count 1", file=sys.stderr)
                raise
            slowest = max(slowest, time.perf_counter() - began)
            reads += outcome == "read"
            refusals.add(outcome)
    print(f"{count} files: {reads} read, the others refused in {len(refusals)} ways; slowest {slowest * 1e3:.0f} ms")


def run_atheris(seconds: int) -> None:
    """Let coverage guide the damage. Does not return."""
    every = seeds()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
    corpus, work = folder / "corpus", folder / "work"
    for part in (corpus, work):
        part.mkdir()
    for index, seed in enumerate(every):
        (corpus / str(index)).write_bytes(bytes([index]) + seed.content)
    print(f"what fails is kept in {folder}", file=sys.stderr)

    def one(data: bytes) -> None:
        if data:
            check(every[data[0] % len(every)], data[1:], work)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = Rng(seed)
        if not data or rng.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return (data[:1] + mutate(data[1:], rng))[:most]

    limits = ["-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=10", "-max_len=20000"]
    flags = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-print_final_stats=1", *limits]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long atheris searches")
    parser.add_argument("--count", type=int, help="so many files damaged at random, without atheris")
    parser.add_argument("--start", type=int, default=0, help="number of the first of them")
    parser.add_argument("--spare-mib", type=int, help="address space that reading them may take")
    given = parser.parse_args()
    if given.count is not None:
        run_random(given.count, given.start, given.spare_mib)
    elif atheris is None:
        parser.error("atheris is not installed: pip install atheris, or pass --count")
    else:
        with contextlib.suppress(KeyboardInterrupt):
            run_atheris(given.seconds)


if __name__ == "__main__":
    main()
