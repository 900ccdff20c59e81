"""What identifies a file and a machine: hashes and versions."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("streamparity", "numpy", "torch", "nemo_toolkit", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx")


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can move a number, without importing any."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def host() -> str:
    """The machine and its operating system."""
    return platform.platform()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
