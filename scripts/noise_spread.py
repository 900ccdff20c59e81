"""How far harmless ways of running an export are from the noise floor: prints a page of Markdown."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from streamparity.comparison.noise import MARGIN
from streamparity.demo import demo_audio, demo_model, demo_recordings
from streamparity.dump import DumpReader
from streamparity.export import export
from streamparity.reference.dumper import DumpOptions, dump
from streamparity.reference.nemo import StreamingOptions, load_model
from streamparity.run import RunOptions, run

HEAD = """# Harmless errors beside the noise floor

Made by `python scripts/noise_spread.py`: every attention context of the shipped model, every shipped recording, every
optimisation level of ONNX Runtime, one thread and two. A ratio is a tensor's largest error over a run, divided by the
floor that the dump measured for it; `MARGIN` (`src/streamparity/comparison/noise.py`) must leave room for the largest.
"""
CONTEXTS = ((70, 13), (70, 6), (70, 1), (70, 0))
LEVELS = ("disable", "basic", "all")
THREADS = ("1", "2")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with demo_model() as path:
        loaded = load_model(str(path))
    print(HEAD)
    print("| context | recording | optimization | threads | median ratio | largest ratio | tensor |")
    print("|---|---|---|---|---|---|---|")
    every = []
    with TemporaryDirectory() as scratch:
        for context in CONTEXTS:
            streaming, graphs = StreamingOptions(context), Path(scratch, f"export-{context[1]}")
            export(loaded, graphs, streaming)
            for number, recording in enumerate(demo_recordings()):
                reference = Path(scratch, f"reference-{context[1]}-{number}")
                with demo_audio(recording) as audio:
                    dump(loaded, audio, reference, DumpOptions(streaming, noise_floor=True))
                for level in LEVELS:
                    for threads in THREADS:
                        settings = {"optimization": level, "threads": threads}
                        result = run(DumpReader(reference), RunOptions("ort", graphs, settings=settings))
                        tensors = result["noise"]["tensors"]
                        ratios = {name: figures["ratio"] for name, figures in tensors.items() if figures["ratio"]}
                        worst = max(ratios, key=ratios.__getitem__)
                        every += ratios.values()
                        figures = f"{np.median([*ratios.values()]):.2f} | {ratios[worst]:.2f} | {worst}"
                        print(f"| {list(context)} | {Path(audio).name} | {level} | {threads} | {figures} |")
    share = np.percentile(every, [50, 99, 100])
    spread = f"median {share[0]:.2f}, 99 % below {share[1]:.2f}, largest {share[2]:.2f}"
    print(f"\n{len(every)} ratios: {spread}; the margin is {MARGIN:g}.")


if __name__ == "__main__":
    main()
