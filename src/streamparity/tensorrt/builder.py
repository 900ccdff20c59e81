"""``streamparity build``: from an exported graph and its contract to an engine with what is known of it beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..contract import CONTRACT, Contract, check_against
from ..contract.profiles import Profile, Range, decoder_profiles_of, profiles_of
from ..dump import DumpReader
from ..errors import Stateless, StreamparityError
from ..progress import Note, Progress, no_note, no_progress
from ..provenance import file_sha256, versions
from ..reference.taps import BLOCK_LEVEL
from ..runners.onnx_cache import time_slots
from ..runners.onnx_graph import STATELESS_HINT, OnnxGraph, missing_ports, module_path
from ..schedule import Schedule
from ..tensors import DECODER_INPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names
from .compile import CompileOptions, compile_network
from .device import open_device
from .metadata import PRECISIONS, EngineMetadata, sidecar, write_engine
from .module import TrtModule, load_module, new_log
from .network import parse
from .pins import pinning
from .precision import LOWERED, lower
from .quantize import quantize

CURRENT = "current"
TARGET = re.compile(r"sm_?(\d+)(\d)", re.IGNORECASE)


@dataclass(frozen=True)
class BuildOptions:
    """What to build; see ``streamparity build --help``."""

    out: Path
    contract: Path | None = None
    schedule: Schedule = "padded"
    batch: Range = (1, 1, 1)
    tail: bool = True
    precision: str = "fp32"
    fp32: Sequence[str] = ()
    taps: Sequence[str] = ()
    unfused: bool = False
    targets: Sequence[str] = ()
    runtime: str | None = None
    timing_cache: Path | None = None
    calibrate: Path | None = None
    force: bool = False


def build(
    onnx: Path, options: BuildOptions, progress: Progress = no_progress, note: Note = no_note
) -> dict[Path, EngineMetadata]:
    """Build an engine; with taps, another beside it in which they are marked as outputs.

    Args:
        onnx: ``encoder.onnx`` or ``decoder_joint.onnx``, its contract beside it or named in the options.
        options: what to build.
        progress: called with steps done and steps in all of the builder's current phase.
        note: called with lines the user should see.

    Returns:
        What was written, by path.

    Raises:
        BackendMissing: no runtime, or none that builds here.
        Stateless: the graph has no caches.
        StreamparityError: graph, contract and options do not fit together, or the builder refuses.
    """
    wanted = [options.out, *([marked_engine(options.out)] if options.taps else [])]
    present = [path for path in (*wanted, *map(sidecar, wanted)) if path.exists()]
    if present and not options.force:
        raise StreamparityError(f"{present[0]} already exists", "choose another --out, or pass --force to replace it")
    if not options.out.resolve().parent.is_dir():
        raise StreamparityError(f"the folder of {options.out} does not exist", "make it first")
    subject = _Subject(onnx, options)
    module = load_module(options.runtime)
    current = [name.lower() for name in options.targets] == [CURRENT]
    targets = [] if current else _targets(module, options.targets)
    if current:
        open_device().close()  # says what is missing, in a line
    if module.is_rtx and options.timing_cache is not None:
        raise StreamparityError(
            "TensorRT-RTX has no timing cache: it compiles kernels where the engine runs",
            "leave --timing-cache out, and keep those kernels with `run -o runtime_cache=FILE`",
        )
    marked = subject.taps(options.taps) if options.taps else {}
    proto, kept = subject.in_precision(options)
    if kept:
        note(f"{kept} layers stay in float32")
    compiling = CompileOptions(options.precision == "tf32", targets, current and module.is_rtx, options.timing_cache)
    written = {}
    for path in wanted:
        taps = {} if path == options.out else marked
        data, metadata = _engine(module, subject, proto, taps, options, compiling, progress)
        written[path] = write_engine(path, data, metadata)
    for line in dict.fromkeys(line for metadata in written.values() for line in metadata.warnings):
        note(f"{module.name}: {line}")
    return written


def marked_engine(engine: Path) -> Path:
    """The engine with taps marked as outputs that belongs to another: ``encoder.taps.engine`` to ``encoder.engine``."""
    return engine.with_name(f"{engine.stem}.taps{engine.suffix}")


class _Subject:
    """A graph with the contract that it keeps."""

    def __init__(self, path: Path, options: BuildOptions) -> None:
        if options.precision not in PRECISIONS:
            raise StreamparityError(f"there is no precision {options.precision}", f"use one of {', '.join(PRECISIONS)}")
        self.graph = OnnxGraph(path)
        ports = {port.name: (port.dtype, port.shape) for port in [*self.graph.inputs, *self.graph.outputs]}
        inputs = {port.name: port.shape for port in self.graph.inputs}
        self.role = "decoder_joint" if set(DECODER_INPUTS) <= set(inputs) else "encoder"
        self.root = "encoder." if self.role == "encoder" else ""
        if self.role == "encoder":
            outputs = canonical_names([port.name for port in self.graph.outputs], ENCODER_OUTPUTS, str(path))
            missing = missing_ports(canonical_names(inputs, ENCODER_INPUTS, str(path)), outputs)
            if missing:
                raise Stateless(f"{path} cannot stream: it has no {', '.join(missing)}", STATELESS_HINT)
        self.contract_path = options.contract or path.parent / CONTRACT
        if not self.contract_path.is_file():
            raise StreamparityError(
                f"there is no {self.contract_path}, which says how the encoder is streamed",
                "name it with --contract, or export again: streamparity export writes it",
            )
        self.contract = Contract.read(self.contract_path)
        problems = check_against(self.contract, path.name, ports)
        if problems:
            raise StreamparityError(
                f"{path.name} does not keep its contract: {problems[0]}"
                + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
                "export again, or name the contract that belongs to it with --contract",
            )
        self.profiles = self._profiles(inputs, options)

    def _profiles(self, inputs: Mapping[str, Any], options: BuildOptions) -> tuple[Profile, ...]:
        if self.role == "decoder_joint":
            return decoder_profiles_of(inputs, options.batch)
        return profiles_of(
            self.contract.streaming,
            inputs,
            options.schedule,
            options.batch,
            time_slots=time_slots(self.graph.proto, self.graph.path.parent),
            tail=options.tail,
        )

    def in_precision(self, options: BuildOptions) -> tuple[Any, int]:
        """The graph as it is to be built, and how many layers were pinned."""
        pinned = self._pins(options)
        if options.precision in LOWERED:
            lowered = lower(self.graph, options.precision, pinned)
            if lowered.overflowing:
                raise StreamparityError(
                    f"{lowered.overflowing[0]} is beyond what float16 holds"
                    + (f" (and {len(lowered.overflowing) - 1} more)" if len(lowered.overflowing) > 1 else ""),
                    "use --precision bf16, or pin the layers that use it with --fp32 GLOB",
                )
            return lowered.proto, len(lowered.kept)
        if options.precision == "int8":
            if options.calibrate is None or self.role != "encoder":
                raise StreamparityError(
                    "int8 needs an encoder and a dump to calibrate it on: nothing else says how large its values grow",
                    "pass --calibrate DUMP, a reference dump of the same model",
                )
            return quantize(self.graph, DumpReader(options.calibrate), pinned)
        return self.graph.proto, 0

    def _pins(self, options: BuildOptions) -> Callable[[str], bool]:
        if options.fp32 and options.precision in ("fp32", "tf32"):
            raise StreamparityError(
                f"--fp32 pins layers, and with --precision {options.precision} there is nothing to pin them against",
                "leave it out, or use --precision fp16, bf16 or int8",
            )
        return pinning(options.fp32, [node.name for node in self.graph.proto.graph.node], self.root)

    def taps(self, globs: Sequence[str]) -> dict[str, str]:
        """The graph's tensor for every module that a glob fits, those without one left out.

        Raises:
            StreamparityError: a glob fits none.
        """
        paths = dict.fromkeys(module_path(node.name) for node in self.graph.proto.graph.node)
        parts = [path.split(".") for path in paths if path]
        modules = list(dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)))
        labels = [self.root + path for path in modules]
        found, _ = self.graph.tap_tensors([label for label in labels if _fits(label, globs)], self.root)
        for glob in globs:
            if not any(fnmatchcase(label, glob) for label in found):
                raise StreamparityError(
                    f"--taps {glob} fits no module of {self.graph.path}", "module paths look like encoder.layers.0.conv"
                )
        return found

    def block_taps(self) -> dict[str, str]:
        """The graph's tensor for every block."""
        return {label: tensor for label, tensor in self.taps(["*"]).items() if BLOCK_LEVEL.fullmatch(label)}


