"""NVIDIA's two runtimes with one API: ``tensorrt`` and ``tensorrt_rtx``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import BackendMissing, StreamparityError

RUNTIMES = ("tensorrt", "tensorrt_rtx")
# trt.DataType -> numpy's (and ml_dtypes') names.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class TrtModule:
    """An imported runtime.

    Attributes:
        name: one of :data:`RUNTIMES`.
        trt: the module.
    """

    name: str
    trt: Any

    @property
    def version(self) -> str:
        """Such as ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX: engines made ahead of time, kernels compiled where they run."""
        return self.name == "tensorrt_rtx"

    def dtype(self, data_type: Any) -> str:
        """Numpy's name of a ``trt.DataType``."""
        return DTYPES.get(str(data_type.name), str(data_type.name).lower())


def load_module(name: str | None = None) -> TrtModule:
    """Import ``name``, or the first of :data:`RUNTIMES` that is installed.

    Raises:
        BackendMissing: it, or both, cannot be imported.
        StreamparityError: a name that is neither.
    """
    if name is not None and name not in RUNTIMES:
        raise StreamparityError(f"there is no runtime {name!r}", f"use one of {', '.join(RUNTIMES)}")
    reasons = []
    for candidate in RUNTIMES if name is None else (name,):
        try:
            return TrtModule(candidate, importlib.import_module(candidate))
        except (ImportError, OSError) as error:  # a wheel whose libraries are missing raises either
            reasons.append(str(error).strip().splitlines()[0])
    raise BackendMissing(
        f"{name or ' and '.join(RUNTIMES)} cannot be imported: {'; '.join(reasons)}",
        "pip install 'streamparity[rtx]' (TensorRT-RTX) or 'streamparity[trt]' (TensorRT)",
    )


@dataclass
class Log:
    """What a runtime said, most of which its return values do not say.

    Attributes:
        logger: the ``trt.ILogger``.
        errors: messages of severity error.
        warnings: messages of severity warning.
    """

    logger: Any
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def last_error(self, otherwise: str) -> str:
        """The last error as one line."""
        return " ".join(self.errors[-1].split()) if self.errors else otherwise


def new_log(module: TrtModule) -> Log:
    """An empty log; what is logged from now on goes there, and nothing is printed.

    A process has one logger: a runtime keeps the first it was given and ignores all others.
    """
    collector = _collector(module.name)
    collector.log_now = Log(collector)
    log: Log = collector.log_now
    return log


@cache
def _collector(name: str) -> Any:
    trt = load_module(name).trt

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined]  # the base is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.log_now = Log(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.log_now.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.log_now.warnings.append(message)

    return Collector()
