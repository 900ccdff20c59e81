"""``noise_floor.json`` beside ``dump.json``: per tensor, what arithmetic alone costs the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import StreamparityError
from .atomic import write_bytes

NOISE_FLOOR = "noise_floor.json"
SCHEMA = "streamparity.noise-floor/2"
# The first one held other dtypes against the dump, float32 itself, and kept no float64 values.
EARLIER = "streamparity.noise-floor/1"


@dataclass(frozen=True)
class FloorFigures:
    """Error of one tensor over a whole run: the largest and the root mean square."""

    max_abs: float
    rmse: float


@dataclass(frozen=True)
class NoiseFloor:
    """What each arithmetic costs each tensor, all of the loop computed in it.

    Attributes:
        errors: by arithmetic, then by tensor label, against the same loop in float64: ``float32`` is the dump itself,
            the others are PyTorch computing in that arithmetic.
        largest: largest ``abs(reference)`` per tensor; merely storing such a value in float32 rounds it.
        unmeasured: arithmetics that PyTorch could not run the model in, with the reason.
    """

    errors: Mapping[str, Mapping[str, FloorFigures]]
    largest: Mapping[str, float]
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into a dump's folder, whole or not at all."""
        document = {
            "schema": SCHEMA,
            "unmeasured": dict(self.unmeasured),
            "largest": dict(self.largest),
            "errors": {
                dtype: {label: {"max_abs": figures.max_abs, "rmse": figures.rmse} for label, figures in errors.items()}
                for dtype, errors in self.errors.items()
            },
        }
        write_bytes(folder / NOISE_FLOOR, (json.dumps(document, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> NoiseFloor | None:
        """The floor of a dump, ``None`` where it has none.

        Raises:
            StreamparityError: the file is there and is no noise floor.
        """
        path = folder / NOISE_FLOOR
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] not in (SCHEMA, EARLIER):
                raise ValueError(f"schema {data['schema']!r}, not {SCHEMA!r}")
            return cls(
                errors={
                    str(dtype): {
                        str(label): FloorFigures(_error(figures["max_abs"]), _error(figures["rmse"]))
                        for label, figures in errors.items()
                    }
                    for dtype, errors in data["errors"].items()
                },
                largest={str(label): _error(value) for label, value in data["largest"].items()},
                unmeasured={str(kind): str(reason) for kind, reason in data.get("unmeasured", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StreamparityError(
                f"{path} is no noise floor: {type(error).__name__} {error}",
                "remove it, or make the dump again with --noise-floor",
            ) from None


def _error(value: object) -> float:
    number = float(str(value))
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value} is no error")
    return number
