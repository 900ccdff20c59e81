"""``anatomy.safetensors`` beside ``dump.json``: what the reference is made of, small enough to travel with a dump.

Of every parameter a sample of its values at known places, so that a port's weights can be held against it without the
model; of every normalisation layer its class and epsilon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import StreamparityError
from ..tensors import Array
from .atomic import write_bytes

ANATOMY = "anatomy.safetensors"
SCHEMA = "streamparity.anatomy/1"
WHOLE = 4096  # parameters with no more values than this are kept whole
SAMPLED = 2048
STRIDE = 2654435761  # Knuth's multiplicative hash: places spread evenly over rows and columns of any size


def places(size: int) -> Array:
    """Flat indices, in C order, of the values kept of a parameter with ``size`` values."""
    if size <= WHOLE:
        return np.arange(size)
    return np.arange(SAMPLED) * STRIDE % size


@dataclass(frozen=True)
class Parameter:
    """What is known of one parameter.

    Attributes:
        shape: its extents.
        sample: values at :func:`places`, float32.
        rms: root mean square over all of it.
        mean: mean over all of it.
    """

    shape: tuple[int, ...]
    sample: Array
    rms: float
    mean: float

    @classmethod
    def of(cls, values: Array) -> Parameter:
        """Describe an array."""
        flat = np.ascontiguousarray(values).reshape(-1)
        wide = flat.astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(wide)))) if flat.size else 0.0
        mean = float(wide.mean()) if flat.size else 0.0
        return cls(tuple(values.shape), flat[places(flat.size)].astype(np.float32), rms, mean)

    def whole(self) -> Array | None:
        """All of it, where it is kept whole."""
        return self.sample.reshape(self.shape) if self.sample.size == int(np.prod(self.shape)) else None


@dataclass(frozen=True)
class Norm:
    """A normalisation layer: the class of its module and the epsilon under its root."""

    kind: str
    epsilon: float


@dataclass(frozen=True)
class Anatomy:
    """Parameters and normalisation layers by NeMo's module path (``encoder.layers.0.norm_out``)."""

    parameters: Mapping[str, Parameter]
    norms: Mapping[str, Norm]

    def write(self, folder: Path) -> None:
        """Write it into a dump's folder, whole or not at all."""
        described = {
            "schema": SCHEMA,
            "parameters": {
                name: {"shape": list(p.shape), "rms": p.rms, "mean": p.mean} for name, p in self.parameters.items()
            },
            "norms": {name: {"kind": norm.kind, "epsilon": norm.epsilon} for name, norm in self.norms.items()},
        }
        samples = {name: p.sample for name, p in self.parameters.items()}
        # One entry: safetensors writes several in no fixed order, and a dump is the same bytes each time.
        write_bytes(folder / ANATOMY, save(samples, {"anatomy": json.dumps(described)}))

    @classmethod
    def read(cls, folder: Path) -> Anatomy | None:
        """The anatomy of a dump's model, ``None`` where the dump has none.

        Raises:
            StreamparityError: the file is there and cannot be read.
        """
        path = folder / ANATOMY
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                described = json.loads((file.metadata() or {})["anatomy"])
                if described["schema"] != SCHEMA:
                    raise ValueError(f"schema {described['schema']!r}, not {SCHEMA!r}")
                parameters = {
                    name: Parameter(
                        tuple(item["shape"]), file.get_tensor(name), float(item["rms"]), float(item["mean"])
                    )
                    for name, item in described["parameters"].items()
                }
            return cls(
                parameters,
                {name: Norm(str(item["kind"]), float(item["epsilon"])) for name, item in described["norms"].items()},
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise StreamparityError(
                f"{path} is damaged: {type(error).__name__} {error}", "remove it, or make the dump again"
            ) from None
