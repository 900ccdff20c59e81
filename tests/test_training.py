"""The scripts that made the demo model."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


def brute_force(log_probs: np.ndarray, targets: list[int], blank: int) -> float:
    """Sum over every alignment of one utterance, one by one."""
    frames, labels = log_probs.shape[0], len(targets)
    total = -np.inf
    # An alignment is a path of labels and blanks that ends with a blank in the last frame.
    for places in itertools.combinations(range(frames - 1 + labels), labels):
        t = u = 0
        score = 0.0
        for step in range(frames - 1 + labels):
            score += log_probs[t, u, targets[u] if step in places else blank]
            t, u = (t, u + 1) if step in places else (t + 1, u)
        total = np.logaddexp(total, score + log_probs[t, u, blank])
    return -total


def test_rnnt_loss_sums_every_alignment():
    torch = pytest.importorskip("torch")
    from demo_model.loss import rnnt_loss

    rng = np.random.default_rng(0)
    sizes = [(1, 0), (1, 2), (5, 3), (6, 1)]
    frames, labels = (max(column) for column in zip(*sizes, strict=True))
    logits = torch.from_numpy(rng.normal(size=(len(sizes), frames, labels + 1, 4)) * 3)
    log_probs = logits.log_softmax(-1)
    targets = torch.from_numpy(rng.integers(0, 3, (len(sizes), labels)))
    lengths = torch.tensor(sizes)
    losses = rnnt_loss(log_probs, targets, lengths[:, 0], lengths[:, 1], blank=3)
    expected = [
        brute_force(log_probs[i, :t, : u + 1].numpy(), targets[i, :u].tolist(), 3) for i, (t, u) in enumerate(sizes)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-9)


PROGRAM = """
import sys
from pathlib import Path
from train_demo_model import make_model
from streamparity.reference.nemo import load_model, weights_sha256
for run, seed in enumerate([1, 1, 2]):
    out = Path(sys.argv[1]) / str(run)
    out.mkdir()
    make_model(out, utterance_count=40, steps=2, seed=seed)
    print("weights", weights_sha256(load_model(str(out / "demo.nemo")).module))
"""


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: no speech to train on")
def test_training_is_deterministic_from_its_seed(tmp_path):
    # In a process of its own: training changes how glibc allocates.
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    first, again, other = [line for line in done.stdout.splitlines() if line.startswith("weights ")]
    assert first == again != other
