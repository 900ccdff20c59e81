"""Make a NeMo model of exactly the architecture of one that people port, with random weights.

    .venv/bin/python scripts/make_model.py nemotron-speech-streaming-en-0.6b --out model.nemo

The published weights are not needed: shapes, ports, chunks, memory and speed are those of the real model, what it
transcribes is not. ``--layers`` makes it shallower, everything else stays.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamparity.reference.nemo import import_nemo, quiet

CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
WORDS = 12_000  # made-up words that the tokenizer is trained on: enough for 8192 pieces
STREAMING_CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]
DURATIONS = [0, 1, 2, 3, 4]


@dataclass(frozen=True)
class Architecture:
    """What sets a model apart from the demo model's configuration.

    Attributes:
        kind: NeMo class.
        vocabulary: pieces of its tokenizer, the blank not counted.
        published: millions of parameters as published.
        rounding: by how many millions that figure may be off.
        features: mel bands.
        normalize: of its features.
        encoder: changes to the encoder's section.
        prediction_layers: LSTM layers of the prediction network.
        durations: TDT durations.
        ctc_head: a CTC decoder beside the transducer.
    """

    kind: str
    vocabulary: int
    published: int
    rounding: int
    features: int
    normalize: str
    encoder: dict[str, Any]
    prediction_layers: int
    durations: tuple[int, ...] = ()
    ctc_head: bool = False

    def configuration(self, tokenizer_folder: str, layers: int | None) -> dict[str, Any]:
        """The whole NeMo configuration."""
        from demo_model.model import configuration  # which imports NeMo, and so does only once it is silenced

        config = configuration(tokenizer_folder)
        width = self.encoder["d_model"]
        config["model_defaults"] = {"enc_hidden": width, "pred_hidden": 640, "joint_hidden": 640}
        config["preprocessor"] |= {"features": self.features, "normalize": self.normalize}
        config["encoder"] |= {
            "feat_in": self.features,
            "n_heads": 8,
            "subsampling_conv_channels": 256,
            "pos_emb_max_len": 5000,
            **self.encoder,
        }
        if layers is not None:
            config["encoder"]["n_layers"] = layers
        config["decoder"]["prednet"] |= {"pred_hidden": 640, "pred_rnn_layers": self.prediction_layers}
        config["joint"]["jointnet"]["joint_hidden"] = 640
        if self.durations:
            config["model_defaults"] |= {
                "tdt_durations": list(self.durations),
                "num_tdt_durations": len(self.durations),
            }
            config["joint"]["num_extra_outputs"] = len(self.durations)
            tdt = {"durations": list(self.durations), "sigma": 0.02, "omega": 0.1}
            config["loss"] = {"loss_name": "tdt", "tdt_kwargs": tdt}
            config["decoding"] |= {"model_type": "tdt", "durations": list(self.durations)}
        if self.ctc_head:
            head = {"feat_in": width, "num_classes": -1, "vocabulary": []}
            config["aux_ctc"] = {
                "ctc_loss_weight": 0.3,
                "ctc_reduction": "mean_batch",
                "decoder": {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", **head},
                "decoding": {"strategy": "greedy_batch"},
            }
        return config


ARCHITECTURES = {
    "nemotron-speech-streaming-en-0.6b": Architecture(
        kind="EncDecRNNTBPEModel",
        vocabulary=1024,
        published=618,
        rounding=1,
        features=128,
        normalize="NA",
        encoder={"n_layers": 24, "d_model": 1024, "use_bias": False, "att_context_size": STREAMING_CONTEXTS},
        prediction_layers=2,
    ),
    "stt_en_fastconformer_hybrid_large_streaming_multi": Architecture(
        kind="EncDecHybridRNNTCTCBPEModel",
        vocabulary=1024,
        published=114,  # "about"
        rounding=1,
        features=80,
        normalize="NA",
        encoder={"n_layers": 17, "d_model": 512, "xscaling": True, "att_context_size": STREAMING_CONTEXTS},
        prediction_layers=1,
        ctc_head=True,
    ),
    "parakeet-tdt-0.6b-v3": Architecture(
        kind="EncDecRNNTBPEModel",
        vocabulary=8192,
        published=600,  # "0.6b": one figure
        rounding=50,
        features=128,
        normalize="per_feature",
        encoder={
            "n_layers": 24,
            "d_model": 1024,
            "use_bias": False,
            "causal_downsampling": False,
            "att_context_size": [-1, -1],
            "att_context_probs": None,
            "att_context_style": "regular",
            "conv_context_size": None,
            "conv_norm_type": "batch_norm",
        },
        prediction_layers=2,
        durations=tuple(DURATIONS),
    ),
}


def made_up_lines(seed: int) -> Iterator[str]:
    """Lines of pronounceable words, so that a tokenizer has something to learn."""
    rng = random.Random(seed)
    for _ in range(WORDS // 6):
        words = [
            "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 5))) for _ in range(6)
        ]
        yield " ".join(words)


def make(name: str, target: Path, layers: int | None = None, seed: int = 0) -> Any:
    """Build a model, save it to ``target`` and return it."""
    architecture, target, home = ARCHITECTURES[name], target.resolve(), Path.cwd()
    models = import_nemo()
    import torch
    from omegaconf import OmegaConf, open_dict

    from demo_model.model import train_tokenizer

    with tempfile.TemporaryDirectory() as folder, quiet():
        os.chdir(folder)  # the saved configuration then names the tokenizer by a relative path
        try:
            train_tokenizer(Path("tokenizer"), made_up_lines(seed), architecture.vocabulary)
            torch.manual_seed(seed)
            config = OmegaConf.create(architecture.configuration("tokenizer", layers))
            model = getattr(models, architecture.kind)(cfg=config)
            with open_dict(model.cfg):
                model.cfg.validation_ds = {}  # NeMo's transcribe() raises without the key
            model.save_to(str(target))
        finally:
            os.chdir(home)
    return model


def parameters_at_full_depth(model: Any, name: str) -> int:
    """Parameters of a model as if it had every encoder layer: they are all alike."""
    count = sum(parameter.numel() for parameter in model.parameters())
    per_layer = sum(parameter.numel() for parameter in model.encoder.layers[0].parameters())
    return count + (ARCHITECTURES[name].encoder["n_layers"] - len(model.encoder.layers)) * per_layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("--out", type=Path, required=True, help="the .nemo file to write")
    parser.add_argument("--layers", type=int, help="encoder layers; default: as many as the model has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace an earlier file")
    options = parser.parse_args()
    if options.out.exists() and not options.force:
        parser.error(f"{options.out} exists: choose another --out, or pass --force")
    if options.layers is not None and options.layers < 1:
        parser.error("--layers must be 1 or more")
    model = make(options.name, options.out, options.layers, options.seed)
    architecture = ARCHITECTURES[options.name]
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    full = parameters_at_full_depth(model, options.name) / 1e6
    print(f"{options.out}: {options.name}, {len(model.encoder.layers)} layers, random weights")
    print(f"parameters: {count:.1f} M, at full depth {full:.1f} M, published {architecture.published} M")
    if abs(full - architecture.published) > architecture.rounding:
        raise SystemExit("error: that is not the published number of parameters: the architecture is another one")


if __name__ == "__main__":
    main()
