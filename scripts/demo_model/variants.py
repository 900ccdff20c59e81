"""Other models that people port, small and with random weights: parakeet-like TDT, hybrid RNN-T/CTC, CTC.

.venv/bin/python scripts/make_variant.py tdt|hybrid|ctc OUT.nemo
"""

from __future__ import annotations

import os
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

DURATIONS = [0, 1, 2, 3, 4]


def tdt(config: dict[str, Any]) -> None:
    """As parakeet-tdt: durations, unlimited regular attention, batch norm, symmetric convolution, per_feature."""
    config["model_defaults"] |= {"tdt_durations": DURATIONS, "num_tdt_durations": len(DURATIONS)}
    config["joint"]["num_extra_outputs"] = len(DURATIONS)
    config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": DURATIONS, "sigma": 0.02, "omega": 0.1}}
    config["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
    config["preprocessor"]["normalize"] = "per_feature"
    config["encoder"] |= {
        "causal_downsampling": False,
        "att_context_size": [-1, -1],
        "att_context_probs": None,
        "att_context_style": "regular",
        "conv_context_size": None,
        "conv_norm_type": "batch_norm",
        "use_bias": False,
        "xscaling": True,
    }


def ctc(config: dict[str, Any]) -> None:
    for key in ("joint", "model_defaults", "loss"):
        del config[key]
    config["decoder"] = CTC_HEAD
    config["decoding"] = {"strategy": "greedy_batch"}


def hybrid(config: dict[str, Any]) -> None:
    config["decoding"]["greedy"] = {"max_symbols_per_step": 3}  # the other name that NeMo takes
    config["aux_ctc"] = {
        "ctc_loss_weight": 0.3,
        "ctc_reduction": "mean_batch",
        "decoder": CTC_HEAD,
        "decoding": {"strategy": "greedy_batch"},
    }


CTC_HEAD = {
    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
    "feat_in": 64,
    "num_classes": -1,
    "vocabulary": [],
}
MODELS = {
    "tdt": (tdt, "EncDecRNNTBPEModel"),
    "ctc": (ctc, "EncDecCTCModelBPE"),
    "hybrid": (hybrid, "EncDecHybridRNNTCTCBPEModel"),
}
# How each streams: arguments of streamparity's StreamingOptions.
STREAMING: dict[str, dict[str, Any]] = {
    "tdt": {"att_context": (256, -1), "chunk_size": 6, "shift_size": 3},
    "ctc": {"att_context": (70, 1)},
    "hybrid": {"att_context": (70, 1)},
}
# Random heads hardly tell frames apart: scaled up, they emit many labels.
SHARPNESS = 4.0
# And blanks between them.
BLANK_BIAS = 2.0


def save_variant(name: str, path: Path, seed: int = 3) -> None:
    """Make the model ``name`` of :data:`MODELS` and save it as a ``.nemo`` file."""
    from streamparity.reference.nemo import import_nemo, quiet

    models = import_nemo()
    import soundfile
    import torch
    from omegaconf import OmegaConf

    from streamparity.demo import demo_audio, demo_recordings

    from .model import configuration, initialise_from_data, train_tokenizer

    change, kind = MODELS[name]
    path, home = path.resolve(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            os.chdir(folder)  # NeMo looks for the tokenizer where it runs
            train_tokenizer(Path("tokenizer"))
            torch.manual_seed(seed)
            config = deepcopy(configuration("tokenizer"))
            change(config)
            model = getattr(models, kind)(cfg=OmegaConf.create(config))
            with torch.no_grad(), demo_audio(demo_recordings()[0]) as audio:
                signal = torch.from_numpy(soundfile.read(audio, dtype="float32")[0])[None]
                lengths = torch.tensor([signal.shape[1]])
                initialise_from_data(model, *model.preprocessor(input_signal=signal, length=lengths))
                for head in _heads(model):
                    head.weight.mul_(SHARPNESS)
                    head.bias[model.tokenizer.vocab_size] += BLANK_BIAS
            model.save_to(str(path))
        finally:
            os.chdir(home)


def _heads(model: Any) -> list[Any]:
    """The last layers of whatever scores labels."""
    last = [model.joint.joint_net[-1]] if hasattr(model, "joint") else []
    for name in ("ctc_decoder", "decoder"):
        layers = getattr(getattr(model, name, None), "decoder_layers", None)
        last += [] if layers is None else [layers[0]]
    return last
