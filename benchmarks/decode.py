"""Decode steps per second: the greedy decoder beside NeMo's own loop, on the same encoder outputs.

    make bench-decode                # .venv/bin/python benchmarks/decode.py [--rounds N] [--out FILE]

Prints a table and writes it to ``benchmarks/decode.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from demo_model.variants import STREAMING, save_variant
from overhead import measure, spread, table
from streamparity.decisions.sides import recorded
from streamparity.decode import GreedyDecoder
from streamparity.demo import demo_audio, demo_model, demo_recordings
from streamparity.dump import Decoder, DumpReader
from streamparity.export import export
from streamparity.provenance import versions
from streamparity.reference.dumper import DumpOptions, dump
from streamparity.reference.nemo import StreamingOptions, load_model
from streamparity.runners import RunnerOptions
from streamparity.runners.ort import OrtRunner
from streamparity.runners.torch_decoder import TorchTransducer
from streamparity.tensors import Array

ROUNDS = 9
PAGE = Path(__file__).with_name("decode.md")
NEMO = "NeMo `greedy_batch`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"passes per program (default {ROUNDS})")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default benchmarks/decode.md)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, demo_model() as demo, demo_audio(demo_recordings()[-1]) as audio:
        tdt = Path(folder) / "tdt.nemo"
        save_variant("tdt", tdt)
        models = {
            "RNN-T (shipped model)": (demo, {"att_context": (70, 1)}),
            "TDT (random weights)": (tdt, STREAMING["tdt"]),
        }
        sections = [
            section(name, path, StreamingOptions(**streaming), audio, Path(folder) / path.stem, options.rounds)
            for name, (path, streaming) in models.items()
        ]
    page = page_of(sections, options.rounds)
    options.out.write_text(page, encoding="utf-8")
    print(page, end="")


def section(name: str, path: Path, streaming: StreamingOptions, audio: Path, folder: Path, rounds: int) -> str:
    """Decode one model's encoder outputs, chunk by chunk, in every way."""
    model = load_model(str(path))
    dump(model, audio, folder / "reference", DumpOptions(streaming, taps=["joint"]))
    reference = DumpReader(folder / "reference")
    rules = reference.manifest.decoder
    assert rules is not None
    known = recorded(reference, rules)
    steps = len(known.trace.steps)
    nemo = nemo_loop(load_model(str(path)).module, known.frames)
    assert nemo() == list(reference.manifest.tokens or ())
    export(model, folder / "export", streaming)
    ort = OrtRunner.open(folder / "export", RunnerOptions()).transducer
    ours = TorchTransducer(load_model(str(path)).module, torch.float32)
    loops: dict[str, Callable[[], list[int]]] = {
        NEMO: nemo,
        "`GreedyDecoder` on PyTorch": partial(greedy, ours, rules, known.frames),
        "`GreedyDecoder` on ONNX Runtime, `decoder_joint`": partial(greedy, ort, rules, known.frames),
    }
    expected = nemo()
    for title, loop in loops.items():
        assert loop() == expected, title
    times = measure(name, {title: partial(seconds_per_step, loop, steps) for title, loop in loops.items()}, rounds)
    rows = []
    for title, seconds in times.items():
        ratios = [bare / own for own, bare in zip(seconds, times[NEMO], strict=True)]
        rows.append([title, spread([1 / value for value in seconds]), spread(ratios) if title != NEMO else "1"])
    heading = f"## {name}\n\n{steps} steps, {len(expected)} labels, {len(known.frames)} chunks.\n\n"
    return heading + table(["", "steps per second", "times NeMo"], rows)


def nemo_loop(module: Any, frames: Sequence[Array]) -> Callable[[], list[int]]:
    """NeMo's label looping over the chunks, as its streaming step calls it, without CUDA graphs."""
    module.decoding.decoding.disable_cuda_graphs()
    encoded = [(torch.from_numpy(chunk.T.copy())[None], torch.tensor([len(chunk)])) for chunk in frames]

    def run() -> list[int]:
        hypotheses = None
        with torch.inference_mode():
            for output, length in encoded:
                hypotheses = module.decoding.rnnt_decoder_predictions_tensor(
                    encoder_output=output,
                    encoded_lengths=length,
                    return_hypotheses=True,
                    partial_hypotheses=hypotheses,
                )
        return [int(label) for label in hypotheses[0].y_sequence]

    return run


def greedy(transducer: Any, rules: Decoder, frames: Sequence[Array]) -> list[int]:
    """The greedy decoder, trace lines and all."""
    decoder = GreedyDecoder(transducer, rules)
    return [label for chunk in frames for label in decoder.chunk(chunk).labels]


def seconds_per_step(loop: Callable[[], list[int]], steps: int) -> float:
    started = perf_counter()
    loop()
    return (perf_counter() - started) / steps


def page_of(sections: Sequence[str], rounds: int) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    body = "\n\n".join(sections)
    return f"""# Greedy decoding

Written by `make bench-decode`; what is measured and how is in [README.md](README.md).

The longest shipped recording, batch size 1, one thread, chunk by chunk. A step is one evaluation of the joint.
{rounds} rounds, the programs taking turns; every figure is the median (least–most), and a ratio is between passes of \
the same round. {platform.machine()}, {cores} cores; {installed}.

{body}
"""


if __name__ == "__main__":
    main()
