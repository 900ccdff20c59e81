"""The model card, written from what was measured."""

from __future__ import annotations

from pathlib import Path

from streamparity.reference.nemo import LoadedModel, weights_sha256

from .evaluation import SETS
from .model import ATT_CONTEXT_PROBS, ATT_CONTEXTS, D_MODEL, MELS, VOCABULARY
from .recordings import Chosen
from .speech import ACCENTS, HELD_OUT_RATES, HELD_OUT_VARIANTS, TRAINING_RATES, TRAINING_VARIANTS
from .training import ACTIVATION_LIMIT, BATCH, CTC_WEIGHT, PEAK_RATE, WARM_UP


def write(
    target: Path, model: LoadedModel, rates: dict[str, dict[str, float]], chosen: list[Chosen], size: int, recipe: str
) -> None:
    """Write ``MODEL_CARD.md``.

    Args:
        target: the file.
        model: the trained model.
        rates: word error rate by set and attention context.
        chosen: the recordings that ship.
        size: bytes of ``demo.nemo``.
        recipe: what was trained on, how long, from which seed.
    """
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    contexts = [str(context) for context in ATT_CONTEXTS]
    rows = [
        f"| {name} | {SETS[name][0]} | " + " | ".join(f"{100 * rates[name][c]:.2f} %" for c in contexts) + " |"
        for name in rates
    ]
    recordings = [
        f"| `{item.name}.wav` | {item.seconds:.1f} s | {item.recording.voice} | {item.misheard} | "
        f"{item.recording.text} |"
        for item in chosen
    ]
    target.write_text(f"""# Demo model: spoken digits, streaming

A NeMo `EncDecRNNTBPEModel` small enough to ship, that really hears. It exists to show and to test streamparity; it
knows ten words, in synthetic voices.

## Model
Causal FastConformer: 3 layers, d_model {D_MODEL}, 4 heads, feed-forward x4, causal convolution of kernel 9 with
layer norm, `dw_striding` subsampling x8 (causal), `chunked_limited` attention, contexts {", ".join(contexts)},
{MELS} log-mels, `normalize: NA`. Two-layer LSTM prediction network and joint of width {D_MODEL}, {VOCABULARY} BPE
pieces and blank. {parameters:,} parameters; `demo.nemo` is {size:,} bytes; weights SHA-256
`{weights_sha256(model.module)}`.

## Data
{recipe}
espeak-ng, {len(TRAINING_VARIANTS)} voice variants x {", ".join(ACCENTS)}, speed 115 to 200, pitch 20 to 85,
resampled by {TRAINING_RATES[0]} to {TRAINING_RATES[1]} (held out: {HELD_OUT_RATES[0]} to {HELD_OUT_RATES[1]}).
On the fly: silence before and after, gain, white and coloured noise at 12 to 45 dB in three quarters, a quarter joined
two or three together; nine zero frames in front of 40 % and 0 to 8 behind, as the padded schedule and NeMo's streaming
buffer have them. {len(HELD_OUT_VARIANTS)} voice variants are held out:
{", ".join(HELD_OUT_VARIANTS)}.

## Training
RNN-T loss per token plus {CTC_WEIGHT} of a word-level CTC loss on a throw-away layer, and a penalty on block outputs
beyond {ACTIVATION_LIMIT}. AdamW {PEAK_RATE} (0.9, 0.98), weight decay 1e-3, {WARM_UP} warm-up steps, cosine, clip 1,
batch {BATCH}; attention context drawn per batch ({", ".join(str(p) for p in ATT_CONTEXT_PROBS)}). `pre_encode` is
initialised from data.

## Word error rate
By streaming (padded schedule, batch 1, greedy), held-out voices, recorded under the conditions of training:

| digits per utterance | utterances | {" | ".join(contexts)} |
|---|---|{"---|" * len(contexts)}
{chr(10).join(rows)}

## Recordings
Held-out voices, no digit twice in a row (the model's commonest error). Each is the first of its length that is
transcribed right in all four contexts; the fourth column counts those passed over.

| file | length | voice | passed over | said |
|---|---|---|---|---|
{chr(10).join(recordings)}

Made by `scripts/train_demo_model.py`; weights are deterministic from the seed on one kind of CPU and torch build.
""")
