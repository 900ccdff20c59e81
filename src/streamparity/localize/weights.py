"""A port's weights held against the reference's: which differ, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..dump.anatomy import Anatomy, Parameter, places
from ..graph.weight import Weight
from ..tensors import Array
from .formats import FORMATS

# A weight that took part in a product or a fold was rounded again once or twice.
SAME = 4 * 2.0**-24
EXPLAINED = 0.02  # of a difference, left over when a relation is taken to explain it


@dataclass(frozen=True)
class WeightDifference:
    """A weight that is not the reference's.

    Attributes:
        parameter: NeMo's name.
        node: the node of the graph that uses it, or the module.
        relation: ``scaled``, ``negated``, ``zero``, ``transposed``, ``halves swapped``, ``reversed``, ``shifted``,
            ``bfloat16``, ``float16``, ``int8``, ``part``, ``other`` or ``shape``.
        detail: what is known beside it.
        relative: size of the difference over the size of the parameter.
    """

    parameter: str
    node: str
    relation: str
    detail: str
    relative: float

    @property
    def rounding(self) -> bool:
        """Whether the difference is one of number format."""
        return self.relation.split()[0] in ("bfloat16", "float16", "int8")


def differences(weights: Iterable[Weight], anatomy: Anatomy) -> Iterator[WeightDifference]:
    """Every weight that differs from the parameter of its name; unknown names are passed over."""
    done = set()
    for weight in weights:
        expected = anatomy.parameters.get(weight.parameter)
        if expected is None or (weight.parameter, weight.node) in done:
            continue
        done.add((weight.parameter, weight.node))
        found = _difference(weight, _folded(weight, expected, anatomy) if weight.folded else expected)
        # An exporter that says it folded may have folded nothing.
        if found is not None and weight.folded and _difference(weight, expected) is None:
            continue
        if found is not None:
            yield found


def _folded(weight: Weight, expected: Parameter, anatomy: Anatomy) -> Parameter:
    """The parameter of a convolution as it is once the batch norm beside it is multiplied into it."""
    path, _, part = weight.parameter.rpartition(".")
    norm = path.rsplit(".", 1)[0] + ".batch_norm"
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [anatomy.parameters[f"{norm}.{n}"].whole() for n in names if f"{norm}.{n}" in anatomy.parameters]
    if len(vectors) != 4 or norm not in anatomy.norms:
        return expected
    gain, offset, mean, variance = (np.asarray(v, np.float64) for v in vectors if v is not None)
    factor = gain / np.sqrt(variance + anatomy.norms[norm].epsilon)
    size = int(np.prod(expected.shape))
    if part == "bias":
        sample = (expected.sample.astype(np.float64) - mean) * factor + offset
    else:
        sample = expected.sample * factor[places(size) // (size // expected.shape[0])]
    return Parameter(expected.shape, sample.astype(np.float32), float("nan"), float("nan"))


def _difference(weight: Weight, expected: Parameter) -> WeightDifference | None:
    values = np.asarray(weight.values)
    if tuple(values.shape) != expected.shape:
        squeezed = values.reshape(expected.shape) if values.size == int(np.prod(expected.shape)) else None
        transposed = values.ndim == 2 and values.shape[::-1] == expected.shape
        if transposed and _distance(_sample(values.T), expected.sample) <= SAME:
            return WeightDifference(weight.parameter, weight.node, "transposed", str(list(values.shape)), 1.0)
        if squeezed is None:
            detail = f"{list(values.shape)} instead of {list(expected.shape)}"
            return WeightDifference(weight.parameter, weight.node, "shape", detail, 1.0)
        values = squeezed
    sample = _sample(values)
    relative = _distance(sample, expected.sample)
    if relative <= SAME and _same_rms(values, expected):
        return None
    relation, detail = _relation(values, sample, expected, relative)
    return WeightDifference(weight.parameter, weight.node, relation, detail, relative)


def _same_rms(values: Array, expected: Parameter) -> bool:
    """Whether the whole has the size it should: what the sample does not show."""
    if not np.isfinite(expected.rms):
        return True
    rms = float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))
    return abs(rms - expected.rms) <= 16 * SAME * expected.rms


def _relation(values: Array, sample: Array, expected: Parameter, relative: float) -> tuple[str, str]:
    want = expected.sample.astype(np.float64)
    if not np.any(sample) and not np.any(values):
        return "zero", "all of it is zero"
    if not np.any(want):
        return "other", "the reference's is zero"
    if not np.isfinite(relative):
        return "other", "it holds NaN or infinity"
    for name, detail, moved in _movements(values):
        if moved.shape == expected.shape and _distance(_sample(moved), expected.sample) <= max(
            SAME, EXPLAINED * relative
        ):
            return name, detail
    factor = float(np.dot(sample, want) / max(np.dot(want, want), np.finfo(np.float64).tiny))
    if _distance(sample / factor if factor else sample, expected.sample) <= EXPLAINED * abs(relative):
        return ("negated", "all signs") if abs(factor + 1) < EXPLAINED else ("scaled", f"by {factor:.4g}")
    for name, rounded in FORMATS.items():
        if _distance(sample, rounded(want)) <= min(SAME, EXPLAINED * relative):
            return name, f"every value is the reference's in {name}"
    if _int8_like(values, relative):
        return "int8", "few distinct values on an even grid"
    changed = np.abs(sample - want) > SAME * np.abs(want).max()
    if changed.mean() < 0.9:
        return "part", f"{changed.mean():.0%} of the values sampled"
    return "other", f"relative difference {relative:.2g}"


def _movements(values: Array) -> Iterator[tuple[str, str, Array]]:
    """The same numbers in other places; each is its own way back."""
    if values.ndim == 2:
        yield "transposed", "rows for columns", values.T
        if values.shape[0] != values.shape[1]:
            yield "transposed", "read in the other order", values.T.reshape(values.shape)
            yield "transposed", "read in the other order", values.reshape(values.shape[::-1]).T
    for axis, extent in enumerate(values.shape):
        if extent > 1 and extent % 2 == 0:
            yield "halves swapped", f"along axis {axis}", np.roll(values, extent // 2, axis)
        if extent > 1:
            yield "reversed", f"along axis {axis}", np.flip(values, axis)
            for shift in (1, -1):
                yield "shifted", f"by {-shift} along axis {axis}", np.roll(values, shift, axis)
        for parts in (4, 8, 16, 3):
            if extent % parts == 0 and extent > parts:
                shape = (*values.shape[:axis], parts, extent // parts, *values.shape[axis + 1 :])
                yield (
                    "reversed",
                    f"{parts} groups along axis {axis} interleaved",
                    np.swapaxes(values.reshape(shape), axis, axis + 1).reshape(values.shape),
                )


def _int8_like(values: Array, relative: float) -> bool:
    """Whether each row (or all of it) takes at most 256 values, evenly spaced."""
    if relative > 0.2 or values.ndim < 2:
        return False
    for rows in (values.reshape(1, -1), values.reshape(values.shape[0], -1), values.reshape(values.shape[0], -1).T):
        if rows.shape[1] < 32:
            continue
        steps = []
        for row in rows[:8]:
            levels = np.unique(row.astype(np.float64))
            gaps = np.diff(levels)
            step = gaps.min() if gaps.size else 0.0
            span = (levels[-1] - levels[0]) / step if step else np.inf
            even = step > 0 and np.abs(gaps / step - np.round(gaps / step)).max() < 1e-2
            steps.append(bool(span <= 256.5 and even))
        if steps and all(steps):
            return True
    return False


def _sample(values: Array) -> Array:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat[places(flat.size)].astype(np.float64)


def _distance(sample: Array, expected: Array) -> float:
    """Size of the difference over the size of what is expected."""
    want = expected.astype(np.float64)
    size = float(np.linalg.norm(want))
    difference = float(np.linalg.norm(np.asarray(sample, np.float64) - want))
    if not np.isfinite(difference):
        return float("inf")
    return difference / size if size else (0.0 if difference == 0 else float("inf"))
