"""Take a full-size random-weight model through every command, and write down what it costs: docs/scale.md.

    .venv/bin/python scripts/full_size.py --out /tmp/full-size

Every step is a process of its own, as a user would start it; its peak memory and processor time are what the system
counted for it. Needs 8 GB of memory and of disk; the big files are removed at the end unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamparity.provenance import versions

REPO = Path(__file__).resolve().parent.parent
BIG = ("model.nemo", "export", "reference")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Step:
    """What one command took.

    Attributes:
        command: as it was run, with ``$OUT`` for the folder.
        code: exit code.
        seconds: from start to end.
        cpu_seconds: processor time, all threads.
        peak_mb: largest resident memory; never less than this script's own, which a child begins with.
        output: what it printed.
    """

    command: str
    code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


def measured(arguments: list[str], folder: Path, shown: str) -> Step:
    """Run a command to its end, its output into a file, and ask the system what it used."""
    log = folder / "log.txt"
    started = time.monotonic()
    with open(log, "wb") as file:
        pid = os.posix_spawn(
            arguments[0],
            arguments,
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - started
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MEGABYTE
    code = os.waitstatus_to_exitcode(status)
    step = Step(shown, code, seconds, usage.ru_utime + usage.ru_stime, peak, log.read_text(errors="replace"))
    print(f"{shown}\n  exit {code}, {seconds:.1f} s, peak {peak:.0f} MB", flush=True)
    return step


def commands(name: str, context: str, layers: int | None) -> list[list[str]]:
    """The commands, in order; ``$OUT`` stands for the folder."""
    depth = "" if layers is None else f" --layers {layers}"
    streamed = f"--att-context {context} --force"
    lines = [
        f"scripts/make_model.py {name} --out $OUT/model.nemo --force{depth}",
        "streamparity inspect $OUT/model.nemo",
        f"streamparity export $OUT/model.nemo --out $OUT/export {streamed}",
        "streamparity inspect $OUT/export --json $OUT/inspect.json",
        "streamparity contract check $OUT/export/contract.json $OUT/export",
        f"streamparity dump $OUT/model.nemo --audio $OUT/speech.wav --out $OUT/reference {streamed}",
        "streamparity run --backend ort --model $OUT/export --reference $OUT/reference --json $OUT/ort.json",
        "streamparity run --backend torch --model $OUT/model.nemo --reference $OUT/reference --json $OUT/torch.json",
    ]
    return [line.split() for line in lines]


def speech(target: Path, seconds: float) -> None:
    """The beginning of a shipped recording."""
    import soundfile

    from streamparity.demo import demo_audio, demo_recordings

    with demo_audio(demo_recordings()[1]) as audio:
        samples, rate = soundfile.read(audio, dtype="float32")
    soundfile.write(target, samples[: int(seconds * rate)], rate)


def run_all(folder: Path, name: str, context: str, layers: int | None) -> list[Step]:
    """Every command until one fails."""
    steps = []
    for words in commands(name, context, layers):
        placed = [word.replace("$OUT", str(folder)) for word in words]
        if words[0] == "streamparity":
            arguments = [sys.executable, "-m", "streamparity.cli", *placed[1:]]
        else:
            arguments = [sys.executable, str(REPO / placed[0]), *placed[1:]]
        steps.append(measured(arguments, folder, " ".join(words)))
        if steps[-1].code:
            print(steps[-1].output)
            break
    return steps


def page(steps: list[Step], folder: Path, name: str, context: str, seconds: float, command: str) -> str:
    """``docs/scale.md``."""
    found: dict[str, Any] = {
        backend: json.loads((folder / f"{backend}.json").read_text()) for backend in ("ort", "torch")
    }
    inspected = json.loads((folder / "inspect.json").read_text())
    threads = {backend: result["provenance"]["threads"] for backend, result in found.items()}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sizes = {path: size_of(folder / path) for path in (*BIG, "export/encoder.onnx", "export/encoder.onnx.data")}
    lines = [
        "# At full size",
        "",
        f"`{name}` with random weights, attention context [{context.replace(',', ', ')}], {seconds:g} s of speech in "
        f"{found['ort']['chunks']['total']} chunks. Made by",
        "",
        f"    {command}",
        "",
        f"on {os.cpu_count()} cores ({platform.machine()}) with {total_memory_gb():.0f} GB of memory, load average "
        f"{load} at the end; " + ", ".join(f"{key} {value}" for key, value in versions().items()) + ". Each command is "
        "a process of its own; peak memory and processor time are the system's own count for it (`wait4`). A load "
        "average above one says that other work ran beside it: an idle machine takes less time.",
        "",
        "| command | exit | seconds | processor seconds | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{step.command}` | {step.code} | {step.seconds:.1f} | {step.cpu_seconds:.1f} | {step.peak_mb:.0f} |"
        for step in steps
    ]
    said = steps[0].output.replace(str(folder), "$OUT").strip().splitlines()
    lines += ["", "`make_model.py` says:", "", *(f"    {line}" for line in said), ""]
    lines += [
        "| backend | ms per chunk, median | 95 % | threads | verdict | chunks passed |",
        "|---|---|---|---|---|---|",
    ]
    for backend, result in found.items():
        timing, chunks = result["timing"]["step_ms"], result["chunks"]
        lines.append(
            f"| {backend} | {timing['p50']:.0f} | {timing['p95']:.0f} | {threads[backend]} | {result['verdict']} | "
            f"{chunks['passed']} of {chunks['total']} |"
        )
    worst = max((t for t in found["ort"]["tensors"] if t["max_abs"] is not None), key=lambda tensor: tensor["max_abs"])
    lines += [
        "",
        f"Largest difference of ONNX Runtime from PyTorch in any tensor: {worst['max_abs']:.1e} in `{worst['name']}`.",
        f"`inspect` on the export: {', '.join(f['code'] for f in inspected['findings']) or 'no findings'}.",
        "",
        "| on disk | MB |",
        "|---|---|",
        *(f"| `{path}` | {size / MEGABYTE:.0f} |" for path, size in sizes.items()),
        "",
    ]
    return "\n".join(lines)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def total_memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what the commands write")
    parser.add_argument("--name", default="nemotron-speech-streaming-en-0.6b", help="a model of make_model.py")
    parser.add_argument("--att-context", default="70,1")
    parser.add_argument("--seconds", type=float, default=3.0, help="how much speech")
    parser.add_argument("--layers", type=int, help="fewer encoder layers, to try this script out")
    parser.add_argument("--page", type=Path, default=REPO / "docs" / "scale.md", help="the page to write")
    parser.add_argument("--keep", action="store_true", help="keep model, export and dump")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    speech(options.out / "speech.wav", options.seconds)
    steps = run_all(options.out, options.name, options.att_context, options.layers)
    finished = len(steps) == len(commands(options.name, options.att_context, options.layers))
    if finished and not steps[-1].code:
        command = " ".join(["python", "scripts/full_size.py", *sys.argv[1:]]).replace(str(options.out), "$OUT")
        text = page(steps, options.out, options.name, options.att_context, options.seconds, command)
        options.page.write_text(text)
        print(f"{options.page} written")
    if not options.keep:
        for name in BIG:
            path = options.out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    raise SystemExit(0 if finished and not steps[-1].code else 1)


if __name__ == "__main__":
    main()