def _fits(label: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(label, glob) for glob in globs)


def _engine(
    module: TrtModule,
    subject: _Subject,
    proto: Any,
    taps: Mapping[str, str],
    options: BuildOptions,
    compiling: CompileOptions,
    progress: Progress,
) -> tuple[Any, EngineMetadata]:
    """One engine, built, and all that is known of it but its hash."""
    log = new_log(module)
    parsed = parse(module, log, proto.SerializeToString(), subject.graph.path, subject.root)
    lost = parsed.mark(set(taps.values()))
    taps = {label: tensor for label, tensor in taps.items() if tensor not in lost}
    debug: dict[str, str] = {}
    if options.unfused and not taps:
        if not hasattr(parsed.network, "mark_unfused_tensors_as_debug_tensors"):
            raise StreamparityError(
                f"{module.name} {module.version} has no unfused debug tensors", "mark taps instead: --taps GLOB"
            )
        parsed.network.mark_unfused_tensors_as_debug_tensors()
        debug = subject.block_taps()
    data = compile_network(module, parsed, subject.profiles, compiling, progress)
    contract = subject.contract
    metadata = EngineMetadata(
        runtime=module.name,
        version=module.version,
        targets=(CURRENT,) if compiling.current else tuple(f"sm{major}{minor}" for major, minor in compiling.targets),
        role=subject.role,
        precision=options.precision,
        tf32=compiling.tf32,
        fp32_pins=tuple(options.fp32),
        inputs=parsed.ports(module, "input"),
        outputs=parsed.ports(module, "output"),
        profiles=subject.profiles,
        taps=taps,
        debug=debug,
        source=_source(subject.graph.path),
        model={"id": str(contract.model.get("id")), "sha256": contract.model["sha256"]},
        contract_sha256=file_sha256(subject.contract_path),
        streaming=contract.streaming if subject.role == "encoder" else None,
        warnings=tuple(_worth_saying(log.warnings)),
        producer={"program": "streamparity build", "versions": versions()},
    )
    return data, metadata


