"""Everything that can be held against an engine before a device is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..contract import CONTRACT, Contract
from ..errors import Stateless, StreamparityError, first_of
from ..graph.onnx_graph import STATELESS_HINT
from ..schedule import StreamingConfig
from .agreement import disagreements, stateless_ports, streaming_problems
from .metadata import EngineMetadata, check_file, read_metadata, sidecar
from .module import TrtModule, load_module


@dataclass(frozen=True)
class Admitted:
    """An engine that nothing speaks against so far.

    Attributes:
        module: the runtime it is for.
        metadata: what is written beside it, ``None`` where nothing is.
        notes: lines that the user should see.
    """

    module: TrtModule
    metadata: EngineMetadata | None
    notes: tuple[str, ...]


def admit(path: Path, settings: Mapping[str, str], streaming: StreamingConfig | None) -> Admitted:
    """Read what is known of an engine and refuse it where that is enough to.

    Args:
        path: the engine.
        settings: the backend's options; ``runtime`` is one of them.
        streaming: the reference's configuration, which the engine must have been built for.

    Raises:
        BackendMissing: the runtime is not installed.
        Stateless: the engine has no caches.
        StreamparityError: the engine is not what was written down, is of another version or runtime, or does not agree
            with the contract beside it or with the reference.
    """
    if not path.is_file():
        raise StreamparityError(f"{path} does not exist", "build an engine: streamparity build ENCODER.onnx")
    if path.suffix in (".onnx", ".nemo"):
        raise StreamparityError(
            f"{path} is no engine", f"build one from it: streamparity build, and use {path.stem}.engine"
        )
    metadata = read_metadata(path)
    module = load_module(settings.get("runtime") or (None if metadata is None else metadata.runtime))
    if metadata is None:
        return Admitted(module, None, (f"no {sidecar(path).name} beside the engine: it speaks for itself",))
    check_file(path, metadata)
    _check_version(path, metadata, module)
    missing = stateless_ports(metadata)
    if missing:
        raise Stateless(f"{path} cannot stream: it has no {', '.join(missing)}", STATELESS_HINT)
    return Admitted(module, metadata, tuple(_check_agreement(path, metadata, streaming)))


def _check_version(path: Path, metadata: EngineMetadata, module: TrtModule) -> None:
    if metadata.runtime != module.name:
        raise StreamparityError(
            f"{path.name} was built by {metadata.runtime}, not by {module.name}", f"use -o runtime={metadata.runtime}"
        )
    if metadata.version != module.version:
        raise StreamparityError(
            f"{path.name} was built by {metadata.runtime} {metadata.version}; {module.version} is installed and "
            "does not read it",
            f"build it again, or install {metadata.runtime}=={metadata.version}",
        )


def _check_agreement(path: Path, metadata: EngineMetadata, streaming: StreamingConfig | None) -> list[str]:
    """Hold the engine against the contract beside it and against the reference; lines that the user should see."""
    contract_path, notes, problems = path.parent / CONTRACT, [], []
    if contract_path.is_file():
        contract = Contract.read(contract_path)
        if metadata.source.get("file") in contract.graphs or not contract.graphs:
            problems = [each.sentence for each in disagreements(contract, path)]
        else:
            notes.append(
                f"{contract_path} does not speak of {metadata.source.get('file')}, which the engine was built from"
            )
    if problems:
        raise StreamparityError(
            f"{path.name} and the contract beside it disagree: {first_of(problems)}",
            "build the engine again from the export that the contract describes",
        )
    if streaming is not None and metadata.streaming is not None:
        problems = streaming_problems(metadata.streaming, streaming, "the dump")
        if problems:
            raise StreamparityError(
                f"{path.name} was built for another stream than the dump: {first_of(problems)}",
                "export, build and dump with the same --att-context",
            )
    return notes
