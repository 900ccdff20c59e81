"""A folder of numbered safetensors files, one per chunk, each whole or absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import StreamparityError
from ..tensors import Array
from .atomic import write_bytes
from .formats.base import BadFile
from .formats.safetensors import load

CHUNK_FILE = re.compile(r"\d{6,}\.safetensors(\.partial)?")


@dataclass(frozen=True)
class ChunkFiles:
    """The files ``000000.safetensors``, ``000001.safetensors``, ... of one folder.

    Attributes:
        folder: where they lie; it need not exist yet.
        hint: what to do where one is damaged.
    """

    folder: Path
    hint: str = "run the dump again with --resume"

    def path(self, index: int) -> Path:
        """File of chunk ``index``."""
        return self.folder / f"{index:06d}.safetensors"

    def whole(self) -> int:
        """How many chunks, counted from 0 without a gap, are there and open as safetensors."""
        index = 0
        while (path := self.path(index)).is_file():
            try:
                with safe_open(path, framework="np"):
                    index += 1
            except (SafetensorError, OSError):
                break
        return index

    def read(self, index: int) -> dict[str, Array]:
        """Every tensor of chunk ``index`` by its key.

        Raises:
            StreamparityError: the file is missing or damaged.
        """
        path = self.path(index)
        try:
            return load(path)
        except (BadFile, OSError) as error:
            raise StreamparityError(f"{path} is damaged: {error}", self.hint) from None

    def write(self, index: int, tensors: Mapping[str, Array]) -> None:
        """Write chunk ``index``, whole or not at all."""
        contiguous = {name: tensor.copy(order="C") for name, tensor in tensors.items()}
        write_bytes(self.path(index), save(contiguous))

    def prepare(self) -> None:
        """Make the folder and clear what a kill left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob("*.partial"):
            partial.unlink()

    def cut(self, count: int) -> None:
        """Remove what an earlier, longer dump left behind the first ``count`` chunks."""
        while (stale := self.path(count)).exists():
            stale.unlink()
            count += 1

    def alone(self) -> bool:
        """Whether the folder, if it is there, holds such files only, whole or half written."""
        return all(CHUNK_FILE.fullmatch(item.name) for item in self.folder.glob("*"))
