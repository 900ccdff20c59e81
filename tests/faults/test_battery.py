"""Faults at their strongest, each found where and why it should be; no alarm on harmless changes.

`make faults` runs all of them: both sets, both models, every fault also at its weakest, and prints the score.
"""

from __future__ import annotations

import numpy as np
import pytest

from .effect import effect
from .fault import Fault, Planted
from .graph_faults import FAULTS as GRAPH_FAULTS
from .loop_faults import FAULTS as LOOP_FAULTS
from .report import Found, conclude
from .score import Row, alarm, score, weakest
from .sets import OWN, PORTERS, SETS

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
# Of the porters' faults one or two of each kind: all of them take as long as all other tests together.
OF_PORTERS = {
    "front-out-rows-permuted",
    "mel-htk",
    "window-periodic",
    "history-of-silence",
    "bands-flipped-in-the-graph",
    "relu-in-one-no-name",
    "residual-lost",
    "rms-norm-in-one",
    "look-ahead-masked",
    "positions-in-ascending-order",
    "time-cache-a-frame-old",
    "length-in-feature-frames",
    "lengths-one-short",
    "kernels-flipped",
    "tensor-in-int8",
    "kernel-flipped-nothing-named",
    "gates-as-torch",
    "state-never-advanced",
    "cache-as-a-ring",
    "reset-once",
}
OF_PORTERS_ON_THE_SECOND_MODEL = {
    "norm-folded-with-another-epsilon",
    "positions-in-ascending-order",
    "square-matrices-untransposed",
    "time-cache-a-frame-old-nothing-named",
    "length-after-the-chunk",
}
UNHARMED_BY_PORTERS = {
    "porter-all-renamed",
    "porter-gemm",
    "porter-glu-by-slices",
    "porter-mask-added",
    "porter-scale-in-the-queries",
    "porter-softmax-written-out",
}


def chosen(planted, names):
    """Those of these names; a name that is gone is an error."""
    assert names <= {one.name for one in planted}
    return pytest.mark.parametrize("planted", [p for p in planted if p.name in names], ids=lambda p: p.name)


def in_the_demo_model(planted):
    return chosen(planted, {one.name for one in planted if one.only in (None, "demo")})


def found_as_it_should_be(bench, fault):
    row = score(bench, fault)
    assert row.detected
    assert row.wrong == [], row


@in_the_demo_model(FAULTS)
def test_fault_is_found(demo, planted):
    found_as_it_should_be(demo, planted)


@chosen(FAULTS, ON_THE_SECOND_MODEL)
def test_fault_is_found_in_another_model(regular, planted):
    found_as_it_should_be(regular, planted)


@chosen(PORTERS.faults, OF_PORTERS)
def test_fault_of_a_porter_is_found(demo, planted):
    found_as_it_should_be(demo, planted)


@chosen(PORTERS.faults, OF_PORTERS_ON_THE_SECOND_MODEL)
def test_fault_of_a_porter_is_found_in_another_model(regular, planted):
    found_as_it_should_be(regular, planted)


@in_the_demo_model(OWN.changes)
def test_harmless_change_passes(demo, planted):
    assert alarm(demo, planted) == ""


@chosen(OWN.changes, UNHARMED_ON_THE_SECOND_MODEL)
def test_harmless_change_to_another_model_passes(regular, planted):
    assert alarm(regular, planted) == ""


@chosen(PORTERS.changes, UNHARMED_BY_PORTERS)
def test_harmless_change_of_a_porter_passes(demo, planted):
    assert alarm(demo, planted) == ""


def test_a_fault_at_its_weakest_is_found(demo):
    fault = next(fault for fault in FAULTS if fault.name == "log-guard")
    strength = weakest(demo, fault)
    assert strength is not None
    assert strength < fault.strengths[0]
    row = score(demo, fault, strength)
    assert row.tokens_equal is False
    assert row.wrong == []


@chosen(PORTERS.faults, {"window-periodic", "left-context-halved", "gates-as-torch", "starts-with-label-zero"})
def test_a_fault_changes_the_port_from_the_expected_chunk_on(demo, planted):
    first, most = effect(demo, planted.plant(demo, 1.0))
    assert first == planted.expected_chunk(demo)
    assert most > 1e-3


@chosen(PORTERS.changes, {"porter-pointwise-as-matmul", "porter-softmax-written-out"})
def test_a_harmless_change_changes_nothing_that_is_felt(demo, planted):
    first, most = effect(demo, planted.plant(demo))
    assert first is None
    assert most < 1e-5


def test_a_port_that_cannot_be_opened_is_wrong_from_the_start(demo):
    fault = next(fault for fault in GRAPH_FAULTS if fault.name == "ports-missing")
    assert effect(demo, fault.plant(demo, 1.0)) == (0, np.inf)


def row(codes=("mask-missing",), modules=("encoder.layers.1",), any_chunk=False, **found):
    fault = Fault("made-up", lambda bench, strength: Planted(None), codes, modules, any_chunk=any_chunk)
    defaults = {"detected": True, "chunk": 0, "module": modules[0] if modules else None, "code": "mask-missing"}
    return Row("demo", fault, None, expected_chunk=0, expected_modules=modules, also=(), tokens_equal=None, seconds=1.0,
               **defaults | found)  # fmt: skip


def test_one_of_several_right_answers_is_enough_and_no_other():
    several = {"codes": ("mask-missing", "graph-differs"), "modules": ("outputs", "encoder.layers.1")}
    assert row(**several, code="graph-differs", module="encoder.layers.1.self_attn").wrong == []
    assert row(**several, code="drift", module="encoder.layers.10", chunk=1).wrong == ["chunk", "module", "diagnosis"]
    assert row(code="graph-differs").wrong == ["diagnosis"]
    assert row(detected=False, chunk=None, module=None, code=None).wrong == [*row().verdicts]


def test_what_has_no_right_answer_is_not_counted_as_right():
    assert row(codes=(), modules=(), any_chunk=True).verdicts == {"detection": True}


@pytest.mark.parametrize(
    ("own", "porters", "alarms", "met"),
    [
        ([row()] * 10, [row()] * 10, [], True),
        ([row()] * 10, [row()] * 8 + [row(code="drift")] * 2, [], True),  # nine of ten, all together
        ([row()] * 10, [row()] * 7 + [row(code="drift")] * 3, [], False),
        ([row()] * 99, [row(chunk=1)], [], False),
        ([row()] * 10, [row()] * 10, ["an-alarm"], False),
    ],
)
def test_requirements_are_held_against_all_sets_together(own, porters, alarms, met):
    lines = []
    found = [Found("demo", of, 1, rows, alarms) for of, rows in zip(SETS, (own, porters), strict=True)]
    assert conclude(found, lines.append) is met
    assert sum(line.startswith("demo, ") for line in lines) == 4  # each set, all together, the slowest
    assert lines[-1].startswith(f"requirements {'met' if met else 'NOT met'}")


def test_the_battery_is_as_large_as_promised():
    faults, changes = ([one.name for of in SETS for one in getattr(of, kind)] for kind in ("faults", "changes"))
    assert len({*faults, *changes}) == len(faults) + len(changes)
    assert len({fault.name for fault in OWN.faults}) >= 40
    assert len({change.name for change in OWN.changes}) >= 20
