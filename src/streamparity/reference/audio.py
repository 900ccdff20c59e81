"""A recording as a stream of samples at the model's rate, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import StreamparityError
from ..tensors import Array

BLOCK_SECONDS = 4


@dataclass(frozen=True)
class Recording:
    """A mono recording, resampled on the fly where its file has another rate.

    Attributes:
        path: the sound file.
        sample_rate: rate of the samples handed out, in Hz.
        samples: how many there are.
        sha256: hash of the float32 samples handed out.
        notes: what was changed on the way in (downmixing, resampling), one line each.
    """

    path: Path
    sample_rate: int
    samples: int
    sha256: str
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples / self.sample_rate

    def blocks(self) -> Iterator[Array]:
        """Float32 samples ``[N]`` from the beginning, a few seconds at a time."""
        return _blocks(self.path, self.sample_rate)


def open_recording(path: Path, sample_rate: int) -> Recording:
    """Read a sound file once: check it, hash it, count it.

    Several channels are averaged; another sample rate is converted by soxr (very high quality).

    Raises:
        StreamparityError: missing, not audio, empty, or with samples that are not finite.
    """
    import soundfile

    if path.is_dir():
        raise StreamparityError(f"{path} is a folder", "give a sound file, such as a 16 kHz WAV")
    if not path.is_file():
        raise StreamparityError(f"{path} does not exist", "give a sound file, such as a 16 kHz WAV")
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a suffix that it takes for headerless
        raise StreamparityError(f"{path} is not a readable sound file: {error}", "convert it to WAV") from None
    notes = []
    if _cut_short(path):
        notes.append(f"{path.name}: its header promises more audio than the file holds; what is there is used")
    if info.channels > 1:
        notes.append(f"{path.name}: {info.channels} channels averaged to one")
    if info.samplerate != sample_rate:
        notes.append(f"{path.name}: resampled from {info.samplerate} to {sample_rate} Hz (soxr VHQ)")
    digest, samples = hashlib.sha256(), 0
    for block in _readable(path, sample_rate):
        if not np.isfinite(block).all():
            raise StreamparityError(
                f"{path} has samples that are NaN or infinite, near {samples / sample_rate:.2f} s",
                "repair the recording; a model fed NaN answers NaN",
            )
        digest.update(block.tobytes())
        samples += block.size
    if samples == 0:
        raise StreamparityError(f"{path} holds no samples", "give a recording that is not empty")
    return Recording(path, sample_rate, samples, digest.hexdigest(), tuple(notes))


def _cut_short(path: Path) -> bool:
    """Whether a WAV file is shorter than its RIFF header says; a header written to a pipe says nothing true."""
    with open(path, "rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and path.stat().st_size < size + 8 < 0x7FFFF000


def _readable(path: Path, sample_rate: int) -> Iterator[Array]:
    """The blocks of a file that may turn out to be damaged half way through."""
    import soundfile

    try:
        yield from _blocks(path, sample_rate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise StreamparityError(f"{path} is truncated or damaged: {error}", "copy it again, or convert it") from None


def _blocks(path: Path, sample_rate: int) -> Iterator[Array]:
    import soundfile
    import soxr

    with soundfile.SoundFile(str(path)) as file:
        resampler = None
        if file.samplerate != sample_rate:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="VHQ")
        size = BLOCK_SECONDS * file.samplerate
        while True:
            block = file.read(size, dtype="float32", always_2d=True)
            mono = np.ascontiguousarray(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
            final = len(block) < size
            if resampler is not None:
                mono = resampler.resample_chunk(mono, last=final)
            if mono.size:
                yield mono
            if final:
                return


class SampleWindow:
    """Random access to a recording that mostly moves forward; keeps only what may still be asked for."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._rewind()

    def _rewind(self) -> None:
        self._blocks = self._recording.blocks()
        self._start = 0
        self._held: Array = np.zeros(0, np.float32)

    def read(self, start: int, stop: int) -> Array:
        """Samples ``[start, stop)``, cut at the recording's end. Asking for what is gone starts from the beginning."""
        if start < self._start:
            self._rewind()
        while self._start + self._held.size < stop:
            block = next(self._blocks, None)
            if block is None:
                break
            keep = max(0, min(start - self._start, self._held.size))
            self._start += keep
            self._held = np.concatenate([self._held[keep:], block])
        return self._held[max(0, start - self._start) : max(0, stop - self._start)]
