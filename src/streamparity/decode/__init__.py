"""Greedy decoding of encoder frames into labels, over any runner."""

from .candidate import CandidateDecoder, Head, decoder_for, head_of, valid_frames
from .ctc import CtcDecoder
from .greedy import ChunkDecisions, GreedyDecoder

__all__ = [
    "CandidateDecoder",
    "ChunkDecisions",
    "CtcDecoder",
    "GreedyDecoder",
    "Head",
    "decoder_for",
    "head_of",
    "valid_frames",
]
