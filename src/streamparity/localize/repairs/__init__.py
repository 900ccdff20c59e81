"""What would mend a piece: edits of its graph, tried one by one.

A piece that is right once one thing in it is changed was wrong in that thing, whatever its nodes are called and whether
one layer or all have it so.
"""

from .search import Cure, cures

__all__ = ["Cure", "cures"]
