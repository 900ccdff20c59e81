"""``noise_floor.json`` beside ``dump.json``: per tensor, what arithmetic alone costs the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import StreamparityError
from .atomic import write_bytes

NOISE_FLOOR = "noise_floor.json"
SCHEMA = "streamparity.noise-floor/1"


@dataclass(frozen=True)
class FloorFigures:
    """Error of one tensor over a whole run: the largest and the root mean square."""

    max_abs: float
    rmse: float


@dataclass(frozen=True)
class NoiseFloor:
    """What each arithmetic costs each tensor, all of the loop computed in it.

    Attributes:
        errors: by dtype, then by tensor label: ``float32`` is the dump against a float64 run; ``bfloat16`` and
            ``float16``, where PyTorch could run them, are a run of that dtype against the dump, which is off float64
            by the float32 figure, orders of magnitude less.
        largest: largest ``abs(reference)`` per tensor; merely storing such a value in float32 rounds it.
    """

    errors: Mapping[str, Mapping[str, FloorFigures]]
    largest: Mapping[str, float]

    def write(self, folder: Path) -> None:
        """Write it into a dump's folder, whole or not at all."""
        document = {
            "schema": SCHEMA,
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
            if data["schema"] != SCHEMA:
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
