"""Arithmetic: not finite, saturated, rounded to a smaller format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...comparison.noise import UNIT_ROUNDOFF
from ...tensors import Array, TensorSpec
from ..case import QUANTISING, Case
from ..finding import Finding
from ..relations import mantissa_bits

FLOAT16_MAX = 65504.0
ONNX_LOW = {10: "float16", 16: "bfloat16"}


def _spec(case: Case, label: str | None) -> TensorSpec | None:
    return next((spec for spec in case.specs if spec.label == label), None)


def _tensors(case: Case, label: str | None) -> tuple[Array, Array] | None:
    """Reference and candidate at a label, each by itself where the model can be run in pieces."""
    spec = _spec(case, label)
    held = case.pieces if case.pieces is not None else case.functional
    if spec is None or case.divergence is None:
        return None
    expected = case.script.expected(case.chunk).get(spec.name)
    actual = None if held is None else held.get(spec.name)
    if actual is None and case.chunk in case.observation.failed:
        actual = case.observation.failed[case.chunk].get(spec.name)
    return None if expected is None or actual is None else (expected, actual)


def not_finite(case: Case) -> Iterator[Finding]:
    """Infinity means that a format overflowed; NaN from finite inputs is made by an operation."""
    label = case.introduced or (None if case.divergence is None else str(case.divergence["tensor"]))
    both = _tensors(case, label)
    if both is None or both[1].dtype.kind != "f" or np.isfinite(both[1]).all():
        return
    actual = both[1]
    infinite, nan = int(np.isinf(actual).sum()), int(np.isnan(actual).sum())
    formats = _formats(case)
    evidence = {"tensor": label, "infinite": infinite, "nan": nan, "formats": formats}
    if infinite or "float16" in formats:
        message = f"{label} overflows: {infinite} infinite values and {nan} NaN from finite inputs"
        yield Finding("overflow", 0.96, message, "keep this part in float32 or bfloat16, or scale before it", evidence)
    else:
        message = f"{label} makes {nan} NaN from finite inputs"
        fix = "look for a division by zero, a square root or logarithm of a negative number, or inf - inf"
        yield Finding("nan-introduced", 0.96, message, fix, evidence)


def saturated(case: Case) -> Iterator[Finding]:
    """Values beyond some bound are all that bound, and the others are right."""
    both = _tensors(case, case.introduced)
    if both is None or both[0].shape != both[1].shape or both[1].dtype.kind != "f" or not np.isfinite(both[1]).all():
        return
    expected, actual = both[0].astype(np.float64), both[1].astype(np.float64)
    scale = float(np.abs(expected).max()) or 1.0
    wrong = np.abs(actual - expected) > 1e-4 * scale
    if not wrong.any() or wrong.all():
        return
    bounds = np.unique(actual[wrong])
    if not bounds.all():
        return  # values that are lost rather than cut off
    beyond = all(np.abs(expected[wrong & (actual == b)]).min() >= abs(b) * (1 - 1e-6) for b in bounds[:2])
    if len(bounds) <= 2 and beyond and int(wrong.sum()) >= 2:
        limit = float(np.abs(bounds).max())
        yield Finding(
            "overflow",
            0.95,
            f"{case.introduced} is cut off at {limit:g}: {int(wrong.sum())} values beyond it all hold that",
            "keep this part in a format that reaches further",
            {"tensor": case.introduced, "limit": limit, "values": int(wrong.sum())},
        )


def reduced_precision(case: Case) -> Iterator[Finding]:
    """A smaller number format: by the weights, by casts in the graph, by mantissas, by the size of the errors."""
    if case.divergence is None:
        return
    rounded = [weight for weight in case.weight_differences if weight.rounding]
    formats = _formats(case)
    label = case.introduced
    if rounded and label is not None:
        names = sorted({weight.relation for weight in rounded})
        whole = len(rounded) > 1
        yield Finding(
            "reduced-precision",
            0.97 if whole or not case.weight_differences[1:] else 0.9,
            f"{len(rounded)} parameters hold the reference's values in {' and '.join(names)}",
            "ship the weights in float32, or judge the port as one of that format (-o dtype, or --atol)",
            {"formats": names, "parameters": [weight.parameter for weight in rounded[:16]]},
        )
        return
    if label is None:
        return
    if formats:
        yield Finding(
            "reduced-precision",
            0.95,
            f"the part of the graph that makes the error computes in {' and '.join(formats)}",
            "build it in float32, or judge it as what it is",
            {"formats": formats, "tensor": label},
        )
        return
    yield from _by_figures(case, label)


def _formats(case: Case) -> list[str]:
    """Number formats that the suspect nodes cast or quantise to."""
    found = set()
    for node in case.suspects:
        if node.op_type == "Cast":
            found |= {ONNX_LOW[a.i] for a in node.attribute if a.name == "to" and a.i in ONNX_LOW}
        elif node.op_type in QUANTISING:
            found.add("int8")
    return sorted(found)


def _by_figures(case: Case, label: str) -> Iterator[Finding]:
    both = _tensors(case, label)
    if both is None or both[0].shape != both[1].shape or both[1].dtype.kind != "f":
        return
    expected, actual = both[0].astype(np.float64), both[1].astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(expected)))) or 1.0
    relative = float(np.sqrt(np.mean(np.square(actual - expected)))) / size
    bits = mantissa_bits(both[1])
    levels = len(np.unique(both[1]))
    evidence = {"tensor": label, "relative_rms_error": relative, "mantissa_bits": bits, "systemic": case.systemic}
    fix = "compute in float32 (TF32 off: torch.backends.cuda.matmul.allow_tf32, TensorRT's TF32 flag), or judge it so"
    if not 0 < relative < 0.2:
        return
    if bits is not None and bits <= 10:
        name = "bfloat16" if bits <= 7 else "float16"
        if name == "float16" and _beyond_float16(both[1]):
            name = "tf32"
        text = f"{label} holds numbers of {bits} mantissa bits: {name}"
        yield Finding("reduced-precision", 0.95, text, fix, {**evidence, "format": name})
    elif levels <= 256 < both[1].size:
        text = f"{label} takes {levels} values only: int8"
        yield Finding("reduced-precision", 0.95, text, fix, {**evidence, "format": "int8"})
    elif case.systemic and 2.0**-16 < relative < 0.05 and _looks_like_noise(actual - expected, expected):
        name = min(
            ("tf32", "bfloat16", "int8"), key=lambda kind: abs(np.log2(relative) - np.log2(UNIT_ROUNDOFF[kind] / 2))
        )
        text = f"the error of every piece is noise of the size that {name} makes, relative to its values {relative:.1e}"
        yield Finding("reduced-precision", 0.8, text, fix, {**evidence, "format": name})


def _beyond_float16(values: Array) -> bool:
    """Whether there are values that float16 cannot hold to its own precision."""
    small = np.abs(values[(values != 0) & np.isfinite(values)])
    return bool(small.size and (small.max() > FLOAT16_MAX or small.min() < 2.0**-14))


def _looks_like_noise(error: Array, expected: Array) -> bool:
    """Spread over nearly all values, of no preferred sign, and no multiple of the values themselves."""
    spread = np.abs(error) > 0.02 * np.abs(error).max()
    biased = abs(float(error.mean())) > 0.3 * float(error.std())
    together = float(np.vdot(error, expected)) / (np.linalg.norm(error) * np.linalg.norm(expected) + 1e-300)
    return bool(spread.mean() > 0.6 and not biased and abs(together) < 0.3)
