"""``run --find-fp32-layers``: the search of :mod:`.fp32_search`, with a run as its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .dump import DumpReader
from .fp32_search import Needed, find_needed, groups_of, with_needed
from .progress import Note, Progress, no_note, no_progress
from .run import RunOptions, run
from .runners import backend


def find_fp32_layers(
    reference: DumpReader, options: RunOptions, progress: Progress = no_progress, note: Note = no_note
) -> dict[str, Any]:
    """Run a model in reduced precision; where it fails, build it with more and more layers in float32 until it passes.

    The taps of the dump are what layers are divided by. They are not compared, unless the model returns them: a model
    without them is what is to pass.

    Args:
        reference: the dump.
        options: as for :func:`run`.
        progress: of the first run, then models judged.
        note: called with lines the user should see.

    Returns:
        The result of the model as it is, with the key ``fp32_layers``.

    Raises:
        StreamparityError: the backend cannot build its models anew, or the model fails in float32 too.
    """
    options = replace(options, allow_unmatched=(*options.allow_unmatched, "*"))
    runner_class = backend(options.backend)
    layers = runner_class.layers(options.model)  # says that there is nothing to search before anything long is done
    result = run(reference, options, progress, note)
    if result["verdict"] == "pass":
        return with_needed(result, Needed((), (), 1))
    groups = groups_of(layers, [spec.label for spec in reference.manifest.tensors if spec.kind == "tap"])
    bare = replace(options, save=None, localize=False, repro=None)
    with TemporaryDirectory(prefix="streamparity-") as scratch:

        def passes(pins: Sequence[str]) -> bool:
            if not pins:
                return False  # as it is, which was judged already
            model = runner_class.pinned(options.model, pins, Path(scratch))
            return bool(run(reference, replace(bare, model=model))["verdict"] == "pass")

        needed = find_needed(groups, passes, progress)
    return with_needed(result, needed)
