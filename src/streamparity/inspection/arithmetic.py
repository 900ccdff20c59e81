"""What a graph does with lengths: how many frames it computes, keeps and remembers, found by asking it.

``encoded_lengths`` and ``cache_last_channel_next_len`` need hardly more of a graph than its subsampling, so the part
that computes them runs in no time however large the model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StepFailed
from ..graph.onnx_weights import Constants
from .sessions import Session, zeros
from .subject import EncoderSubject

USUAL_FACTOR = 8  # feature frames per encoder frame, of every model seen
ENDLESS = 1_000_000  # longer than any cache or chunk
SEARCHED = 512  # feature frames within which an encoder frame must come out
SPAN = 64  # feature frames over which the subsampling factor is measured


@dataclass(frozen=True)
class Baked:
    """Streaming parameters that are constants of a graph; ``None`` where they cannot be told.

    Attributes:
        slots: largest value that the cache length takes: extent C of ``cache_last_channel``.
        valid_out: encoder frames kept per chunk.
        drop: encoder frames dropped in front of each chunk.
        cache_drop: newest encoder frames that do not enter the caches.
        factor: feature frames per encoder frame.
    """

    slots: int | None
    valid_out: int | None
    drop: int | None
    cache_drop: int | None
    factor: int | None

    @property
    def computed(self) -> int | None:
        """Encoder frames that a chunk of the graph's own size computes after the drop."""
        if self.valid_out is None or self.cache_drop is None:
            return None
        return self.valid_out + self.cache_drop

    def chunk_frames(self) -> int:
        """Feature frames of a padded chunk of the graph's own size: history, then what makes the frames it keeps."""
        factor = self.factor or USUAL_FACTOR
        return factor + 1 + factor * (self.computed or 2)


class Arithmetic:
    """A graph's rules for lengths.

    Args:
        subject: the encoder.

    Raises:
        BackendMissing: onnxruntime is not installed.
        StreamparityError: ONNX Runtime refuses the part.
    """

    def __init__(self, subject: EncoderSubject) -> None:
        self._subject = subject
        self._fixed_frames = subject.extent("audio_signal", 2)
        self._encoded = Session(subject, [subject.outputs["encoded_lengths"]], part=True)
        self._next = Session(subject, [subject.outputs["cache_last_channel_next_len"]], part=True)

    def encoded(self, length: int, frames: int | None = None) -> int:
        """``encoded_lengths`` of a chunk with so many valid feature frames."""
        given = self._given(frames or max(length, 1))
        given["length"] = np.full_like(given["length"], length)
        return _number(self._encoded.run(given))

    def remembered(self, frames: int, before: int) -> int:
        """``cache_last_channel_next_len`` after a chunk of ``frames``, from a cache length before it."""
        given = self._given(frames)
        given["cache_last_channel_len"] = np.full_like(given["cache_last_channel_len"], before)
        return _number(self._next.run(given))

    def baked(self) -> Baked:
        """Find the constants; what the graph cannot be asked stays ``None``."""
        usual = self._fixed_frames or SPAN
        most = self._try(lambda: self.encoded(ENDLESS, usual))
        slots = self._try(lambda: self.remembered(usual, ENDLESS))
        first = self._try(self._first_length)
        keeps = self._try(lambda: self._grows_by(first or 1))
        further = self._try(lambda: self._grows_by((first or 1) + SPAN))
        moved = None if keeps is None or further is None else further - keeps
        return Baked(
            slots=None if slots is None or not 0 <= slots < ENDLESS else slots,
            # Without a limit the frames of a chunk that long come out, all of them.
            valid_out=None if most is None or not 0 < most < ENDLESS // 100 else most,
            drop=baked_drop(self._subject),
            cache_drop=None if keeps is None or first is None or keeps > 1 else 1 - keeps,
            factor=SPAN // moved if moved and SPAN % moved == 0 else None,
        )

    def _first_length(self) -> int:
        """Fewest valid feature frames, at least one, of which an encoder frame comes out."""
        for length in range(1, SEARCHED):
            if self.encoded(length) >= 1:
                return length
        raise StepFailed("no length makes an encoder frame")

    def _grows_by(self, frames: int) -> int:
        """By how much the cache length grows; asked below zero, where the size of the cache does not end it."""
        if self._fixed_frames not in (None, frames):
            raise StepFailed("the chunk has a fixed size")
        grown = self.remembered(frames, -ENDLESS) + ENDLESS
        return grown if grown < ENDLESS else self.remembered(frames, 0)

    def _given(self, frames: int) -> dict[str, Any]:
        slots = self._subject.extent("cache_last_channel", 2) or 1
        return zeros(self._subject, self._fixed_frames or frames, slots, 1)

    @staticmethod
    def _try(ask: Any) -> int | None:
        try:
            return int(ask())
        except StepFailed:
            return None


def baked_drop(subject: EncoderSubject) -> int | None:
    """``drop_extra_pre_encoded`` of a graph: what is subtracted last on the way to ``encoded_lengths``.

    Without a drop the way ends at the subsampling's own arithmetic, which divides and adds.
    """
    constants, producers = Constants(subject.graph.proto, subject.graph.path.parent), subject.flow.producers
    name = subject.outputs["encoded_lengths"]
    for _ in range(32):
        node = producers.get(name)
        if node is None:
            return None
        if node.op_type in ("Sub", "Add"):
            values = [constants.value(part) for part in node.input]
            value = values[1] if values[1] is not None else values[0]
            if value is None or value.size != 1:
                return None
            number = int(value.reshape(-1)[0])
            number = number if node.op_type == "Sub" else -number
            return max(number, 0)
        if node.op_type in ("Div", "Floor", "Mul"):
            return 0
        name = next((part for part in node.input if part and constants.value(part) is None), "")
    return None


def _number(returned: list[Any]) -> int:
    return int(np.asarray(returned[0]).reshape(-1)[0])
