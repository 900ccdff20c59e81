"""Files that belong to an encoder's."""

from __future__ import annotations

from pathlib import Path


def beside(encoder: Path, *stems: str) -> Path | None:
    """``STEM.onnx`` beside ``encoder.onnx``, or ``STEM-NAME.onnx`` beside ``encoder-NAME.onnx``; the first there is."""
    if "encoder" not in encoder.name:
        return None
    paths = [encoder.with_name(encoder.name.replace("encoder", stem, 1)) for stem in stems]
    return next((path for path in paths if path.is_file()), None)
