"""What a candidate is held against: the dump, or float64 values of the same loop for coarser than float32."""

from __future__ import annotations

from collections.abc import Mapping

from ..dump import DumpReader
from ..tensors import Array
from .noise import is_coarse


class Against:
    """The reference's tensors as a candidate of some arithmetic is compared with them.

    Args:
        reference: the dump.
        arithmetic: what the candidate computes in, where it says.

    Attributes:
        name: ``float64`` or ``float32``.
        notes: lines that the user should see.
    """

    def __init__(self, reference: DumpReader, arithmetic: str | None) -> None:
        self._reference = reference
        floor = reference.noise_floor() if is_coarse(arithmetic) else None
        self._float64 = floor is not None and reference.has_float64
        self.name = "float64" if self._float64 else "float32"
        self.notes: list[str] = []
        if floor is not None and not self._float64:
            self.notes.append(
                f"the dump keeps no float64 values: the {arithmetic} candidate is held against its float32 ones "
                "(dump again with --noise-floor)"
            )

    def chunk(self, index: int, dump: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Tensors of one chunk: float64 ones where they are kept, else the dump's.

        Args:
            index: the chunk.
            dump: the dump's tensors of it, where they are at hand.

        Raises:
            StreamparityError: a file is missing or damaged.
        """
        held = dict(self._reference.chunk(index) if dump is None else dump)
        if self._float64:
            true = self._reference.float64_chunk(index)
            # Lengths are the dump's: they say what is valid, and a tensor of other extents is of no use.
            held |= {n: a for n, a in true.items() if n in held and a.dtype.kind == "f" and a.shape == held[n].shape}
        return held
