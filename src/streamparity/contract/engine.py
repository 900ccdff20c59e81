"""What an engine says of itself, in the file beside it: ``X.engine.json``, schema ``streamparity.engine/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .codec import read
from .model import ContractPort, Extent, Profile

SCHEMA = "streamparity.engine/1"


@dataclass(frozen=True)
class _Port:
    name: str
    dtype: str
    shape: tuple[Extent, ...]
    direction: Literal["input", "output"]


@dataclass(frozen=True)
class _Source:
    sha256: str | None = None


@dataclass(frozen=True)
class _Sidecar:
    ports: tuple[_Port, ...]
    profiles: tuple[Profile, ...] = ()
    source: _Source = field(default_factory=_Source)


@dataclass(frozen=True)
class Engine:
    """A TensorRT engine as its sidecar describes it.

    Attributes:
        inputs: a dynamic extent is ``None``.
        outputs: likewise.
        profiles: optimization profiles.
        source_sha256: hash of the ONNX graph it was built from, where it says.
    """

    inputs: tuple[ContractPort, ...]
    outputs: tuple[ContractPort, ...]
    profiles: tuple[Profile, ...]
    source_sha256: str | None

    @classmethod
    def read(cls, path: Path) -> Engine:
        """Read the sidecar of an engine, given either file.

        Raises:
            StreamparityError: it is not there, or not what it should be.
        """
        sidecar = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
        hint = "build it again: `streamparity build`"
        described = read(_Sidecar, sidecar, SCHEMA, "an engine's description", hint, {})

        def ports(direction: str) -> tuple[ContractPort, ...]:
            chosen = (port for port in described.ports if port.direction == direction)
            return tuple(
                ContractPort(
                    port.name, port.dtype, tuple(None if extent == -1 else extent for extent in port.shape), ()
                )
                for port in chosen
            )

        return cls(ports("input"), ports("output"), described.profiles, described.source.sha256)


def is_engine(path: Path) -> bool:
    """Whether a path is an engine's, or that of the file beside it."""
    return path.suffix == ".engine" or path.name.endswith(".engine.json")
