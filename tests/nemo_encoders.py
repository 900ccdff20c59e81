"""Encoders of every attention style that streams, too small to take time, and NeMo's streaming buffer over them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

SMALL = {
    "feat_in": 8,
    "n_layers": 2,
    "d_model": 8,
    "n_heads": 2,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 4,
    "causal_downsampling": True,
    "conv_kernel_size": 9,
    "conv_norm_type": "layer_norm",
    "conv_context_size": "causal",
    "att_context_style": "chunked_limited",
    "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
    "pos_emb_max_len": 1024,
}
# What each differs in from SMALL. The third is parakeet's; the fourth looks ahead by convolution and by attention.
ENCODERS: dict[str, dict[str, Any]] = {
    "chunked": {},
    "striding-by-4": {"subsampling": "striding", "subsampling_factor": 4},
    "unlimited": {
        "att_context_style": "regular",
        "att_context_size": [-1, -1],
        "conv_context_size": None,
        "causal_downsampling": False,
    },
    "regular": {"att_context_style": "regular", "att_context_size": [16, 2], "conv_context_size": [6, 2]},
    "regular-causal": {"att_context_style": "regular", "att_context_size": [20, 1]},
}


def small_encoder(name: str) -> Any:
    """A ``ConformerEncoder`` with random weights, in ``eval`` mode."""
    import torch
    from nemo.collections.asr.modules import ConformerEncoder

    from streamparity.reference.nemo import quiet

    torch.manual_seed(0)
    with quiet():
        return ConformerEncoder(**{**SMALL, **ENCODERS[name]}).eval()


def nemo_buffer(encoder: Any, schedule: str) -> Any:
    """NeMo's own buffer over features of one mel band, which cuts as it does over 128."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
    from omegaconf import OmegaConf

    model = SimpleNamespace(
        encoder=encoder,
        device="cpu",
        _cfg=OmegaConf.create({"preprocessor": {"normalize": "NA"}}),
        from_config_dict=lambda config: SimpleNamespace(to=lambda device: None),
    )
    buffer = CacheAwareStreamingAudioBuffer(model, pad_and_drop_preencoded=schedule == "padded")
    buffer.input_features = 1
    return buffer
