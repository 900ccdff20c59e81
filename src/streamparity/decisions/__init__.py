"""Decisions of greedy decoding, side by side: where they part, whether that is a tie, and what caused it."""

from .analysis import SCHEMA, Question, analyse
from .reading import read_trace_file
from .sides import Recorded, Side, chunk_starts, recorded

__all__ = ["SCHEMA", "Question", "Recorded", "Side", "analyse", "chunk_starts", "read_trace_file", "recorded"]
