"""What taps, runners and dumps cost, on the shipped model and its longest recording.

    make bench                       # .venv/bin/python benchmarks/overhead.py [--rounds N] [--out FILE]

Prints one page of tables and writes the same page to ``benchmarks/overhead.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import onnxruntime
import torch

from nemo_stream import stream
from streamparity.cli.common import progress_bar
from streamparity.demo import demo_audio, demo_model, demo_recordings
from streamparity.dump import DumpReader, Manifest
from streamparity.export import ENCODER, export
from streamparity.provenance import versions
from streamparity.reference.audio import open_recording
from streamparity.reference.dumper import DumpOptions, dump
from streamparity.reference.features import FeatureStream
from streamparity.reference.nemo import LoadedModel, StreamingOptions, configure_streaming, decoder_of, load_model
from streamparity.reference.streamer import ReferenceStreamer
from streamparity.reference.taps import choose_taps
from streamparity.run import RunOptions, run
from streamparity.runners import RunnerOptions, StepInput
from streamparity.runners.ort import OrtRunner
from streamparity.schedule import chunks
from streamparity.tensors import CACHE_FEEDBACK, Array

CONTEXT = (70, 1)
ROUNDS = 9
PAGE = Path(__file__).with_name("overhead.md")
# `dump` reads no globs as "every block"; the least that it can tap is the features.
LEAST_TAPS = ("preprocessor",)

Program = Callable[[], float]  # one pass over the recording; returns seconds per chunk
Times = dict[str, list[float]]  # by program, the one that the others are compared with first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"passes per program (default {ROUNDS})")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default benchmarks/overhead.md)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    torch.set_num_threads(1)
    recording = demo_recordings()[-1]
    with demo_model() as model_path, demo_audio(recording) as audio, tempfile.TemporaryDirectory() as folder:
        page = bench(load_model(str(model_path)), audio, Path(folder), options.rounds)
    options.out.write_text(page, encoding="utf-8")
    print(page, end="")


def bench(model: LoadedModel, audio: Path, folder: Path, rounds: int) -> str:
    """Measure everything; the page.

    The export comes after all that runs on NeMo, because exporting leaves its marks on a model.
    """
    nemo = measure("NeMo's loop", nemo_programs(model, audio, folder), rounds)
    sizes = dump_sizes(model, audio, folder)
    configured = StreamingOptions(CONTEXT)
    reference_folder = folder / "reference"
    dump(model, audio, reference_folder, DumpOptions(configured))
    export(model, folder, configured)
    ort = measure("ONNX Runtime", ort_programs(DumpReader(reference_folder), folder / ENCODER), rounds)
    return page_of(nemo, ort, sizes, rounds)


def measure(title: str, programs: dict[str, Program], rounds: int) -> Times:
    """Run the programs in turn, round after round. The first round warms up and does not count."""
    times: Times = {name: [] for name in programs}
    with progress_bar(title) as progress:
        for turn in range(rounds + 1):
            for name, program in programs.items():
                seconds = program()
                if turn > 0:
                    times[name].append(seconds)
            progress(turn + 1, rounds + 1)
    return times


def clocked(stream: Callable[[], int]) -> Program:
    """A program that times ``stream``, which returns how many chunks it ran."""

    def program() -> float:
        started = perf_counter()
        chunk_count = stream()
        return (perf_counter() - started) / chunk_count

    return program


# ------------------------------------------------------------------------------------------------------------- NeMo
def nemo_programs(model: LoadedModel, audio: Path, folder: Path) -> dict[str, Program]:
    """From the sound file to the last label: NeMo alone, and with more and more of it recorded."""
    configure_streaming(model.module, StreamingOptions(CONTEXT))
    default_taps = choose_taps(model.module, ())
    return {
        "NeMo's loop, bare": clocked(partial(nemo_loop, model.module, audio)),
        "`ReferenceStreamer`, ports only": clocked(partial(reference_loop, model.module, audio, ([], []))),
        "`ReferenceStreamer`, default taps": clocked(partial(reference_loop, model.module, audio, default_taps)),
        "`dump`: default taps, written": clocked(partial(written_loop, model, audio, folder, count())),
    }


def nemo_loop(module: Any, audio: Path) -> int:
    """The padded loop of NeMo's own cache-aware streaming script."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(module, pad_and_drop_preencoded=True)
    buffer.append_audio_file(str(audio))
    stream(module, buffer)
    return int(buffer.step)


