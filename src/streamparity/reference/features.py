"""Log-mel features of a recording by NeMo's own preprocessor, block by block.

NeMo's streaming buffer computes the features of the whole recording at once. Here they are computed in blocks on a
fixed grid, each from just the samples its frames touch, so that memory does not grow with the recording and any block
can be computed again to the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import StreamparityError
from ..schedule import WHOLE_UTTERANCE, FrameGrid
from ..tensors import Array
from .audio import Recording, SampleWindow

BLOCK_FRAMES = 128
STD_FLOOR = 1e-5  # nemo normalize_batch's CONSTANT


class FeatureStream:
    """Feature frames of one recording, as ``CacheAwareStreamingAudioBuffer`` would hold them.

    The buffer counts the preprocessor's last, zero-filled frame as valid, and so does this: there are
    ``samples // hop + 1`` frames and the last is zero.

    Args:
        model: a NeMo model.
        recording: at the model's sample rate.

    Attributes:
        total_frames: feature frames in all.
        frame_seconds: time from one frame to the next.

    Raises:
        StreamparityError: the model's preprocessor is not a mel spectrogram.
    """

    def __init__(self, model: Any, recording: Recording) -> None:
        from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
        from omegaconf import OmegaConf

        config: Any = OmegaConf.create(OmegaConf.to_container(model.cfg.preprocessor, resolve=True))
        self.normalize = config.get("normalize", "per_feature")
        # As CacheAwareStreamingAudioBuffer.extract_preprocessor does.
        config.dither, config.pad_to = 0.0, 0
        if self.normalize in WHOLE_UTTERANCE:
            config.normalize = "NA"
        self._preprocessor = model.from_config_dict(config).to(model.device).eval()
        if not isinstance(self._preprocessor, AudioToMelSpectrogramPreprocessor):
            raise StreamparityError(
                f"the model's preprocessor is {type(self._preprocessor).__name__}, not a mel spectrogram",
                "streaming features are known for AudioToMelSpectrogramPreprocessor only",
            )
        featurizer = self._preprocessor.featurizer
        if featurizer.exact_pad:
            raise StreamparityError(
                "the model's preprocessor has exact_pad set: its frames are not centred on their samples",
                "no streaming model with such features is known; please report it",
            )
        self._grid = FrameGrid(recording.sample_rate, featurizer.hop_length, featurizer.win_length)
        self.frame_seconds = featurizer.hop_length / recording.sample_rate
        self._samples = SampleWindow(recording)
        self.total_frames = self._grid.frames(recording.samples)
        self._spoken = self.total_frames - 1
        self._cache: dict[int, Array] = {}
        self._mean: Array | None = None
        self._std: Array | None = None
        if self.normalize in WHOLE_UTTERANCE:
            self._mean, self._std = self._statistics()

    def frames(self, start: int, stop: int) -> Array:
        """Features ``[1, mel, stop - start]`` of frames ``[start, stop)``, float32."""
        first, last = start // BLOCK_FRAMES, max(stop - 1, start) // BLOCK_FRAMES
        self._cache = {index: block for index, block in self._cache.items() if index >= first}
        for index in range(first, last + 1):
            if index not in self._cache:
                self._cache[index] = self._normalised(index)
        joined = np.concatenate([self._cache[index] for index in range(first, last + 1)], axis=1)
        wanted: Array = joined[None, :, start - first * BLOCK_FRAMES : stop - first * BLOCK_FRAMES].copy()
        return wanted

    def _normalised(self, index: int) -> Array:
        block = self._block(index)
        if self._mean is None or self._std is None:
            return block
        spoken = max(0, self._spoken - index * BLOCK_FRAMES)
        block[:, :spoken] = (block[:, :spoken] - self._mean) / self._std
        return block

    def _block(self, index: int) -> Array:
        """Raw features ``[mel, <= BLOCK_FRAMES]`` of one block."""
        import torch

        start = index * BLOCK_FRAMES
        stop = min(start + BLOCK_FRAMES, self.total_frames)
        piece = self._grid.piece(start, stop)
        samples = self._samples.read(piece.start, piece.stop)
        signal = torch.from_numpy(samples)[None].to(next(self._preprocessor.buffers()).device)
        with torch.inference_mode():
            features, _ = self._preprocessor(
                input_signal=signal, length=torch.tensor([signal.shape[1]], device=signal.device)
            )
        block: Array = features[0, :, piece.skip : piece.skip + piece.frames].cpu().numpy().copy()
        return block

    def _statistics(self) -> tuple[Array, Array]:
        """Mean and deviation over the whole recording, as nemo ``normalize_batch`` defines them; ``[mel, 1]``."""
        total, squares, count = 0.0, 0.0, 0
        axes = 1 if self.normalize == "per_feature" else None
        for index in range((self._spoken + BLOCK_FRAMES - 1) // BLOCK_FRAMES):
            block = self._block(index)[:, : self._spoken - index * BLOCK_FRAMES].astype(np.float64)
            total = total + block.sum(axis=axes, keepdims=True)
            squares = squares + np.square(block).sum(axis=axes, keepdims=True)
            count += block.size if axes is None else block.shape[1]
        mean = np.asarray(total) / max(count, 1)
        variance = np.maximum(np.asarray(squares) - count * mean**2, 0) / max(count - 1, 1)
        return mean.astype(np.float32), (np.sqrt(variance) + STD_FLOOR).astype(np.float32)
