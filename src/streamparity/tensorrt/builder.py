"""``streamparity build``: from an exported graph and its contract to an engine with what is known of it beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contract.engine_profiles import dropped_at_first
from ..errors import StreamparityError
from ..progress import Note, Progress, no_note, no_progress
from ..provenance import file_sha256, versions
from .compile import CompileOptions, compile_network
from .device import open_device
from .metadata import SUFFIXES, EngineMetadata, sidecar, write_engine
from .module import TrtModule, load_module, new_log
from .network import parse
from .options import CURRENT, BuildOptions, targets_of
from .subject import Subject


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
    if options.out.suffix not in SUFFIXES:
        raise StreamparityError(
            f"--out {options.out} is not named as an engine is", f"give it a name that ends in {' or '.join(SUFFIXES)}"
        )
    if not options.out.resolve().parent.is_dir():
        raise StreamparityError(f"the folder of {options.out} does not exist", "make it first")
    subject = Subject(onnx, options)
    module = load_module(options.runtime)
    current = [name.lower() for name in options.targets] == [CURRENT]
    targets = [] if current else targets_of(module, options.targets)
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
    lost = dropped_at_first(subject.contract.streaming, subject.profiles)
    if lost is not None:
        note(f"{lost}; --schedule padded loses nothing")
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


def _engine(
    module: TrtModule,
    subject: Subject,
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
        model={"id": contract.model.id, "sha256": contract.model.sha256},
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
