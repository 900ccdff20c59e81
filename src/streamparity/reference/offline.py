"""The transcript of a recording decoded at once, at the same attention context: what streaming should come to."""

from __future__ import annotations

from typing import Any

import numpy as np

from .features import FeatureStream
from .nemo import ctc_head, decoder_of


def offline_text(module: Any, features: FeatureStream) -> str | None:
    """Encode all features in one pass and decode them with the head that the model is set to use.

    Args:
        module: the NeMo model, set up to stream.
        features: of the whole recording; all of them are in memory at once.

    Returns:
        The text, ``None`` for a model that decodes nothing.
    """
    import torch

    decoder = decoder_of(module)
    if decoder is None:
        return None
    dtype, device = next(module.encoder.parameters()).dtype, module.device
    signal = torch.from_numpy(np.ascontiguousarray(features.frames(0, features.total_frames))).to(device, dtype)
    with torch.inference_mode():
        encoded, lengths = module.encoder(audio_signal=signal, length=torch.tensor([signal.shape[2]], device=device))
        if decoder.kind == "ctc":
            spelling = module.ctc_decoding if hasattr(module, "joint") else module.decoding
            head = ctc_head(module)
            assert head is not None
            found = spelling.ctc_decoder_predictions_tensor(head(encoder_output=encoded), decoder_lengths=lengths)
        else:
            found = module.decoding.rnnt_decoder_predictions_tensor(encoded, lengths, return_hypotheses=True)
    return str(found[0].text)
