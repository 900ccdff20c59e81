"""Error rates, robustness and swaps, where the right answer is known by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from streamparity.decisions.robustness import robustness
from streamparity.decisions.sides import Side, decoded
from streamparity.decisions.swap import culprits, swap
from streamparity.decisions.transcripts import transcripts
from streamparity.dump import Decoder
from streamparity.dump.noise_floor import FloorFigures, NoiseFloor

from .tiny import Tiny


def test_error_rates_by_hand():
    texts = {"reference": "one two three four", "candidate": "one too three", "offline": "one two three"}
    found, why = transcripts(texts)
    rates = found["error_rates"]
    assert why is None
    assert rates["candidate_to_reference"]["wer"] == 2 / 4
    assert (rates["candidate_to_reference"]["substitutions"], rates["candidate_to_reference"]["deletions"]) == (1, 1)
    assert rates["candidate_to_offline"]["wer"] == pytest.approx(1 / 3)
    assert rates["reference_to_offline"]["insertions"] == 1
    assert rates["candidate_to_offline"]["cer"] == pytest.approx(1 / 13)


def test_no_rate_without_words_and_none_without_jiwer(monkeypatch):
    assert transcripts({"reference": "", "candidate": "a", "offline": None})[0]["error_rates"] == {}
    monkeypatch.setitem(sys.modules, "jiwer", None)
    found, why = transcripts({"reference": "a", "candidate": "a", "offline": None})
    assert found["error_rates"] is None
    assert "streamparity[wer]" in why


class Linear:
    """A CTC head whose margins have gradients known by hand."""

    weights = np.array([[3, 0], [-1, 0], [0, 0]], np.float32).T  # [D, V + 1]: label 0, label 1, blank

    def scores(self, frames):
        return (frames @ self.weights).astype(np.float32)


def test_robustness_is_margin_over_gain():
    rules = Decoder("ctc", 2, None, (), ("a", "b"))
    frames = [np.array([[1.0, 5.0], [0.5, -7.0]], np.float32)]
    trace, rows = decoded(Linear(), rules, frames)
    floor = NoiseFloor({"float32": {"outputs": FloorFigures(0.01, 0.001)}}, {})
    found = robustness(Linear(), rules, frames, trace.steps, rows, floor)
    # Label 0 over blank on the second frame: 1.5, with gradient (3, 0).
    assert found["smallest_margin"] == pytest.approx(1.5, rel=1e-5)
    assert found["at"] == {"chunk": 0, "frame": 1, "step": 0}
    assert found["survives_max_abs"] == pytest.approx(0.5, rel=1e-3)
    assert found["survives_rmse"] == pytest.approx(0.5, rel=1e-3)
    assert found["floors"] == pytest.approx(50, rel=1e-3)
    assert found["confirmed"] is True
    without = robustness(None, rules, frames, trace.steps, rows, floor)
    assert (without["examined"], without["survives_max_abs"], without["confirmed"]) == (0, None, None)


@pytest.mark.parametrize("cause", ["encoder", "predictor", "joint"])
def test_swaps_find_the_part_that_was_changed(cause):
    found = 0
    for seed in range(6):
        ours, theirs = Tiny(seed), Tiny(seed)
        frames, others = ours.frames(), theirs.frames()
        if cause == "encoder":
            others = [2 * chunk + 1 for chunk in others]
        elif cause == "predictor":
            theirs.embedding = np.roll(theirs.embedding, 1, axis=0)
        else:
            theirs.last = np.roll(theirs.last, 1, axis=1)
        expected, _ = decoded(ours, ours.rules, frames)
        rows = swap(Side(frames, ours), Side(others, theirs), expected, ours.rules)
        assert len(rows) == 8
        assert rows[0].flip is None
        own = rows[-1].flip
        if own is not None:
            found += 1
            assert culprits(rows, own) == [cause]
    assert found >= 4
    same = swap(Side(frames, ours), Side(frames, ours), expected, ours.rules)
    assert all(row.flip is None for row in same)
    assert culprits(same, None) == []
    # What the model does not do by the rules, the loop did.
    assert culprits(same, own) == ["decoding logic"]
