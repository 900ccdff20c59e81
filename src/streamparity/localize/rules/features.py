"""Features and layouts, as the model itself treats them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case
from ..feature_changes import feature_changes
from ..finding import Finding
from ..relations import relation
from .driver import FIXES

CURED = 0.05
PRE_ENCODE = "encoder.pre_encode"


def inside_the_model(case: Case) -> Iterator[Finding]:
    """A front end that is right once its features are changed: the graph does to them what it should not."""
    label = case.introduced
    if label is None or case.isolated.get(label) is None:
        return
    if label.startswith(PRE_ENCODE) and case.pieces is not None and not case.systemic:
        yield from _features(case, label)
    elif label.startswith(("encoder.pos_enc", "encoder.layers.0")) or label in ("outputs", "encoded_lengths"):
        yield from _dropped(case, label)


def _features(case: Case, label: str) -> Iterator[Finding]:
    before = case.isolated[label].max_abs
    for change in feature_changes(case.script, case.chunk, case.reference.manifest.streaming):
        after = case.subject.errors(case.chunk, case.subject.pieces(case.chunk, change.inputs)).get(label)
        if after is not None and np.isfinite(after.max_abs) and after.max_abs < CURED * before:
            yield Finding(
                change.code,
                0.9,
                f"{label} is right for a driver that {change.text}: the model does the opposite to its features",
                FIXES[change.code],
                {"error_before": before, "error_after": after.max_abs},
            )
            return


def _dropped(case: Case, label: str) -> Iterator[Finding]:
    """Frames of history that are dropped after subsampling: another number of them moves everything after."""
    encoded = case.script.expected(case.chunk).get(f"tap/{PRE_ENCODE}")
    if encoded is None or encoded.ndim != 3:
        return
    drop = case.script.inputs(case.chunk).drop
    whole = case.functional or {}
    held = whole.get("tap/encoder.layers.0.feed_forward1")
    right = case.script.expected(case.chunk).get("tap/encoder.layers.0.feed_forward1")
    same_encoded = PRE_ENCODE in case.isolated and case.isolated[PRE_ENCODE].ratio <= 1
    if same_encoded and held is not None and right is not None and held.shape[1] != right.shape[1]:
        made = drop + right.shape[1] - held.shape[1]
        yield _overlap(f"layer 0 gets {held.shape[1]} frames for {right.shape[1]}", drop, made)
        return
    if case.pieces is None or case.systemic:
        return
    before = case.isolated[label].max_abs
    for shift in (1, -1, 2, -2):
        forced = {PRE_ENCODE: np.roll(encoded, -shift, 1)}
        after = case.subject.errors(case.chunk, case.subject.pieces(case.chunk, forced=forced)).get(label)
        if after is not None and np.isfinite(after.max_abs) and after.max_abs < CURED * before:
            yield _overlap(f"{label} is right once frames are moved by {shift}", drop, drop - shift)
            return


def _overlap(text: str, drop: int, made: int) -> Finding:
    return Finding(
        "pre-encode-overlap-wrong",
        0.975,
        f"{text}: {made} frames of history are dropped after subsampling in place of {drop}",
        f"drop {drop} encoder frames (drop_extra_pre_encoded), those that the history makes",
        {"dropped": made, "drop_extra_pre_encoded": drop},
    )


def layout(case: Case) -> Iterator[Finding]:
    """A tensor that holds the right numbers along other axes."""
    label = case.introduced
    held = case.pieces if case.pieces is not None else case.functional
    spec = next((spec for spec in case.specs if spec.label == label), None)
    if spec is None or held is None or spec.name not in held or spec.kind == "cache":
        return
    found = relation(held[spec.name], case.script.expected(case.chunk)[spec.name])
    if found is not None and found.kind == "transposed":
        message = f"{label} holds the right numbers in another layout: {found.text}"
        yield Finding("layout-transposed", 0.95, message, FIXES["layout-transposed"], {"tensor": label})
