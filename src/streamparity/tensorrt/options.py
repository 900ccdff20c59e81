"""What ``build`` is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contract.profiles import Range
from ..errors import StreamparityError
from ..schedule import Schedule
from .module import TrtModule

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


def targets_of(module: TrtModule, names: Sequence[str]) -> list[tuple[int, int]]:
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
