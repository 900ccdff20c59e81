"""The demo model: a small causal FastConformer transducer in NeMo's own classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from nemo.collections.asr.models import EncDecRNNTBPEModel
from omegaconf import OmegaConf

from .speech import DIGITS

ATT_CONTEXTS = [[70, 13], [70, 6], [70, 1], [70, 0]]
ATT_CONTEXT_PROBS = [0.2, 0.2, 0.4, 0.2]
MELS = 128
D_MODEL = 64
VOCABULARY = 40


def digit_lines() -> list[str]:
    """Every sequence of three different digit words."""
    return [" ".join(words) for words in itertools.permutations(DIGITS, 3)]


def train_tokenizer(folder: Path, lines: Iterable[str] | None = None, vocabulary: int = VOCABULARY) -> None:
    """Write a BPE of so many pieces where NeMo looks for a tokenizer; by default over the ten digit words."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(digit_lines() if lines is None else lines) + "\n")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=vocabulary,
        normalization_rule_name="identity",  # the default rule adds 240 KB to the model
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    corpus.unlink()
    pieces = [line.split("\t")[0] for line in (folder / "tokenizer.vocab").read_text().splitlines()]
    (folder / "vocab.txt").write_text("\n".join(p for p in pieces if p != "<unk>") + "\n")


def configuration(tokenizer_folder: str) -> dict[str, Any]:
    """The model's NeMo configuration, with the tokenizer in ``tokenizer_folder``."""
    return {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "train_ds": None,
        "validation_ds": None,
        "model_defaults": {"enc_hidden": D_MODEL, "pred_hidden": D_MODEL, "joint_hidden": D_MODEL},
        "tokenizer": {"dir": tokenizer_folder, "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": MELS,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": MELS,
            "feat_out": -1,
            "n_layers": 3,
            "d_model": D_MODEL,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 16,
            "causal_downsampling": True,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": ATT_CONTEXTS,
            "att_context_probs": ATT_CONTEXT_PROBS,
            "att_context_style": "chunked_limited",
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 512,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": D_MODEL, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": D_MODEL, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "default"},
        "optim": {"name": "adamw", "lr": 1e-3},
    }


def build(tokenizer_folder: str) -> EncDecRNNTBPEModel:
    """Instantiate the untrained model."""
    return EncDecRNNTBPEModel(cfg=OmegaConf.create(configuration(tokenizer_folder)))


@torch.no_grad()
def initialise_from_data(model: EncDecRNNTBPEModel, features: torch.Tensor, lengths: torch.Tensor) -> None:
    """Give every layer of ``pre_encode`` zero-mean, unit-deviation outputs on a batch (LSUV, arXiv:1511.06422).

    Log-mel features have mean -11; under the default initialisation the subsampled frames hardly differ in time
    and training stalls. ``features`` is ``[B, mel, T]``, ``lengths`` is ``[B]``.
    """
    pre_encode = model.encoder.pre_encode
    for module in pre_encode.modules():
        if not isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            continue
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output))
        pre_encode(x=features.transpose(1, 2), lengths=lengths)
        handle.remove()
        output = torch.cat(seen)
        others = [axis for axis in range(output.dim()) if axis != (1 if output.dim() == 4 else output.dim() - 1)]
        mean, deviation = output.mean(dim=others), output.std(dim=others).clamp(min=1e-3)
        module.weight /= deviation.view(-1, *[1] * (module.weight.dim() - 1))
        module.bias.copy_((module.bias - mean) / deviation)
