"""One tensor at close range: how its errors are distributed, and the worst of them among their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BAR = 40


def subject(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The tensor to look at: where the two first diverge, or the only one there is."""
    tensors, found = result["tensors"], result["first_divergence"]
    if found is not None:
        return next((tensor for tensor in tensors if tensor["name"] == found["tensor"]), None)
    return tensors[0] if len(tensors) == 1 else None


def detail(tensor: Mapping[str, Any]) -> list[str]:
    """Its errors as bars, a line for each decade, and its worst elements, three lines each."""
    return [*_bars(tensor), *_worst(tensor)]


def _bars(tensor: Mapping[str, Any]) -> list[str]:
    histogram = tensor.get("histogram") or {"zero": 0, "decades": {}}
    rows = [(f"{f'from 1e{decade}':>10}", count) for decade, count in _by_decade(histogram["decades"])]
    if histogram["zero"]:
        rows.insert(0, (f"{'equal':>10}", histogram["zero"]))
    finite = sum(count for _, count in rows)
    if not finite:
        return []
    most = max(count for _, count in rows)
    lines = [f"errors of {tensor['name']}, {finite} values:"]
    for label, count in rows:
        bar = "#" * max(1, round(BAR * count / most)) if count else ""
        lines.append(f"  {label} {count / finite:7.2%} {bar} {count}".rstrip())
    return lines


def _by_decade(decades: Mapping[str, int]) -> list[tuple[int, int]]:
    """Every decade from the lowest that has errors to the highest; long gaps are left out."""
    counts = {int(decade): count for decade, count in decades.items()}
    if not counts:
        return []
    every = range(min(counts), max(counts) + 1)
    return [(decade, counts.get(decade, 0)) for decade in every if decade in counts or len(every) <= 2 * len(counts)]


def _worst(tensor: Mapping[str, Any]) -> list[str]:
    elements = [element for element in tensor.get("worst_elements", ()) if element["reference"] != element["candidate"]]
    lines = ["worst elements, each among its neighbours along the last axis:"] if elements else []
    for element in elements:
        around = element["neighbourhood"]
        sides = [[_figure(value) for value in around[side]] for side in ("reference", "candidate")]
        width = max(len(text) for side in sides for text in side)
        lines.append(f"  chunk {element['chunk']}, {element['index']}: {_off(element)}")
        for name, texts in zip(("reference", "candidate"), sides, strict=True):
            lines.append(f"    {name} {_row(texts, around['at'], width)}")
    return lines


def _row(texts: Sequence[str], at: int, width: int) -> str:
    padded = [f"{text:>{width}}" for text in texts]
    return " ".join(f"[{text}]" if place == at else f" {text} " for place, text in enumerate(padded)).rstrip()


def _off(element: Mapping[str, Any]) -> str:
    reference, candidate = element["reference"], element["candidate"]
    if reference is None or candidate is None:
        return "not finite"
    off = abs(candidate - reference)
    relative = f", {off / abs(reference):.2g} of the reference" if reference else ""
    return f"off by {off:.3g}{relative}"


def _figure(value: float | None) -> str:
    return "nan/inf" if value is None else f"{value:.7g}"
