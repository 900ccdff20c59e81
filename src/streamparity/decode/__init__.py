"""Greedy decoding of encoder frames into labels, over any runner."""

from .greedy import CandidateDecoder, GreedyDecoder

__all__ = ["CandidateDecoder", "GreedyDecoder"]