def _source(path: Path) -> dict[str, str | None]:
    weights = path.with_name(f"{path.name}.data")
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "weights_sha256": file_sha256(weights) if weights.exists() else None,
    }


def _worth_saying(warnings: Sequence[str]) -> list[str]:
    """What the builder warned of, without its reminder that ports of int64 are int64."""
    lines = [" ".join(line.split()) for line in warnings if "Int64 binding" not in line]
    return list(dict.fromkeys(lines))


def _targets(module: TrtModule, names: Sequence[str]) -> list[tuple[int, int]]:
    """Compute capabilities by name.

    Raises:
        StreamparityError: the runtime does not know one, or builds for the GPU at hand only.
    """
    if not names:
        return []
    if not module.is_rtx:
        raise StreamparityError(
            "TensorRT builds for the GPU it runs on: there is no --target to choose", "use --runtime tensorrt_rtx"
        )
    known = [name for name in module.trt.ComputeCapability.__members__ if name.startswith("SM")]
    found = []
    for name in names:
        match = TARGET.fullmatch(name)
        if match is None or f"SM{match[1]}{match[2]}" not in known:
            raise StreamparityError(
                f"{module.name} {module.version} does not build for {name}",
                f"it knows {', '.join(known).lower()} and {CURRENT}",
            )
        found.append((int(match[1]), int(match[2])))
    return found
