"""State inside the model: what it returns, what it uses, and in which form it expects it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ...tensors import RETURNED, Array
from ..cache_changes import CHANNEL, LENGTH, SLOTS, TIME, Change, changes
from ..case import ENTRANCE, Case
from ..finding import Finding
from ..relations import Relation, relation
from .driver import FIXES

CACHE_OUTPUTS = {"cache_last_channel_next": CHANNEL, "cache_last_time_next": TIME}
LENGTH_OUTPUT = "cache_last_channel_next_len"
# An error that is this much smaller once an input is changed was made by that input's form.
CURED = 0.02
SAME = 1e-4  # relative to the largest value of a cache
FIX_OF_CACHE = {
    "wrong-attention-context": "keep as many frames as cache_last_channel has slots",
    "graph-differs": "keep the input of attention, after its norm, and the input of the depthwise convolution",
}


def lengths(case: Case) -> Iterator[Finding]:
    """The cache length that the model returns, against the schedule's."""
    error = case.isolated.get(LENGTH_OUTPUT)
    if error is None or error.ratio <= 1:
        return
    expected = [reference[1] for reference, _ in case.observation.lengths]
    actual = [candidate[1] for _, candidate in case.observation.lengths]
    if not actual:
        held = case.functional or {}
        actual = [int(np.asarray(held.get(f"out/{LENGTH_OUTPUT}", 0)).reshape(-1)[0])]
        expected = [int(case.script.expected(case.chunk)[f"out/{LENGTH_OUTPUT}"].reshape(-1)[0])]
    slots = int(case.script.inputs(0).caches[CHANNEL].shape[SLOTS[CHANNEL]])
    evidence = {"expected": expected[:8], "actual": actual[:8], "slots": slots}
    # A graph that makes another number of frames counts others too: then that is the fault.
    frames = case.isolated.get("encoded_lengths")
    sure = 0.6 if frames is not None and frames.ratio > 1 else 0.97
    text = f"{LENGTH_OUTPUT} is {_manner(actual, slots)}: {actual[:4]} for {expected[:4]}"
    yield Finding("cache-length-wrong", sure, text, "return min(length + frames kept, slots)", evidence)


def _manner(actual: Sequence[int], slots: int) -> str:
    if min(actual) < 0:
        return "negative"
    if max(actual) > slots:
        return f"unbounded (the cache has {slots} slots)"
    if all(value == slots for value in actual):
        return "the cache's physical size from the start"
    if any(after < before for before, after in pairwise(actual)):
        return "not monotonic"
    return "not what the schedule makes it"


def returned_caches(case: Case) -> Iterator[Finding]:
    """A cache that the model returns wrongly although what goes into it is right."""
    if case.introduced not in CACHE_OUTPUTS:
        return
    label = str(case.introduced)
    port, name = CACHE_OUTPUTS[label], f"out/{label}"
    chunk = _telling_chunk(case, name)
    pieces = case.subject.pieces(chunk) or case.subject.whole(case.script.inputs(chunk))
    if pieces is None:
        return
    expected, fed = case.script.expected(chunk)[name], case.script.inputs(chunk).caches[port]
    found = relation(pieces[name], expected, fed, layer_axis=1)
    code, sure = _code_of(found, port)
    text = found.text if found is not None else "part of it holds other values"
    blank, old = _slots(pieces[name], expected, SLOTS[port])
    if found is None and blank:
        code, sure, text = "wrong-attention-context", 0.85, f"its oldest {blank} slots are blank, the others right"
    elif found is None and old:
        code, sure = "graph-differs", 0.85
        text = f"its older slots are right, its {old} newest hold something else than the reference keeps there"
    yield Finding(
        code,
        sure,
        f"{label} is wrong as it is returned: {text}",
        FIX_OF_CACHE.get(code) or FIXES.get(code, FIXES["cache-misaligned"]),
        {"port": label, "relation": None if found is None else found.kind, "chunk": chunk},
    )


