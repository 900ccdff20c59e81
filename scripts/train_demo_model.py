"""Train the demo model, choose the demo recordings, measure both, and write the model card.

    .venv/bin/python scripts/train_demo_model.py --out src/streamparity/data

Needs ``espeak-ng`` on the PATH (Debian package ``espeak-ng``). Under half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import open_dict

from demo_model import card, recordings
from demo_model.calibration import calibrate
from demo_model.evaluation import measure
from demo_model.model import build, train_tokenizer
from demo_model.speech import SAMPLE_RATE, TRAINING_RATES, TRAINING_VARIANTS, random_utterance, synthesise
from demo_model.training import train
from streamparity.reference.nemo import load_model

RECIPE = "RECIPE.txt"


def make_model(out: Path, utterance_count: int, steps: int, seed: int) -> None:
    """Speak, train, and save ``demo.nemo`` with a line on how it was made."""
    started = time.monotonic()
    target = out.resolve() / "demo.nemo"
    rng = np.random.default_rng(seed)
    utterances = [
        random_utterance(rng, TRAINING_VARIANTS, (1, 6), rates=TRAINING_RATES) for _ in range(utterance_count)
    ]
    speech = synthesise(utterances)
    hours = sum(samples.size for samples in speech) / SAMPLE_RATE / 3600
    print(f"{len(speech)} utterances, {hours:.1f} h, spoken in {time.monotonic() - started:.0f} s", flush=True)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the saved configuration then names the tokenizer by a relative path
        train_tokenizer(Path("tokenizer"))
        torch.manual_seed(seed)
        model = build("tokenizer")
        train(model, speech, [utterance.words for utterance in utterances], steps, seed)
        temperature = calibrate(model, seed + 300)
        with open_dict(model.cfg):
            model.cfg.validation_ds = {}  # NeMo's transcribe() raises without the key
        model.save_to(str(target))
        os.chdir(home)
    print(f"{target.name} after {(time.monotonic() - started) / 60:.0f} minutes", flush=True)
    (out / RECIPE).write_text(
        f"{len(speech):,} utterances of 1 to 6 digits ({hours:.1f} h); {steps:,} steps from seed {seed}; logits then "
        f"divided by {temperature}, the temperature that suits held-out speech best.\n"
    )


def measure_model(out: Path, seed: int) -> None:
    """Choose the recordings, measure the word error rate, write the card."""
    torch.set_num_threads(1)
    model = load_model(str(out / "demo.nemo"))
    chosen = recordings.choose(model, seed + 100)
    recordings.write(chosen, out)
    rates = measure(model, seed + 200)
    size = (out / "demo.nemo").stat().st_size
    card.write(out / "MODEL_CARD.md", model, rates, chosen, size, (out / RECIPE).read_text().strip())
    (out / RECIPE).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for demo.nemo, the recordings and the card")
    parser.add_argument("--utterances", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make_model(options.out, options.utterances, options.steps, options.seed)
    measure_model(options.out, options.seed)


if __name__ == "__main__":
    main()
