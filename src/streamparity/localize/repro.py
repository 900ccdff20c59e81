"""A minimal reproduction: the cut graph, its inputs, what it should return, and a script that shows the fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StreamparityError
from ..runners.onnx_cut import FED, cut, piece
from ..runners.ort import OrtRunner
from ..tensors import Array
from .case import Case

FILES = ("piece.onnx", "inputs.npz", "expected.npz", "show.py")
SCRIPT = '''"""{title}"""
from pathlib import Path
import numpy as np, onnxruntime

here = Path(__file__).parent
inputs, expected = np.load(here / "inputs.npz"), np.load(here / "expected.npz")["value"]
session = onnxruntime.InferenceSession(here / "piece.onnx", providers=["CPUExecutionProvider"])
actual = session.run(None, {{port.name: inputs[port.name] for port in session.get_inputs()}})[0]
error = np.abs(actual.astype(np.float64) - expected) if actual.shape == expected.shape else np.array(np.inf)
print("shape", actual.shape, "expected", expected.shape, "max abs", error.max(), "tolerance", {tolerance!r})
'''


def check_folder(folder: Path, force: bool, taken: Sequence[Path]) -> None:
    """Refuse a folder that holds anything, unless it is an earlier reproduction and may be replaced.

    Args:
        folder: where the reproduction is to go.
        force: replace an earlier one.
        taken: files and folders that are read or written besides.

    Raises:
        StreamparityError: it is in use.
    """
    for path in taken:
        ours, theirs = folder.resolve(), path.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise StreamparityError(f"--repro {folder} and {path} lie in one another", "choose a folder of its own")
    held = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if folder.is_file() or (held and not (force and set(held) <= set(FILES))):
        raise StreamparityError(
            f"--repro {folder} already exists", "choose another folder, or pass --force to replace a reproduction"
        )


def write_repro(case: Case, folder: Path) -> str | None:
    """Write the piece that makes the error by itself.

    Returns:
        Why there is nothing to write, or ``None``.
    """
    import onnx

    label, runner = case.introduced, case.runner
    if not isinstance(runner, OrtRunner):
        return f"backend {runner.name} runs no graph that could be cut"
    if label in case.replayed:
        return f"{label} is computed by decoder_joint, one graph of one frame and one label: it is its own reproduction"
    if label is None or label not in case.isolated or case.pieces is None:
        return "no piece of the graph makes the error by itself"
    proto = onnx.load(str(runner.graph.path))
    name = runner.tensor_of(label)
    labels = {spec.label: spec.name for spec in case.subject.taps}
    edges = [runner.tensor_of(tap) for tap in labels]
    extracted = piece(cut(proto, edges, [name], runner.graph.types()), [name])
    values = _values(case, runner, labels)
    expected = case.script.expected(case.chunk)[next(spec.name for spec in case.specs if spec.label == label)]
    given: dict[str, Any] = {port.name: values[port.name] for port in extracted.graph.input}
    tolerance = case.policy.tolerance(label, expected.dtype, expected.dtype)
    title = (
        f"{label}, chunk {case.chunk}: given what the reference's was given, it should return what the reference's did."
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        onnx.save(extracted, str(folder / "piece.onnx"))
        np.savez(folder / "inputs.npz", **given)
        np.savez(folder / "expected.npz", value=expected)
        (folder / "show.py").write_text(SCRIPT.format(title=title, tolerance=tolerance.atol), encoding="utf-8")
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"
    return None


def _values(case: Case, runner: OrtRunner, labels: dict[str, str]) -> dict[str, Array]:
    """What every input of the cut graph is fed, by its name there."""
    expected: dict[str, Any] = case.script.expected(case.chunk)
    values = {FED + runner.tensor_of(tap): expected[name] for tap, name in labels.items() if name in expected}
    return values | runner.typed_inputs(case.script.inputs(case.chunk).tensors)
