"""Positions and masks: what attention looks at, and where it thinks that is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...tensors import Array
from ..case import Case
from ..finding import Finding
from ..relations import relation

POSITIONS = "encoder.pos_enc"
SHIFTS = (1, -1, 2, -2, 3, -3)
# Rolling cannot bring back what a shift moved out at the edge: an error this much smaller is cured enough.
CURED = 0.25


def positional_encoding(case: Case) -> Iterator[Finding]:
    """Positions that are off, in the encoding itself or where a layer applies it."""
    fix = "build relative positions from +(cache + frames - 1) down to -(frames - 1), the cache's full size included"
    if case.introduced == POSITIONS:
        pieces, name = case.pieces or case.functional or {}, f"tap/{POSITIONS}"
        found = relation(pieces[name], case.script.expected(case.chunk)[name]) if name in pieces else None
        text = "it differs" if found is None else found.text
        shifted = found is not None and found.kind in ("shifted", "turned", "reversed")
        message = f"the positional encoding is not the reference's: {text}"
        yield Finding("positional-encoding-shift", 0.96 if shifted else 0.7, message, fix, {"relation": text})
        return
    label = case.introduced
    if label is None or ".self_attn" not in label or case.pieces is None or case.systemic:
        return
    expected = case.script.expected(case.chunk).get(f"tap/{POSITIONS}")
    if expected is None:
        return
    before = case.isolated[label].max_abs
    for name, tensor in _position_tensors(case, expected):
        for shift in SHIFTS:
            forced = {name: np.roll(tensor, shift, 1)}
            after = case.subject.errors(case.chunk, case.subject.pieces(case.chunk, forced=forced)).get(label)
            if after is not None and after.max_abs < CURED * before:
                message = f"{label} is right once positions are moved by {shift}: it applies them to the wrong distance"
                evidence = {"shift": shift, "error_before": before, "error_after": after.max_abs}
                yield Finding("positional-encoding-shift", 0.93, message, fix, evidence)
                return


def _position_tensors(case: Case, encoding: Array) -> Iterator[tuple[str, Array]]:
    """The encoding, and the layer's projection of it where that is tapped."""
    yield POSITIONS, encoding
    name = f"encoder.layers.{case.layer}.self_attn.linear_pos"
    projected = case.script.expected(case.chunk).get(f"tap/{name}")
    if projected is not None:
        yield name, projected


def visibility(case: Case) -> Iterator[Finding]:
    """Slots and frames that attention sees and should not, or should and does not."""
    if case.sensitivity is None or case.layer is None or case.introduced is None or case.systemic:
        return
    if not any(".self_attn" in label for label in case.together):
        return
    streaming = case.reference.manifest.streaming
    context = list(streaming.att_context_size)
    chunks = dict.fromkeys([case.sensitivity.half_filled, case.chunk, case.script.total - 2])
    for chunk in (chunk for chunk in chunks if 0 < chunk < case.script.total):
        seen = case.sensitivity.slots(case.layer, chunk)
        if seen is None or not any(seen.seen):
            continue
        evidence = {
            "chunk": chunk,
            "valid_slots": sum(seen.valid),
            "slots_seen": sum(seen.seen),
            "att_context_size": context,
        }
        if seen.invalid_seen and seen.valid_unseen:
            message = (
                f"layer {case.layer} looks at {seen.invalid_seen} empty slots and not at {seen.valid_unseen} full ones"
            )
            yield Finding("cache-misaligned", 0.94, message, "valid frames are in the last slots", evidence)
            return
        if seen.invalid_seen:
            message = f"layer {case.layer} attends to {seen.invalid_seen} slots that carry no data yet"
            fix = "mask all but the last cache_last_channel_len slots, before the softmax"
            yield Finding("mask-missing", 0.95, message, fix, evidence)
            return
        if seen.valid_unseen:
            message = f"layer {case.layer} attends to {sum(seen.seen)} of {sum(seen.valid)} valid slots"
            fix = f"export with att_context_size {context}"
            yield Finding("wrong-attention-context", 0.94, message, fix, evidence)
            return
    yield from _frames(case, context)


def _frames(case: Case, context: list[int]) -> Iterator[Finding]:
    sensitivity = case.sensitivity
    found = None if sensitivity is None or case.layer is None else sensitivity.frames(case.layer, case.chunk)
    if found is None:
        return
    seen, should = found
    evidence = {"seen": seen.astype(int).tolist(), "should": should.astype(int).tolist(), "att_context_size": context}
    if (seen & ~should).any():
        message = f"layer {case.layer} attends to {int((seen & ~should).sum())} frames that its mask should hide"
        yield Finding("mask-missing", 0.93, message, "apply the attention mask before the softmax", evidence)
    elif (should & ~seen).any():
        message = f"layer {case.layer} does not attend to {int((should & ~seen).sum())} frames that it should see"
        fix = f"export with att_context_size {context}"
        yield Finding("wrong-attention-context", 0.93, message, fix, evidence)


def frames_per_chunk(case: Case) -> Iterator[Finding]:
    """A model that keeps another number of frames per chunk was exported for another context."""
    error = case.isolated.get("encoded_lengths")
    if error is None or error.ratio <= 1 or case.reference.manifest.schedule == "native":
        return
    held = case.pieces or case.functional or {}
    if "out/encoded_lengths" not in held:
        return
    actual = int(np.asarray(held["out/encoded_lengths"]).reshape(-1)[0])
    expected = int(case.script.expected(case.chunk)["out/encoded_lengths"].reshape(-1)[0])
    right = case.script.expected(case.chunk)["out/outputs"].shape
    if held["out/outputs"].shape == right:
        yield Finding(
            "encoded-length-wrong",
            0.9,
            f"encoded_lengths is {actual} although the model returns the {right[2]} frames that it should",
            f"return {expected}: the frames kept after subsampling and dropping",
            {"encoded_lengths": actual, "expected": expected},
        )
        return
    context = list(case.reference.manifest.streaming.att_context_size)
    yield Finding(
        "wrong-attention-context",
        0.9,
        f"the model returns {actual} frames for a chunk of which the reference, at context {context}, makes {expected}",
        f"export with att_context_size {context}",
        {"frames": actual, "expected": expected, "att_context_size": context},
    )
