"""The sets of faults and harmless changes."""

from __future__ import annotations

from dataclasses import dataclass

from . import further_faults, graph_faults, harmless, loop_faults, porters
from .fault import Fault, Harmless


@dataclass(frozen=True)
class FaultSet:
    """Faults and harmless changes that are scored together.

    Attributes:
        name: in the table.
        about: in the score.
        faults: what should be found.
        changes: what should pass.
    """

    name: str
    about: str
    faults: list[Fault]
    changes: list[Harmless]


OWN = FaultSet(
    "own",
    "own battery",
    [*graph_faults.FAULTS, *loop_faults.FAULTS, *further_faults.FAULTS],
    harmless.CHANGES,
)
PORTERS = FaultSet(
    "porters",
    "porters' faults (written without looking at the rules)",
    porters.FAULTS,
    porters.CHANGES,
)
SETS = (OWN, PORTERS)
