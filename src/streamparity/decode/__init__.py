"""Greedy decoding of encoder frames into labels, over any runner."""

from .candidate import CandidateDecoder, Head, arithmetic_of, decoder_for, head_of, valid_frames
from .ctc import CtcDecoder
from .greedy import ChunkDecisions, GreedyDecoder

__all__ = [
    "CandidateDecoder",
    "ChunkDecisions",
    "CtcDecoder",
    "GreedyDecoder",
    "Head",
    "arithmetic_of",
    "decoder_for",
    "head_of",
    "valid_frames",
]
