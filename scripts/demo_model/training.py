"""Batches made on the fly in a second process, and the training loop."""

from __future__ import annotations

import ctypes
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from nemo.collections.asr.models import EncDecRNNTBPEModel
from torch.utils.data import DataLoader, Dataset

from .loss import rnnt_loss
from .model import initialise_from_data
from .speech import DIGITS, record

BATCH = 32
PEAK_RATE = 2e-3
WARM_UP = 200
CTC_WEIGHT = 0.5
ACTIVATION_LIMIT = 2.0
ACTIVATION_WEIGHT = 0.02
LEADING_ZERO_FRAMES = 9  # the padded schedule's first chunk begins with the pre-encode cache, all zero


@dataclass
class Batch:
    """Features ``[B, mel, T]``, their lengths ``[B]``, BPE targets ``[B, U]`` and word targets ``[B, W]``."""

    features: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor
    words: torch.Tensor
    word_lengths: torch.Tensor


class Batches(Dataset):
    """Batch ``i`` depends on ``(seed, i)`` alone."""

    def __init__(
        self,
        speech: list[np.ndarray],
        transcripts: list[tuple[str, ...]],
        encode: Callable[[str], list[int]],
        preprocessor: torch.nn.Module,
        steps: int,
        seed: int,
    ) -> None:
        self.speech, self.transcripts, self.encode = speech, transcripts, encode
        self.preprocessor, self.steps, self.seed = preprocessor, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, index])
        # Utterances of like length share a batch: draw four batches' worth, sort, keep one quarter.
        drawn = []
        for _ in range(4 * BATCH):
            count = 1 if rng.random() < 0.75 else int(rng.integers(2, 4))
            drawn.append(rng.integers(len(self.speech), size=count))
        drawn.sort(key=lambda pieces: sum(self.speech[i].size for i in pieces))
        start = int(rng.integers(4)) * BATCH
        features, targets, words = [], [], []
        for pieces in drawn[start : start + BATCH]:
            features.append(self._features(rng, record(rng, [self.speech[i] for i in pieces])))
            spoken = [word for i in pieces for word in self.transcripts[i]]
            targets.append(torch.tensor(self.encode(" ".join(spoken))))
            words.append(torch.tensor([DIGITS.index(word) for word in spoken]))
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            features=pad([f.T for f in features], batch_first=True).transpose(1, 2),
            lengths=torch.tensor([f.shape[1] for f in features]),
            targets=pad(targets, batch_first=True),
            target_lengths=torch.tensor([len(t) for t in targets]),
            words=pad(words, batch_first=True),
            word_lengths=torch.tensor([len(w) for w in words]),
        )

    @torch.no_grad()
    def _features(self, rng: np.random.Generator, samples: np.ndarray) -> torch.Tensor:
        signal = torch.from_numpy(samples)[None]
        mel, length = self.preprocessor(input_signal=signal, length=torch.tensor([signal.shape[1]]))
        mel = mel[0, :, : int(length)]
        lead = LEADING_ZERO_FRAMES if rng.random() < 0.4 else 0
        return torch.nn.functional.pad(mel, (lead, int(rng.integers(0, 9))))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to a hundredth of the peak."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, steps - WARM_UP)
    return PEAK_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class ActivationPenalty:
    """Keeps block outputs in single digits.

    Zero frames lie far outside the features' range and would drive ``pre_encode`` past 100, where one float32 rounding
    is 1e-5: too coarse for a model that is to show parity.
    """

    def __init__(self, model: EncDecRNNTBPEModel) -> None:
        self._excess: list[torch.Tensor] = []
        blocks = [model.encoder.pre_encode]
        for layer in model.encoder.layers:
            blocks += [layer.feed_forward1, layer.self_attn, layer.conv, layer.feed_forward2]
        for block in blocks:
            block.register_forward_hook(self._hook)

    def _hook(self, _module: torch.nn.Module, _inputs: object, output: object) -> None:
        values = output[0] if isinstance(output, tuple) else output
        self._excess.append((values.abs() - ACTIVATION_LIMIT).clamp(min=0).square().mean())

    def take(self) -> torch.Tensor:
        """The penalty of the forward pass just made."""
        penalty = torch.stack(self._excess).sum()
        self._excess.clear()
        return ACTIVATION_WEIGHT * penalty


def loss_of(model: EncDecRNNTBPEModel, words_head: torch.nn.Linear, batch: Batch) -> torch.Tensor:
    """RNN-T loss per target token plus a weighted word-level CTC loss on the encoder output."""
    encoded, frames = model.encoder(audio_signal=batch.features, length=batch.lengths)
    predicted, _, _ = model.decoder(targets=batch.targets, target_length=batch.target_lengths)
    logits = model.joint.joint(encoded.transpose(1, 2), predicted.transpose(1, 2))
    transducer = rnnt_loss(
        logits.log_softmax(dim=-1), batch.targets, frames, batch.target_lengths, model.joint.num_classes_with_blank - 1
    )
    per_token = transducer.sum() / batch.target_lengths.sum()
    word_log_probs = words_head(encoded.transpose(1, 2)).log_softmax(dim=-1).transpose(0, 1)
    ctc = torch.nn.functional.ctc_loss(
        word_log_probs, batch.words, frames, batch.word_lengths, blank=len(DIGITS), reduction="none", zero_infinity=True
    )
    return per_token.float() + CTC_WEIGHT * ctc.sum() / batch.word_lengths.sum()


def keep_freed_memory() -> None:
    """Tell glibc not to give large blocks back: training is then 1.7 times faster, as batches differ in length."""
    m_trim_threshold, m_mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def train(
    model: EncDecRNNTBPEModel, speech: list[np.ndarray], transcripts: list[tuple[str, ...]], steps: int, seed: int
) -> None:
    """Train in place. One thread trains; a second process makes the batches."""
    keep_freed_memory()
    torch.set_num_threads(1)
    random.seed(seed)  # ConformerEncoder draws each batch's attention context from this generator
    torch.manual_seed(seed)
    data = Batches(speech, transcripts, model.tokenizer.text_to_ids, model.preprocessor, steps, seed)
    warm = data[0]
    initialise_from_data(model, warm.features, warm.lengths)
    words_head = torch.nn.Linear(model.encoder.d_model, len(DIGITS) + 1)
    penalty = ActivationPenalty(model)
    parameters = [*model.encoder.parameters(), *model.decoder.parameters(), *model.joint.parameters()]
    parameters += list(words_head.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    model.train()
    started, running = time.monotonic(), 0.0
    batches = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=8, multiprocessing_context="fork")
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = loss_of(model, words_head, batch) + penalty.take()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {running:.3f}  {time.monotonic() - started:6.0f} s", flush=True)
    model.eval()
