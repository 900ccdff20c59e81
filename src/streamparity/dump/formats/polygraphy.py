"""``.json``: outputs and inputs that Polygraphy saved, or records as in ``.jsonl``.

Polygraphy marks every object with its class (polygraphy/json/serde.py, polygraphy/comparator/struct.py): an
``ndarray`` is a ``.npy`` in base64, a ``Tensor`` what ``torch.save`` writes, ``RunResults`` a list of runners, each
with its iterations. Iterations are the chunks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...tensors import Array
from ..stored import FileState
from . import npy, records, torch_archive
from .base import VALUE, BadFile, Tensors, distinct, shown

CLASS = "polygraphy_class"
SAVE = "save it again with polygraphy run --save-outputs"


def read(path: Path, state: FileState) -> Tensors:
    """Its arrays by name, in memory; by ``RUNNER:NAME`` where there are several runners.

    Raises:
        BadFile: no JSON, not what Polygraphy writes, iterations of different names, or arrays that are not numbers.
        BackendMissing: it holds torch tensors, and there is no torch.
    """
    with open(path, "rb") as file:
        first, second = file.readline(), file.readline()
        if second and records.is_line(first):
            return records.read(path, state)
        content = records.parse(b"".join((first, second, file.read())), "it")
    if isinstance(content, dict) and content.get(CLASS) == "RunResults":
        return _run_results(content)
    if isinstance(content, list):
        return _iterations(content)
    return records.collect([("it", content)], _decode)


def _run_results(content: dict[str, Any]) -> Tensors:
    runners = content.get("lst")
    if not isinstance(runners, list) or not all(_is_runner(runner) for runner in runners):
        raise BadFile("its RunResults is not a list of runners and their iterations", SAVE)
    found = distinct((name, _iterations([_outputs(item) for item in iterations])) for name, iterations in runners)
    if len(found) == 1:
        return next(iter(found.values()))
    return distinct((f"{runner}:{name}", chunks) for runner, outs in found.items() for name, chunks in outs.items())


def _is_runner(runner: Any) -> bool:
    return isinstance(runner, list) and len(runner) == 2 and isinstance(runner[0], str) and isinstance(runner[1], list)


def _outputs(iteration: Any) -> Any:
    if not isinstance(iteration, dict) or not isinstance(iteration.get("outputs"), dict):
        raise BadFile(f"an iteration is {shown(iteration)}, without outputs", SAVE)
    return iteration["outputs"]


def _iterations(items: list[Any]) -> Tensors:
    def numbered() -> Iterator[tuple[str, Any]]:
        for index, item in enumerate(items):
            yield f"iteration {index}", item

    tensors = records.collect(numbered(), _decode)
    uneven = [name for name, chunks in tensors.items() if len(chunks) != len(items)]
    if uneven:
        raise BadFile(f"{len(items)} iterations do not all hold {shown(uneven[0])}", SAVE)
    return tensors


def _decode(item: dict[str, Any], where: str) -> Array | None:
    kind = item.get(CLASS)
    if kind in ("LazyArray", "LazyNumpyArray"):
        inner = item.get("values")
        array = _decode(inner, where) if isinstance(inner, dict) else None
        if array is None:
            raise BadFile(f"{where} is a {kind} without an array", SAVE)
        return array
    if kind == "ndarray":
        return npy.decode(records.from_base64(item.get("array"), where), where)
    if kind == "Tensor":
        return _torch_tensor(records.from_base64(item.get("tensor"), where), where)
    if kind is not None:
        raise BadFile(f"{where} is a {shown(kind)} of Polygraphy's, which is not supported", SAVE)
    return records.decode(item, where)


def _torch_tensor(content: bytes, where: str) -> Array:
    # In a file of its own, because torch checks the sizes that a pickle claims only where it maps a file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tensor.pt")
        path.write_bytes(content)
        tensors = torch_archive.read(path, FileState.of(path.stat()))
        if list(tensors) != [VALUE]:
            raise BadFile(f"{where} holds torch tensors {shown(', '.join(tensors))}, not one without a name", SAVE)
        (tensor,) = tensors[VALUE]
        return tensor.copy() if isinstance(tensor, np.ndarray) else tensor.array()
