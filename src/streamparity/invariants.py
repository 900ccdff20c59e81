"""What must hold after every step of any streaming encoder, whatever the reference says.

A cache that shrinks, a length beyond its tensor or a NaN is wrong by itself; nothing has to be compared to see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .schedule import StreamingConfig
from .tensors import ENCODER_OUTPUTS, Array, Port, TensorSpec, integer_tensors, valid_regions

LENGTH = "encoded_lengths"
CACHE_LENGTH = "cache_last_channel_next_len"


@dataclass(frozen=True)
class Violation:
    """Something that cannot be so.

    Attributes:
        chunk: the step.
        code: ``encoded-length``, ``cache-length`` or ``not-finite``.
        tensor: the output port.
        message: what is wrong, with the numbers.
    """

    chunk: int
    code: str
    tensor: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """As in the result."""
        return {"chunk": self.chunk, "code": self.code, "tensor": self.tensor, "message": self.message}


def violations(
    config: StreamingConfig,
    chunk: int,
    frames: int,
    before: Array | None,
    outputs: Mapping[str, Array],
    *,
    drop: int,
    last: bool,
) -> tuple[Violation, ...]:
    """Every invariant that one step breaks.

    * ``encoded_lengths`` lies between 0 and what the tensor holds, and is not more than the new frames that were
      fed make nor, but for the last chunk, than ``valid_out_len``.
    * ``cache_last_channel_next_len`` lies between 0 and the cache's slots, is not less than before, and has grown by no
      more than the new frames that were fed make. (A last chunk that makes fewer frames than ``cache_drop_size`` takes
      the difference away: NeMo does so.)
    * Every value in a valid region, and in a cache, is finite.

    Args:
        config: the streaming configuration.
        chunk: which step.
        frames: feature frames fed, history included.
        before: ``cache_last_channel_len`` as it was fed, ``[B]``; ``None`` where that is not known.
        outputs: output ports as ``out/NAME``.
        drop: encoder frames of history that the step drops.
        last: whether it is the stream's last.
    """
    found: list[Violation] = []

    def broken(code: str, tensor: str, message: str) -> None:
        found.append(Violation(chunk, code, tensor, message))

    # Causal subsampling makes one frame of every 8 and one of what is left over; symmetric makes no more. Graphs may
    # round otherwise, by one.
    made = 1 + (frames - 1) // config.subsampling_factor - drop
    most = max(made, 0) + 1
    kept = most if last or config.valid_out_len <= 0 else min(most, config.valid_out_len)
    encoded = outputs[f"out/{LENGTH}"].reshape(-1)
    returned = outputs["out/outputs"].shape
    held = returned[-1] if len(returned) == len(ENCODER_OUTPUTS["outputs"].axes) else kept
    if encoded.min(initial=0) < 0 or encoded.max(initial=0) > min(held, kept):
        broken(
            "encoded-length",
            LENGTH,
            f"{LENGTH} is {encoded.tolist()}: {frames} feature frames give at most {kept} encoder frames, and the "
            f"output holds {held}",
        )
    after = outputs[f"out/{CACHE_LENGTH}"].reshape(-1)
    slots = config.last_channel_cache_size
    if after.min(initial=0) < 0 or after.max(initial=0) > slots:
        broken("cache-length", CACHE_LENGTH, f"{CACHE_LENGTH} is {after.tolist()}; the cache has {slots} slots")
    elif before is not None and before.size == after.size:
        grown = after.astype(np.int64) - before.reshape(-1).astype(np.int64)
        # A graph drops its history whatever the step asks for.
        least = min(0, made - max(config.drop_extra_pre_encoded - drop, 0) - config.cache_drop_size)
        if grown.min(initial=0) < least or grown.max(initial=0) > most:
            broken(
                "cache-length",
                CACHE_LENGTH,
                f"{CACHE_LENGTH} goes from {before.reshape(-1).tolist()} to {after.tolist()}: {frames} "
                f"feature frames add {max(0, made - config.cache_drop_size)} to {most}, up to {slots} slots",
            )
    counts = integer_tensors(outputs)
    for name, port in ENCODER_OUTPUTS.items():
        missing = _not_finite(name, port, outputs[f"out/{name}"], counts)
        if missing:
            broken("not-finite", name, f"{missing} values of {name} are not finite")
    return tuple(found)


def _not_finite(name: str, port: Port, array: Array, counts: Mapping[str, Array]) -> int:
    """How many values are NaN or infinite; of an output only what carries data, of a cache all: it is computed with."""
    if array.dtype.kind in "iub":
        return 0
    if array.ndim != len(port.axes):
        return 0  # another number of axes is the comparison's to report
    rule = port.valid if port.kind == "output" else None
    spec = TensorSpec(f"out/{name}", port.kind, str(array.dtype), port.axes, rule)
    regions = valid_regions(spec, array.shape, counts)
    return sum(int(np.count_nonzero(~np.isfinite(array[region]))) for region in regions)


def objections_to(broken: Sequence[Violation]) -> list[str]:
    """Why a run that broke invariants is no pass: one line for each of them, at the chunk where it was first broken."""
    first: dict[tuple[str, str], Violation] = {}
    for violation in broken:
        first.setdefault((violation.code, violation.tensor), violation)
    return [f"chunk {violation.chunk}: {violation.message}" for violation in first.values()]