def reference_loop(module: Any, audio: Path, taps: tuple[list[str], list[str]]) -> int:
    """The same loop with ports and taps copied out of every step, and dropped."""
    config = configure_streaming(module, StreamingOptions(CONTEXT))
    features = FeatureStream(module, open_recording(audio, int(module.cfg.sample_rate)))
    streamer = ReferenceStreamer(module, decoder_of(module), *taps)
    plan = chunks(config, features.total_frames, "padded")
    return sum(1 for _ in streamer.run(features, plan))


def written_loop(model: LoadedModel, audio: Path, folder: Path, number: count[int]) -> int:
    """The whole of ``streamparity dump``, into a folder of its own each time."""
    return dump(model, audio, folder / f"timed-{next(number)}", DumpOptions(StreamingOptions(CONTEXT))).chunks


# ----------------------------------------------------------------------------------------------------- ONNX Runtime
def ort_programs(reference: DumpReader, encoder: Path) -> dict[str, Program]:
    """From features in memory to the last encoder frame; ``run`` reads the dump, decodes and compares as well."""
    first = reference.chunk(0)
    caches = {name: first[f"in/{name}"] for name in CACHE_FEEDBACK.values()}
    plan = chunks(reference.manifest.streaming, int(reference.manifest.audio["feature_frames"]), "padded")
    steps = [
        StepInput(tensors["in/audio_signal"], tensors["in/length"], chunk.drop, chunk.last)
        for chunk, tensors in zip(plan, reference, strict=True)
    ]
    taps = [spec.label for spec in reference.manifest.tensors if spec.kind == "tap"]
    session = bare_session(encoder)
    plain, tapped = (OrtRunner.open(encoder, RunnerOptions(taps=labels)) for labels in ([], taps))
    return {
        "`session.run`, bare": clocked(partial(session_loop, session, caches, steps)),
        "`run_with_iobinding`, bare": clocked(partial(binding_loop, session, caches, steps)),
        "`OrtRunner`, no taps": clocked(partial(runner_loop, plain, caches, steps)),
        "`OrtRunner`, default taps": clocked(partial(runner_loop, tapped, caches, steps)),
        "`run`: default taps, decoded, compared": partial(whole_run, reference, encoder),
    }


def bare_session(encoder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"])


def session_loop(session: onnxruntime.InferenceSession, caches: dict[str, Array], steps: Sequence[StepInput]) -> int:
    """What a plain script does: numpy in, numpy out, caches fed back."""
    names = [port.name for port in session.get_outputs()]
    for step in steps:
        feed = {"audio_signal": step.audio_signal, "length": step.length, **caches}
        outputs = dict(zip(names, session.run(names, feed), strict=True))
        caches = {taken: outputs[given] for given, taken in CACHE_FEEDBACK.items()}
    return len(steps)


def binding_loop(session: onnxruntime.InferenceSession, caches: dict[str, Array], steps: Sequence[StepInput]) -> int:
    """What a careful script does: the caches never leave ONNX Runtime, and nothing is turned into numpy."""
    names = [port.name for port in session.get_outputs()]
    binding = session.io_binding()
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in caches.items()}
    for step in steps:
        binding.bind_cpu_input("audio_signal", step.audio_signal)
        binding.bind_cpu_input("length", step.length)
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        binding.clear_binding_outputs()
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        outputs = dict(zip(names, binding.get_outputs(), strict=True))
        held = {taken: outputs[given] for given, taken in CACHE_FEEDBACK.items()}
    return len(steps)


def runner_loop(runner: OrtRunner, caches: dict[str, Array], steps: Sequence[StepInput]) -> int:
    runner.set_caches(caches)
    for step in steps:
        runner.step(step)
    return len(steps)


