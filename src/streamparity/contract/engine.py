"""What an engine says of itself, in the file beside it: ``X.engine.json``, schema ``streamparity.engine/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..schedule import StreamingConfig
from .codec import read
from .network import ContractPort
from .profiles import Profile

SCHEMA = "streamparity.engine/1"
SUFFIXES = (".engine", ".plan", ".trt")
OTHERS = (".onnx", ".nemo", ".json")  # whatever lies beside them


@dataclass(frozen=True)
class EnginePort:
    """A port; a dynamic extent is a name, -1 or ``None``."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def promised(self) -> ContractPort:
        """As a contract has it."""
        extents = (extent if isinstance(extent, int) and extent >= 0 else None for extent in self.shape)
        return ContractPort(self.name, self.dtype, tuple(extents), ())


@dataclass(frozen=True)
class EngineSource:
    """What an engine or a graph was made from."""

    sha256: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Engine:
    """A TensorRT engine as the file beside it describes it; what a contract does not speak of is passed over.

    Attributes:
        inputs: input ports.
        outputs: output ports, inner tensors marked as such among them.
        profiles: optimization profiles.
        source: the ONNX graph it was built from.
        model: the NeMo model behind that, where it is known.
        streaming: the configuration baked into it, where it is known.
        taps: inner tensors marked as outputs, by tap.
        engine_sha256: of the engine file.
    """

    inputs: tuple[EnginePort, ...]
    outputs: tuple[EnginePort, ...]
    profiles: tuple[Profile, ...] = ()
    source: EngineSource = field(default_factory=EngineSource)
    model: EngineSource | None = None
    streaming: StreamingConfig | None = None
    taps: dict[str, str] = field(default_factory=dict)
    engine_sha256: str | None = None

    @classmethod
    def read(cls, path: Path) -> Engine:
        """Read the description of an engine, given either file.

        Raises:
            StreamparityError: it is not there, or not what it should be.
        """
        sidecar = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
        hint = "build it again: `streamparity build`"
        return read(cls, sidecar, SCHEMA, "an engine's description", hint, {})


def is_engine(path: Path) -> bool:
    """Whether a path is an engine's, by its name or by what lies beside it, or that of the file beside an engine."""
    named = path.with_suffix("") if path.suffix == ".json" else path
    described = path.suffix not in OTHERS and path.with_name(f"{path.name}.json").is_file()
    return named.suffix in SUFFIXES or described
