"""``streamparity inspect``: what a file is, whether it can stream, which ports it has, what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..contract.engine import is_engine
from ..dump import is_dump
from ..errors import StreamparityError
from .dump import inspect_dump
from .engine import inspect_engine
from .finding import SCHEMA, Finding, InspectOptions, Report
from .nemo import inspect_nemo
from .onnx import inspect_onnx

__all__ = ["SCHEMA", "Finding", "InspectOptions", "Report", "inspect"]

READERS = {".onnx": inspect_onnx, ".nemo": inspect_nemo}


def inspect(path: Path, options: InspectOptions | None = None) -> dict[str, Any]:
    """Describe a ``.nemo`` archive, an ONNX graph, an engine or a dump, without running code from it.

    Args:
        path: the file, or the folder of an export or a dump.
        options: what an ONNX graph is held against.

    Returns:
        A document of schema ``streamparity.inspect/1``: ``kind``, ``can_stream``, ``ports``, ``findings``, and
        ``summary``, a mapping of what else there is to say.

    Raises:
        BackendMissing: the library that reads the format is not installed.
        StreamparityError: nothing there, damaged beyond reading, or of no known kind.
    """
    if is_dump(path):
        return inspect_dump(path).to_json()
    if (path / "encoder.onnx").is_file():
        path = path / "encoder.onnx"
    if not path.is_file():
        raise StreamparityError(f"{path} is neither a file, an export nor a dump", "give a .nemo, an .onnx or a dump")
    engine = is_engine(path) and path.suffix != ".json"
    reader = inspect_engine if engine else READERS.get(path.suffix)
    if reader is None:
        raise StreamparityError(f"{path} is of no known kind", "give a .nemo, an .onnx, an .engine or a dump folder")
    return reader(path, options or InspectOptions()).to_json()
