"""The attention context that is baked into a graph, read off the mask it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StepFailed
from ..tensors import Array
from .arithmetic import ENDLESS, USUAL_FACTOR, Baked
from .finding import Finding
from .sessions import Session, zeros
from .subject import EncoderSubject

ROWS = 96  # encoder frames, at least, over which the mask is looked at
LARGEST_CACHE = 2048  # slots; a mask grows with their square
NEAR = 8  # nodes between a Softmax and the mask in front of it


@dataclass(frozen=True)
class MaskContext:
    """What a mask lets attention see.

    Attributes:
        left: encoder frames before a chunk (or a frame, where chunks do not show) that it sees; -1 for all.
        right: encoder frames after the first frame of a chunk (or a frame) that it sees; -1 for all.
        chunked: frames of one chunk see each other, so that the look-ahead shrinks from frame to frame.
        slots: cached frames that it has room for: extent C of ``cache_last_channel``.
    """

    left: int
    right: int
    chunked: bool
    slots: int


def mask_context(subject: EncoderSubject, baked: Baked) -> MaskContext | None:
    """Run the part of a graph that computes the attention mask, on a full cache and a long chunk, and read it.

    Returns:
        ``None`` where the graph has no mask that can be found or run.

    Raises:
        BackendMissing: onnxruntime is not installed.
        StreamparityError: ONNX Runtime refuses the part.
    """
    name = _mask_tensor(subject)
    if name is None or (baked.slots or 0) > LARGEST_CACHE:
        return None
    fixed = subject.extent("audio_signal", 2)
    frames = fixed or ROWS * (baked.factor or USUAL_FACTOR)
    try:
        given = zeros(subject, frames, baked.slots or 1, 1)
        given["cache_last_channel_len"] = np.full_like(given["cache_last_channel_len"], ENDLESS)
        mask = np.asarray(Session(subject, [name], part=True).run(given)[0]).astype(bool)
    except StepFailed:
        return None
    if mask.ndim < 2 or mask.size != mask.shape[-1] * mask.shape[-2]:
        return None
    found = read_mask(mask.reshape(mask.shape[-2:]))
    # One chunk sees all of itself and of the cache under any context.
    return None if fixed is not None and found is not None and found.right < 0 else found


def read_mask(mask: Array) -> MaskContext | None:
    """Read a mask ``[frames, cache slots + frames]``, whichever of its values hides.

    A frame always sees itself, which tells the two apart. Rows at the end, where the chunk ends or padding begins, see
    less than their due: the widest view counts.
    """
    rows, slots = mask.shape[0], mask.shape[1] - mask.shape[0]
    if not rows or slots < 0:
        return None
    own = mask[np.arange(rows), slots + np.arange(rows)]
    visible = mask if np.count_nonzero(own) * 2 > rows else ~mask
    used = np.flatnonzero(visible[np.arange(rows), slots + np.arange(rows)])
    if not used.size:
        return None
    first = np.array([np.flatnonzero(visible[row])[0] for row in used])
    last = np.array([np.flatnonzero(visible[row])[-1] for row in used])
    right = last - (slots + used)
    unlimited_right = bool((last == last[0]).all()) and used.size > 1
    if unlimited_right:
        left_of_frame = slots + used - first
        return MaskContext(-1 if (first == 0).all() else int(left_of_frame.max()), -1, False, slots)
    ahead = int(right.max())
    chunked = ahead > 0 and bool((np.diff(right) != 0).any()) and int(right.min()) == 0 and _shrinks(right)
    starts = right == ahead if chunked else np.ones(used.size, bool)
    left = -1 if (first == 0).all() else int((slots + used - first)[starts].max())
    return MaskContext(left, ahead, chunked, slots)


def _shrinks(right: Array) -> bool:
    """Whether the look-ahead counts down and starts again, as within chunks; at the very end it always counts down."""
    return bool((np.diff(right) > 0).any())


def context_findings(subject: EncoderSubject, baked: Baked, mask: MaskContext | None) -> Iterator[Finding]:
    """Hold what is baked in against the context asked for, or the contract's."""
    streaming = subject.promise.streaming
    asked = subject.options.att_context or (None if streaming is None else streaming.att_context_size)
    if asked is None or len(asked) != 2:
        return
    left, right = asked
    found: dict[str, Any] = {"asked": list(asked), "cache_slots": baked.slots, "frames_per_chunk": baked.valid_out}
    wrong = []
    if mask is not None:
        found["mask"] = [mask.left, mask.right]
        # A chunked mask sees whole chunks: the rest of a left context that is no multiple of them is never seen.
        whole = left - left % (right + 1) if mask.chunked and left >= 0 else left
        wrong += [f"its mask sees {_frames(mask.left)} back"] if mask.left not in (left, whole) else []
        wrong += [f"its mask looks {_frames(mask.right)} ahead"] if mask.right != right else []
    if left >= 0 and baked.slots is not None and baked.slots != left:
        wrong.append(f"its cache counts to {baked.slots}")
    certain = bool(wrong)
    if streaming is not None and subject.options.att_context in (None, streaming.att_context_size):
        expected, certain = streaming.valid_out_len, True
    elif mask is None:
        expected = right + 1  # of a chunked mask; of any other, chunks are as long as one likes
    else:
        certain, expected = True, right + 1 if mask.chunked and not baked.cache_drop else 0
    if expected > 0 and baked.valid_out is not None and baked.valid_out != expected:
        wrong.append(f"it keeps {baked.valid_out} frames per chunk, not {expected}")
    if wrong:
        yield Finding(
            "context-mismatch",
            "error" if certain else "warning",
            f"another attention context than {list(asked)} is baked in: {', '.join(wrong)}",
            found,
            f"export with --att-context {left},{right}; by hand: encoder.set_default_att_context_size("
            f"[{left}, {right}]), then encoder.setup_streaming_params()",
        )


def _frames(count: int) -> str:
    return "without end" if count < 0 else f"{count} frames"


def _mask_tensor(subject: EncoderSubject) -> str | None:
    """The condition of the ``Where`` nearest in front of the first attention's softmax."""
    producers = subject.flow.producers
    softmax = next((node for node in subject.graph.proto.graph.node if node.op_type == "Softmax"), None)
    if softmax is None:
        return None
    waiting, seen = deque([(softmax.input[0], 0)]), set()
    while waiting:
        name, depth = waiting.popleft()
        node = producers.get(name)
        if node is None or depth > NEAR or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Where":
            return str(node.input[0])
        waiting += [(part, depth + 1) for part in node.input if part]
    return None
