"""Which samples a run of feature frames needs: what live audio must bring before a chunk can run.

The rules are those of NeMo's ``FilterbankFeatures`` without ``exact_pad``: frame ``i`` is centred on sample
``i * hop``, the recording is continued with zeros on both sides, pre-emphasis looks one sample back, and the last frame
of whatever is given, number ``samples // hop``, is blanked.
"""

from __future__ import annotations

from dataclasses import dataclass

# Values of the preprocessor's `normalize` that need the whole utterance, which a live stream does not have.
WHOLE_UTTERANCE = ("per_feature", "all_features")


@dataclass(frozen=True)
class AudioPiece:
    """Samples from which NeMo's preprocessor makes certain feature frames, as it does from the whole recording.

    Given samples ``[start, stop)``, its first ``skip`` frames are to be thrown away and the next ``frames`` kept: the
    skipped ones have seen the piece's edge.
    """

    start: int
    stop: int
    skip: int
    frames: int

    @property
    def samples(self) -> int:
        """How many samples."""
        return self.stop - self.start


@dataclass(frozen=True)
class FrameGrid:
    """Where feature frames lie in the audio.

    Attributes:
        sample_rate: samples per second.
        hop: samples from one frame to the next.
        window: samples that a frame sees, pre-emphasis apart.
    """

    sample_rate: int
    hop: int
    window: int

    @property
    def reach(self) -> int:
        """Samples that must follow a frame's centre before the preprocessor gives it, neither cut nor blanked."""
        return max(self._half, self.hop)

    @property
    def _half(self) -> int:
        return (self.window + 1) // 2

    def frames(self, samples: int) -> int:
        """Feature frames of a recording, its last, blanked frame included, as NeMo's streaming buffer counts."""
        return samples // self.hop + 1

    def piece(self, first: int, stop: int, samples: int | None = None) -> AudioPiece:
        """The samples that frames ``[first, stop)`` need.

        Args:
            first: the first frame.
            stop: the frame after the last.
            samples: length of the recording, ``None`` while it goes on.
        """
        margin = -(-(self._half + 1) // self.hop)
        skip = min(first, margin)
        end = (stop - 1) * self.hop + self.reach
        return AudioPiece(
            start=(first - skip) * self.hop,
            stop=end if samples is None else min(end, samples),
            skip=skip,
            frames=stop - first,
        )

    def milliseconds(self, samples: int) -> float:
        """Duration of so many samples."""
        return samples * 1000 / self.sample_rate
