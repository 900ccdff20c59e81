"""What is known of an engine, written beside it: ``X.engine.json``, schema ``streamparity.engine/1``.

An engine cannot be opened without a CUDA driver, and even then it does not say what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contract.profiles import Profile
from ..dump.atomic import write_bytes
from ..dump.store import encode
from ..errors import StreamparityError
from ..graph.onnx_graph import GraphPort
from ..provenance import file_sha256
from ..schedule import StreamingConfig

SUFFIXES = (".engine", ".plan", ".trt")  # of engines
SCHEMA = "streamparity.engine/1"
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
ARITHMETIC = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}


@dataclass(frozen=True)
class EngineMetadata:
    """An engine as its builder knew it.

    Attributes:
        runtime: ``tensorrt`` or ``tensorrt_rtx``, and ``version`` its version.
        targets: compute capabilities it was built for ahead of time, such as ``sm80``; empty for the builder's choice.
        role: ``encoder`` or ``decoder_joint``.
        precision: one of :data:`PRECISIONS`; ``None`` where nobody wrote it down.
        tf32: whether the builder might use TF32.
        fp32_pins: globs over layers kept in float32.
        inputs: input ports; a dynamic extent is ``None``.
        outputs: output ports, marked taps among them.
        profiles: shapes it was built for.
        taps: tensor by tap, for taps that were marked as outputs.
        debug: tensor by tap, for taps that may be looked at where the builder has not fused them.
        source: ``file``, ``sha256`` and ``weights_sha256`` of the ONNX graph.
        model: ``id`` and ``sha256`` of the NeMo model, where a contract named it.
        contract_sha256: of the contract it was built from.
        streaming: the configuration baked into it.
        warnings: what the builder warned of.
        producer: versions of the programs that made it.
        engine_sha256: of the engine file.
    """

    runtime: str
    version: str
    targets: tuple[str, ...]
    role: str
    precision: str | None
    tf32: bool
    fp32_pins: tuple[str, ...]
    inputs: tuple[GraphPort, ...]
    outputs: tuple[GraphPort, ...]
    profiles: tuple[Profile, ...]
    taps: Mapping[str, str]
    debug: Mapping[str, str]
    source: Mapping[str, str | None]
    model: Mapping[str, str | None] | None
    contract_sha256: str | None
    streaming: StreamingConfig | None
    warnings: tuple[str, ...]
    producer: Mapping[str, Any]
    engine_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        return {
            "schema": SCHEMA,
            "engine_sha256": self.engine_sha256,
            "builder": {"runtime": self.runtime, "version": self.version, "targets": list(self.targets)},
            "role": self.role,
            "precision": self.precision,
            "tf32": self.tf32,
            "fp32_pins": list(self.fp32_pins),
            "inputs": [_port_json(port) for port in self.inputs],
            "outputs": [_port_json(port) for port in self.outputs],
            "profiles": [profile.to_json() for profile in self.profiles],
            "taps": dict(self.taps),
            "debug": dict(self.debug),
            "source": dict(self.source),
            "model": None if self.model is None else dict(self.model),
            "contract_sha256": self.contract_sha256,
            "streaming": None if self.streaming is None else self.streaming.to_json(),
            "warnings": list(self.warnings),
            "producer": dict(self.producer),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineMetadata:
        """Inverse of :meth:`to_json`. Raises ``KeyError``, ``TypeError`` or ``ValueError`` on anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, not {SCHEMA!r}")
        if data["precision"] is not None and data["precision"] not in PRECISIONS:
            raise ValueError(f"precision {data['precision']!r}, not one of {', '.join(PRECISIONS)}")
        streaming = data["streaming"]
        made = cls(
            runtime=str(data["builder"]["runtime"]),
            version=str(data["builder"]["version"]),
            targets=tuple(map(str, data["builder"]["targets"])),
            role=str(data["role"]),
            precision=data["precision"],
            tf32=bool(data["tf32"]),
            fp32_pins=tuple(map(str, data["fp32_pins"])),
            inputs=tuple(_port(port) for port in data["inputs"]),
            outputs=tuple(_port(port) for port in data["outputs"]),
            profiles=tuple(Profile.from_json(profile) for profile in data["profiles"]),
            taps={str(tap): str(tensor) for tap, tensor in data["taps"].items()},
            debug={str(tap): str(tensor) for tap, tensor in data["debug"].items()},
            source=dict(data["source"]),
            model=data["model"],
            contract_sha256=data["contract_sha256"],
            streaming=None if streaming is None else StreamingConfig.from_json(streaming),
            warnings=tuple(map(str, data["warnings"])),
            producer=dict(data["producer"]),
            engine_sha256=data["engine_sha256"],
        )
        ranks = {port.name: len(port.shape) for port in made.inputs}
        for profile in made.profiles:
            for name, three in profile.shapes.items():
                if {len(shape) for shape in three} != {ranks.get(name)}:
                    raise ValueError(f"profile {profile.name} has shapes for {name} that the port does not have")
        return made

    @property
    def ports(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Dtype and shape by port, marked taps left out."""
        marked = set(self.taps.values())
        ports = [*self.inputs, *(port for port in self.outputs if port.name not in marked)]
        return {port.name: (port.dtype, port.shape) for port in ports}


def _port_json(port: GraphPort) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _port(data: Mapping[str, Any]) -> GraphPort:
    return GraphPort(str(data["name"]), str(data["dtype"]), tuple(data["shape"]))


def sidecar(engine: Path) -> Path:
    """Where the metadata of an engine lie."""
    return engine.with_name(engine.name + ".json")


def write_engine(path: Path, data: Any, metadata: EngineMetadata) -> EngineMetadata:
    """Write an engine and then its metadata; a kill between the two leaves an engine without any, never with others'.

    Args:
        path: where.
        data: the serialised engine, anything that has a buffer.
        metadata: what is known of it, its own hash excepted.
    """
    sidecar(path).unlink(missing_ok=True)
    write_bytes(path, data)
    complete = replace(metadata, engine_sha256=file_sha256(path))
    write_bytes(sidecar(path), encode(complete.to_json()))
    return complete


def read_metadata(engine: Path) -> EngineMetadata | None:
    """The metadata beside an engine, ``None`` where there are none.

    Raises:
        StreamparityError: they cannot be read.
    """
    path = sidecar(engine)
    if not path.is_file():
        return None
    try:
        return EngineMetadata.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise StreamparityError(
            f"{path} does not describe an engine: {type(error).__name__} {error}", "build the engine again"
        ) from None


def check_file(engine: Path, metadata: EngineMetadata) -> None:
    """Refuse an engine that is not the one the metadata were written for.

    Raises:
        StreamparityError: its hash is another.
    """
    if file_sha256(engine) != metadata.engine_sha256:
        raise StreamparityError(
            f"{engine.name} is not the engine that {sidecar(engine).name} was written for (its SHA-256 is another)",
            "copy the two together, or build the engine again",
        )


def built_otherwise(one: EngineMetadata, other: EngineMetadata) -> list[str]:
    """What two engines that differ in their taps alone should have in common, and have not."""
    names = ("source", "precision", "tf32", "fp32_pins", "profiles", "runtime", "version", "targets")
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _may_be_one(ours: Sequence[int | str | None], theirs: Sequence[int | str | None]) -> bool:
    """Whether two shapes can be of one port: the builder may know an extent that the network left open."""
    return len(ours) == len(theirs) and all(None in (a, b) or a == b for a, b in zip(ours, theirs, strict=True))


def differences(written: EngineMetadata, read: EngineMetadata) -> Sequence[str]:
    """What the metadata beside an engine and the engine itself say differently, one line each."""
    problems = []
    for direction, ours, theirs in (
        ("input", written.inputs, read.inputs),
        ("output", written.outputs, read.outputs),
    ):
        said, found = {port.name: port for port in ours}, {port.name: port for port in theirs}
        for name in sorted({*said, *found}):
            if name not in found or name not in said:
                where = "the engine" if name not in found else "the metadata"
                problems.append(f"{direction} {name} is not in {where}")
            elif said[name].dtype != found[name].dtype or not _may_be_one(said[name].shape, found[name].shape):
                problems.append(
                    f"{direction} {name} is {found[name].dtype} {list(found[name].shape)} in the engine, "
                    f"{said[name].dtype} {list(said[name].shape)} in the metadata"
                )
    shapes = [profile.shapes for profile in written.profiles]
    if shapes != [profile.shapes for profile in read.profiles]:
        problems.append(
            f"the engine has {len(read.profiles)} profiles of other shapes than the {len(shapes)} written down"
        )
    return problems
