"""Two labels that a model scores all but the same, planted in a real model: who takes the other one is not at fault."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamparity import compare
from streamparity.localize.errors import PieceError
from streamparity.localize.rules.decisions import near_tie
from streamparity.run import RunOptions, run

from .bench import Bench
from .edits import rewrite

BIAS = "joint.joint_net.1.bias"
LEFT = 3e-6  # of the margin that the trained model has


def narrowest(reference):
    """The decision with the smallest margin: margin, chunk, evaluation, label taken, second label."""
    found = []
    for chunk in range(reference.chunk_count):
        for row, scores in enumerate(reference.chunk(chunk)["tap/joint"]):
            second, best = np.argsort(scores)[-2:]
            found.append((float(scores[best] - scores[second]), chunk, row, int(best), int(second)))
    return min(found)


@pytest.fixture(scope="module", params=["demo", "regular"])
def tied(request, tmp_path_factory):
    """A model with one bias shifted so that its hardest decision becomes a tie, its dump and its export.

    The trained model is sure of its labels: there a flip only moves one to another frame. A random one is not.
    """
    from streamparity.reference.nemo import load_model

    bench = request.getfixturevalue(request.param)
    margin, *_, second = narrowest(bench.reference())
    folder = tmp_path_factory.mktemp("tied")
    source = folder / "model.nemo"
    bench.loaded.module.save_to(str(source))
    model = load_model(str(source))
    with torch.no_grad():
        model.module.joint.joint_net[-1].bias[second] += margin - LEFT
    model.module.save_to(str(folder / "tied.nemo"))
    return Bench(request.param, folder, load_model(str(folder / "tied.nemo")), bench.streaming)


def leaning(bench, label, by):
    """The export with the bias of one label moved."""

    def change(bias):
        bias[label] += np.float32(by)
        return bias

    name = f"leaning-{label}-{by:.1e}"
    return bench.edited(name, lambda model: rewrite(model, BIAS, change), "decoder_joint.onnx")


def test_a_tie_that_goes_the_other_way_is_no_fault_and_is_told_with_its_evidence(tied, tmp_path):
    margin, chunk, row, taken, other = narrowest(tied.reference())
    assert 0 <= margin < 1e-5
    nudge = margin + 5e-6
    result = run(
        tied.reference(),
        RunOptions("ort", leaning(tied, other, nudge), localize=True, save=tmp_path / "saved"),
    )
    # Decisions that differ fail the run whatever the cause: the diagnosis says that there is nothing to mend.
    assert result["verdict"] == "fail"
    assert result["tokens"]["equal"] is (tied.name == "demo")
    assert result["tokens"]["near_tie"] is True
    first = result["diagnosis"][0]
    assert (first["code"], first["evidence"]) == ("near-tie-only", result["tokens"]["parting"])
    evidence = first["evidence"]
    assert (evidence["chunk"], evidence["evaluation"]) == (chunk, row)
    assert (evidence["reference"], evidence["candidate"]) == (taken, other)
    assert evidence["margin"] == pytest.approx(margin, abs=1e-6)
    tolerance = next(t for t in result["tensors"] if t["name"] == "joint")["tolerance"]
    assert margin / 2 <= evidence["error"] <= tolerance["atol"]
    assert tolerance["source"] == "noise-floor"
    again = compare(tied.reference().folder, tmp_path / "saved")
    assert again["tokens"] == result["tokens"]


def test_the_same_choice_taken_for_a_real_error_is_no_near_tie(tied):
    *_, taken, other = narrowest(tied.reference())
    result = run(tied.reference(), RunOptions("ort", leaning(tied, other, 1e-2), localize=True))
    assert result["verdict"] == "fail"
    assert result["tokens"]["near_tie"] is False
    assert (result["tokens"]["parting"]["reference"], result["tokens"]["parting"]["candidate"]) == (taken, other)
    codes = [cause["code"] for cause in result["diagnosis"]]
    assert "near-tie-only" not in codes
    assert codes[0] == "weights-differ"


def test_where_nothing_flips_nothing_is_near(tied):
    *_, taken, _ = narrowest(tied.reference())
    result = run(tied.reference(), RunOptions("ort", leaning(tied, taken, 2e-5), localize=True))
    assert result["verdict"] == "pass"
    assert (result["tokens"]["near_tie"], result["tokens"]["parting"]) == (False, None)


def test_a_fault_beside_a_near_tie_is_not_excused_by_it():
    parting = {"chunk": 3, "evaluation": 0, "reference": 1, "candidate": 2, "margin": 1e-6, "error": 1e-6}

    def case(tensor=None, introduced=None, chunk=3, near=True):
        return SimpleNamespace(
            tokens={"near_tie": near, "parting": parting},
            divergence=None if tensor is None else {"tensor": tensor},
            introduced=introduced,
            chunk=chunk,
            specs=[SimpleNamespace(label="joint", kind="decoder"), SimpleNamespace(label="outputs", kind="output")],
            replayed={"joint": PieceError(1e-6, 0.5)},
        )

    for told in (case(), case("joint"), case("joint", chunk=4)):
        assert [finding.code for finding in near_tie(told)] == ["near-tie-only"]
    for fault in (case("joint", "joint"), case("joint", chunk=2), case("outputs"), case(near=False), case(near=None)):
        assert list(near_tie(fault)) == []
