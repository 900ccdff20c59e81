"""Errors that grow, and errors that are no more than arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...comparison.noise import MARGIN, UNIT_ROUNDOFF, noise_of
from ..case import Case
from ..finding import Finding
from ..growth import Growth, growth


def within_noise(case: Case) -> Iterator[Finding]:
    """Every error is one that arithmetic explains: the tolerance was tighter than that."""
    floor = case.reference.noise_floor()
    if case.divergence is None or floor is None:
        return
    arithmetic = case.policy.arithmetic or "float32"
    kind = arithmetic if arithmetic in UNIT_ROUNDOFF else "float32"
    past = []
    for tensor in (t for t in case.comparison["tensors"] if t["tolerance"]["source"] != "exact"):
        noise = noise_of(floor, tensor["name"], kind)
        if noise is None or tensor["max_abs"] is None or tensor["error"]:
            return
        if tensor["max_abs"] > MARGIN * noise:
            return
        past += [] if tensor["passed"] else [tensor["name"]]
    if not past or any(not t["passed"] for t in case.comparison["tensors"] if t["tolerance"]["source"] == "exact"):
        return
    yield Finding(
        "noise-only",
        0.99,
        f"every error is within what {kind} arithmetic alone costs: the tolerance is tighter than the model can be",
        "judge by the noise floor: leave out --atol and --rtol",
        {"tensors_past_tolerance": past[:8], "margin": MARGIN},
    )


def accumulates(case: Case) -> Iterator[Finding]:
    """No step is wrong by itself, and the loop is driven right: small errors feed back."""
    if case.divergence is None:
        return
    curve = state_growth(case)
    small = case.introduced is None and case.driver_is_faithful is not False and not case.replayed
    # A cache that is itself returned a little wrong is the same thing in a coarser tolerance.
    if not small or curve is None:
        return
    sure = 0.9 if curve.shape != "flat" else 0.55
    if curve.shape == "flat" and curve.residual > 1:
        return
    text = {"flat": "stays the same", "linear": "grows with every chunk", "exponential": "grows by a factor"}[
        curve.shape
    ]
    until = (
        "" if curve.chunks_to_tolerance is None else f"; it is past tolerance after {curve.chunks_to_tolerance} chunks"
    )
    yield Finding(
        "drift",
        sure,
        f"every step is right by itself, and its small error feeds back through the caches: it {text}{until}",
        "look at what is done to the caches between and inside steps: copies in another format, scaling, clipping",
        curve.to_json(),
    )


def state_growth(case: Case) -> Growth | None:
    """Growth of the error of the caches, or else of the output, over the chunks that were run."""
    held = {t["name"]: t for t in case.comparison["tensors"]}
    for name in ("cache_last_channel_next", "cache_last_time_next", "outputs"):
        tensor = held.get(name)
        if tensor is not None and not (tensor["passed"] and name != "outputs"):
            tolerance = tensor["tolerance"]["atol"] or float(np.finfo(np.float32).eps)
            return growth(tensor["per_chunk_max_abs"], tolerance)
    return None