def whole_run(reference: DumpReader, encoder: Path) -> float:
    """Seconds per chunk of ``streamparity run``, from the end of the first chunk: loading is not counted."""
    done: list[float] = []
    run(reference, RunOptions(backend="ort", model=encoder), progress=lambda *_: done.append(perf_counter()))
    return (perf_counter() - done[0]) / (len(done) - 1)


# ------------------------------------------------------------------------------------------------------------- dumps
@dataclass(frozen=True)
class DumpSize:
    """Bytes of one dump: its chunk files, and everything in its folder."""

    manifest: Manifest
    chunk_files: int
    folder: int

    @classmethod
    def of(cls, folder: Path) -> DumpSize:
        sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        chunk_files = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
        return cls(DumpReader(folder).manifest, chunk_files, sum(sizes.values()))

    @property
    def per_chunk(self) -> float:
        return self.chunk_files / self.manifest.chunks

    @property
    def per_second(self) -> float:
        return self.folder / float(self.manifest.audio["seconds"])


def dump_sizes(model: LoadedModel, audio: Path, folder: Path) -> list[tuple[DumpSize, DumpSize]]:
    """At each attention context that the model was trained for: the default taps, and the least."""
    contexts = [tuple(context) for context in model.module.encoder.att_context_size_all]

    def size(context: tuple[int, ...], taps: Sequence[str]) -> DumpSize:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            dump(model, audio, Path(out), DumpOptions(StreamingOptions(context), taps=taps))
            return DumpSize.of(Path(out))

    return [(size(context, ()), size(context, LEAST_TAPS)) for context in contexts]


# ------------------------------------------------------------------------------------------------------------- page
def page_of(nemo: Times, ort: Times, sizes: Sequence[tuple[DumpSize, DumpSize]], rounds: int) -> str:
    manifest = next(full.manifest for full, _ in sizes if full.manifest.streaming.att_context_size == CONTEXT)
    seconds = manifest.audio["seconds"]
    chunk_ms = 1000 * seconds / manifest.chunks
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""# Overhead

Written by `make bench`; what is measured and how is in [README.md](README.md).

{manifest.model["id"]} at {list(CONTEXT)}, {seconds:.1f} s of speech in {manifest.chunks} chunks (one every \
{chunk_ms:.0f} ms), one thread.
{rounds} rounds; every figure is the median (least–most). {platform.machine()}, {cores} cores; {installed}.

## NeMo's streaming loop

{timing_table(nemo)}

## ONNX Runtime

{timing_table(ort)}

## Bytes of a dump

{size_table(sizes)}
"""


def timing_table(times: Times) -> str:
    """Milliseconds per chunk, and the ratio to the first program of the same round."""
    baseline = next(iter(times.values()))
    rows = []
    for name, seconds in times.items():
        ratios = [own / bare for own, bare in zip(seconds, baseline, strict=True)]
        rows.append([name, spread([1000 * value for value in seconds]), spread(ratios)])
    rows[0][-1] = "1"
    return table(["", "ms per chunk", "times bare"], rows)


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def size_table(sizes: Sequence[tuple[DumpSize, DumpSize]]) -> str:
    headings = ["context", "chunks", "default taps, per chunk", "per second"]
    headings += [f"`--taps {' '.join(LEAST_TAPS)}`, per chunk", "per second"]
    rows = [
        [
            str(list(full.manifest.streaming.att_context_size)),
            str(full.manifest.chunks),
            *(f"{figure:,.0f}" for size in (full, least) for figure in (size.per_chunk, size.per_second)),
        ]
        for full, least in sizes
    ]
    return table(headings, rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is as readable on a terminal; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    sides = "<" + ">" * (len(widths) - 1)

    def line(cells: Sequence[str]) -> str:
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + ("-" if side == "<" else ":") for side, width in zip(sides, widths, strict=True)]
    return "\n".join([line(headings), line(rule), *map(line, rows)])


if __name__ == "__main__":
    main()
