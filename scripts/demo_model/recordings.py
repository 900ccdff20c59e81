"""The recordings that ship with the package: held-out voices, no digit repeated, heard right in every mode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import soundfile

from streamparity.reference.nemo import LoadedModel

from .evaluation import HeldOut, held_out, transcribe
from .model import ATT_CONTEXTS
from .speech import SAMPLE_RATE

# name: (digits, seconds) that a recording may have
WANTED = {
    "short": ((5, 8), (3.5, 6.0)),
    "medium": ((12, 18), (8.0, 12.0)),
    "long": ((26, 36), (19.0, 20.5)),
}
CANDIDATES = 40


@dataclass(frozen=True)
class Chosen:
    """A recording and how many suitable candidates were passed over for being misheard."""

    name: str
    recording: HeldOut
    misheard: int

    @property
    def seconds(self) -> float:
        return self.recording.samples.size / SAMPLE_RATE


def choose(model: LoadedModel, seed: int) -> list[Chosen]:
    """The first recording of each length that streaming transcribes right in every attention context."""
    chosen = []
    for offset, (name, (digits, seconds)) in enumerate(WANTED.items()):
        candidates = held_out(seed + offset, CANDIDATES, digits, repeats=False)
        fitting = [c for c in candidates if seconds[0] <= c.samples.size / SAMPLE_RATE <= seconds[1]]
        for misheard, candidate in enumerate(fitting):
            if all(transcribe(model, candidate.samples, context) == candidate.text for context in ATT_CONTEXTS):
                chosen.append(Chosen(name, candidate, misheard))
                break
        else:
            raise SystemExit(f"none of {len(fitting)} {name} candidates was heard right: train longer")
    return chosen


def write(chosen: list[Chosen], folder: Path) -> None:
    """Write the WAV files and ``recordings.json``, shortest first."""
    listed = []
    for item in chosen:
        file = f"{item.name}.wav"
        soundfile.write(folder / file, item.recording.samples, SAMPLE_RATE, subtype="PCM_16")
        seconds = round(item.seconds, 2)
        listed.append({"file": file, "text": item.recording.text, "voice": item.recording.voice, "seconds": seconds})
    (folder / "recordings.json").write_text(json.dumps(listed, indent=1) + "\n")
