"""The battery's faults at their strongest, each found where and why it should be; no alarm on harmless changes.

`make faults` runs all of it: both models, every fault also at its weakest, and prints the score.
"""

from __future__ import annotations

import pytest

from .graph_faults import FAULTS as GRAPH_FAULTS
from .harmless import CHANGES
from .loop_faults import FAULTS as LOOP_FAULTS
from .score import run_planted, score, weakest

FAULTS = [*GRAPH_FAULTS, *LOOP_FAULTS]
# The second model takes its turn with one fault of each kind and what only it can have.
ON_THE_SECOND_MODEL = {
    "time-cache-zeroed",
    "channel-caches-swapped",
    "returned-channel-turned",
    "length-unbounded",
    "weight-transposed",
    "depthwise-reversed",
    "weights-in-int8",
    "norm-epsilon-in-attention",
    "batch-norm-in-training",
    "relative-shift-off",
    "mask-missing-in-a-layer",
    "context-too-short",
    "drops-the-wrong-end",
    "kept-left-aligned",
    "layers-exchanged",
    "features-a-frame-late",
    "no-history",
}
UNHARMED_ON_THE_SECOND_MODEL = {"nothing", "operators-fused", "nodes-reordered", "norms-written-out", "silence"}
SECONDS = 20


def found_as_it_should_be(bench, fault):
    row = score(bench, fault)
    assert row.detected
    assert row.chunk_right, row
    assert row.module_right, row
    assert row.code_right, row
    assert row.seconds < SECONDS


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.only in (None, "demo")], ids=lambda f: f.name)
def test_fault_is_found(demo, fault):
    found_as_it_should_be(demo, fault)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in ON_THE_SECOND_MODEL], ids=lambda f: f.name)
def test_fault_is_found_in_another_model(regular, fault):
    found_as_it_should_be(regular, fault)


def unharmed(bench, change):
    result = run_planted(bench, change.plant(bench))
    assert result["objections"] == []
    assert result["diagnosis"] == []
    assert result["localization"] is None


@pytest.mark.parametrize("change", [c for c in CHANGES if c.only in (None, "demo")], ids=lambda c: c.name)
def test_harmless_change_passes(demo, change):
    unharmed(demo, change)


@pytest.mark.parametrize("change", [c for c in CHANGES if c.name in UNHARMED_ON_THE_SECOND_MODEL], ids=lambda c: c.name)
def test_harmless_change_to_another_model_passes(regular, change):
    unharmed(regular, change)


def test_a_fault_at_its_weakest_is_found(demo):
    fault = next(fault for fault in FAULTS if fault.name == "log-guard")
    strength = weakest(demo, fault)
    assert strength is not None
    assert strength < fault.strengths[0]
    row = score(demo, fault, strength)
    assert row.tokens_equal is False
    assert (row.detected, row.chunk_right, row.module_right, row.code_right) == (True,) * 4


def test_the_battery_is_as_large_as_promised():
    assert len({fault.name for fault in FAULTS}) >= 40
    assert len({change.name for change in CHANGES}) >= 20