def _slots(actual: Array, expected: Array, axis: int) -> tuple[int, int]:
    """How many of the oldest slots are blank while the others are right, and of the newest wrong while they are."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return 0, 0
    others = tuple(other for other in range(expected.ndim) if other != axis)
    size = float(np.abs(expected).max()) or 1.0
    wrong = np.abs(actual.astype(np.float64) - expected).max(axis=others) > SAME * size
    count = int(wrong.sum())
    if not 0 < count < wrong.size:
        return 0, 0
    first = int(np.argmax(wrong))
    if wrong[-count:].all():
        return 0, count
    held = np.take(actual, range(first, first + count), axis)
    before = np.take(expected, range(first), axis)
    return (count if wrong[first : first + count].all() and not held.any() and not before.any() else 0), 0


def _telling_chunk(case: Case, name: str) -> int:
    """A chunk in which the caches hold enough for positions to be told apart."""
    return case.chunk if case.sensitivity is None else max(case.chunk, case.sensitivity.half_filled)


def _code_of(found: Relation | None, port: str) -> tuple[str, float]:
    if found is None:
        return "cache-misaligned", 0.45
    if found.kind in ("zero", "constant"):
        return ("time-cache-dropped" if port == TIME else "cache-not-propagated"), 0.95
    if found.kind == "stale":
        return "cache-not-propagated", 0.95
    if found.kind == "layers":
        return "cache-layers-swapped", 0.96
    if found.kind in ("turned", "shifted", "reversed"):
        return ("cache-misaligned" if found.axis == SLOTS[port] else "layout-transposed"), 0.95
    if found.kind == "transposed":
        return "layout-transposed", 0.95
    return "drift", 0.8


def unused_caches(case: Case) -> Iterator[Finding]:
    """A layer that does not look at its cache, or looks at another layer's."""
    if case.layer is None or not _enters_state(case):
        return
    sources = case.sources
    seen = {port: found.get(case.layer) for port, found in sources.items()}
    # Either cache may be unused in a sound model where the other tap is not there to show it.
    if sources and all(found and not any(found.values()) for found in sources.values()):
        yield Finding(
            "stateless-export",
            0.985,
            "no layer's output depends on either cache: the graph has cache ports but no memory",
            "export with set_export_config({'cache_support': 'True'}), or streamparity export",
            {"layers": len(next(iter(sources.values())))},
        )
        return
    for port, used in seen.items():
        if used is None or used == {case.layer} or not _fits(case, port):
            continue
        if not used:
            code = "time-cache-dropped" if port == TIME else "cache-not-propagated"
            everywhere = not any(sources[port].values())
            text = "no layer" if everywhere else f"layer {case.layer}"
            message = f"{text} depends on {port}" if everywhere else f"{text} does not depend on {port}"
            evidence = {"port": port, "layer": case.layer, "sensitivity": "none"}
            yield Finding(code, 0.96, message, "connect the cache input to where the layer concatenates it", evidence)
        else:
            message = f"layer {case.layer} depends on {port} of layer {', '.join(map(str, sorted(used)))}"
            evidence = {"port": port, "layer": case.layer, "depends_on": sorted(used)}
            yield Finding("cache-layers-swapped", 0.96, message, FIXES["cache-layers-swapped"], evidence)


def _enters_state(case: Case) -> bool:
    return any(ENTRANCE.match(label) for label in case.together) or bool(
        {RETURNED[CHANNEL], RETURNED[TIME]} & set(case.failing)
    )


def _fits(case: Case, port: str) -> bool:
    """Whether the error stands where this cache enters a layer."""
    part = "self_attn" if port == CHANNEL else "conv"
    return any(f".{part}" in label for label in case.together)


def expected_in_another_form(case: Case) -> Iterator[Finding]:
    """A piece that is right once a cache is handed to it in another form."""
    label = case.introduced
    if label is None or case.sensitivity is None or not _enters_state(case) or case.layer is None:
        return
    chunk = max(case.chunk, case.sensitivity.half_filled)
    before = case.subject.errors(chunk, case.subject.pieces(chunk)).get(label)
    if before is None or before.ratio <= 1:
        chunk = case.chunk
        before = case.isolated[label]
    for change in _forms(case, chunk):
        pieces = case.subject.pieces(chunk, case.script.inputs(chunk).having(**change.caches))
        after = case.subject.errors(chunk, pieces).get(label)
        if after is not None and after.max_abs <= CURED * before.max_abs:
            yield Finding(
                change.code,
                0.95,
                f"{label} is right once it is fed a cache that {change.text.removeprefix('keeps ')}: it takes its "
                "cache in another form",
                FIXES[change.code],
                {"port": change.port, "chunk": chunk, "error_before": before.max_abs, "error_after": after.max_abs},
            )
            return


def _forms(case: Case, chunk: int) -> Iterator[Change]:
    now, initial = case.script.inputs(chunk).caches, case.script.inputs(0).caches
    for change in changes(now, None, initial, 0, [case.layer or 0]):
        if change.undoes or change.port == LENGTH:
            yield change
