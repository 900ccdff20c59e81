"""The dump: a folder of tensors, one file per chunk, that any program can write and read."""

from .manifest import Decoder, Manifest
from .store import DumpReader, DumpWriter, is_dump

__all__ = ["Decoder", "DumpReader", "DumpWriter", "Manifest", "is_dump"]
