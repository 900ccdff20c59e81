"""A minimal reproduction: the cut graph, its inputs, what it should return, and a script that shows the fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StepFailed, StreamparityError, first_line
from ..runners import NoPiece, Piece
from ..tensors import Array
from .case import Case
from .decoder_replay import Evaluation, evaluations

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
# A piece shows the fault if it makes this much of the error that was found in the model. Another exporter, or other
# optimisations of what is left of the graph, add in another order; they do not halve an error past tolerance.
SHARE = 0.5


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
    """Write the piece that makes the error by itself, once it has been seen to do so.

    Returns:
        Why there is nothing to write, or ``None``.
    """
    import onnx

    label = case.introduced
    if label is None or (label not in case.replayed and (label not in case.isolated or case.pieces is None)):
        return "no piece of the model makes the error by itself"
    try:
        found, expected = _of_the_decoder(case, label) if label in case.replayed else _of_the_encoder(case, label)
        actual = _run(found)
        if label in case.replayed and actual.size == expected.size:
            expected = expected.reshape(actual.shape)  # the dump has a row, the graph axes of one beside it
        _check(case, label, expected, actual)
    except (NoPiece, StepFailed) as reason:
        return str(reason)
    tolerance = case.policy.tolerance(label, expected.dtype, expected.dtype)
    title = (
        f"{label}, chunk {case.chunk}: given what the reference's was given, it should return what the reference's did."
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        onnx.save(found.graph, str(folder / "piece.onnx"))
        given: dict[str, Any] = dict(found.inputs)
        np.savez(folder / "inputs.npz", **given)
        np.savez(folder / "expected.npz", value=expected)
        (folder / "show.py").write_text(SCRIPT.format(title=title, tolerance=tolerance.atol), encoding="utf-8")
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"
    return None


def _of_the_encoder(case: Case, label: str) -> tuple[Piece, Array]:
    """The piece between taps, given the reference's taps, caches and features."""
    held = case.script.expected(case.chunk)
    taps = {spec.label: held[spec.name] for spec in case.subject.taps if spec.name in held}
    inputs = case.script.inputs(case.chunk)
    case.runner.set_caches(inputs.caches)
    found = case.runner.piece(label, inputs.step, taps)
    return found, held[next(spec.name for spec in case.specs if spec.label == label)]


def _of_the_decoder(case: Case, label: str) -> tuple[Piece, Array]:
    """Predictor or joint in the evaluation in which it is furthest off."""
    if case.runner.transducer is None:
        raise NoPiece("the model has no predictor and joint")
    name = f"tap/{label}"
    done = evaluations(case.reference, case.runner.transducer, case.chunk)
    worst = max((each for each in done if name in each.expected), key=lambda each: _error(each, name), default=None)
    if worst is None:
        raise NoPiece(f"{label} is not computed in chunk {case.chunk}")
    return case.runner.decoder_piece(label, worst.call), worst.expected[name]


def _run(found: Piece) -> Array:
    """What the piece returns in ONNX Runtime, as the script runs it."""
    try:
        import onnxruntime
    except ImportError:
        raise NoPiece("onnxruntime is not installed, which the reproduction needs") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            found.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        actual: Array = session.run(None, dict(found.inputs))[0]
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise NoPiece(f"ONNX Runtime cannot run the piece: {first_line(error)}") from None
    return actual


def _check(case: Case, label: str, expected: Array, actual: Array) -> None:
    """That the piece shows the error which was found in the model."""
    made = _largest(expected, actual)
    known = case.error(label)
    if known is not None and made < SHARE * known.max_abs and np.isfinite(actual).all():
        raise NoPiece(
            f"{label} by itself is off by {made:.1e} in ONNX Runtime and by {known.max_abs:.1e} in {case.runner.name}: "
            "the error is made by what computes it, not by the graph"
        )


def _error(each: Evaluation, name: str) -> float:
    return _largest(each.expected[name], each.actual[name])


def _largest(expected: Array, actual: Array) -> float:
    """Largest error, infinite where shapes or values do not let one be told."""
    if expected.shape != actual.shape:
        return math.inf
    error = float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0))
    return error if math.isfinite(error) else math.inf
