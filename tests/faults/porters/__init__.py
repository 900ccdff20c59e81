"""Faults as people who port FastConformers make them, written without looking at the rules that look for them.

Where two causes or two places are as good, all that are right are given. What has no code of its own in
docs/diagnosis.md is expected to be called by the nearest.
"""

from . import (
    attention,
    blocks,
    caches,
    calls,
    decoder,
    features,
    front_end,
    harmless,
    lengths,
    loop,
    nameless,
    norms,
    precision,
    weights,
)

FAULTS = [
    *front_end.FAULTS,
    *features.FAULTS,
    *blocks.FAULTS,
    *norms.FAULTS,
    *attention.FAULTS,
    *caches.FAULTS,
    *lengths.FAULTS,
    *weights.FAULTS,
    *precision.FAULTS,
    *nameless.FAULTS,
    *decoder.FAULTS,
    *calls.FAULTS,
    *loop.FAULTS,
]
CHANGES = harmless.CHANGES
