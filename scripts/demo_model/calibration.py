"""Temperature scaling (Guo et al., arXiv:1706.04599): less certain, the same decisions.

A model trained to almost no loss puts its logits so far apart that float32 cannot hold them well: what it costs the
joint in rounding grows with their range.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from nemo.collections.asr.models import EncDecRNNTBPEModel

from .evaluation import held_out
from .loss import rnnt_loss

TEMPERATURES = (1, 2, 4, 8)  # powers of two: dividing weights by them is exact
UTTERANCES = 120


@torch.inference_mode()
def _logits(model: EncDecRNNTBPEModel, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Joint logits ``[1, T, U + 1, V + 1]``, encoder frames ``[1]`` and targets ``[1, U]`` of held-out utterances."""
    for recording in held_out(seed, UTTERANCES, (1, 6)):
        signal = torch.from_numpy(recording.samples)[None]
        mel, length = model.preprocessor(input_signal=signal, length=torch.tensor([signal.shape[1]]))
        encoded, frames = model.encoder(audio_signal=mel, length=length)
        targets = torch.tensor([model.tokenizer.text_to_ids(recording.text)])
        predicted, _, _ = model.decoder(targets=targets, target_length=torch.tensor([targets.shape[1]]))
        joint = model.joint
        hidden = joint.enc(encoded.transpose(1, 2))[:, :, None] + joint.pred(predicted.transpose(1, 2))[:, None]
        yield joint.joint_net(hidden), frames, targets


@torch.no_grad()
def calibrate(model: EncDecRNNTBPEModel, seed: int) -> int:
    """Divide the joint's last layer by the temperature under which held-out speech is likeliest; that temperature."""
    loss = dict.fromkeys(TEMPERATURES, 0.0)
    blank = model.joint.num_classes_with_blank - 1
    for logits, frames, targets in _logits(model, seed):
        for temperature in TEMPERATURES:
            log_probs = (logits / temperature).log_softmax(dim=-1)
            loss[temperature] += float(rnnt_loss(log_probs, targets, frames, torch.tensor([targets.shape[1]]), blank))
    best = min(TEMPERATURES, key=lambda temperature: loss[temperature])
    layer = model.joint.joint_net[-1]
    layer.weight /= best
    layer.bias /= best
    print(f"temperature {best}: {loss}", flush=True)
    return best
