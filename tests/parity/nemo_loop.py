"""An independent reference: NeMo's buffer, NeMo's step, nothing tapped, nothing of streamparity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Alone:
    """Per chunk the attention cache ``[B, L, C, D]`` and its length; labels of the whole stream and their frames."""

    caches: list[tuple[np.ndarray, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)


def nemo_loop(module, samples: np.ndarray, schedule: str) -> Alone:
    """Stream ``samples`` as NeMo's speech_to_text_cache_aware_streaming_infer.py does; the model is set up already."""
    import torch
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(module, pad_and_drop_preencoded=schedule == "padded")
    buffer.append_audio(samples)
    channel, time, length = module.encoder.get_initial_cache_state(batch_size=1)
    alone, hypotheses = Alone(), None
    with torch.inference_mode():
        for index, (signal, signal_length) in enumerate(buffer):
            first_native = index == 0 and schedule == "native"
            _, _, channel, time, length, hypotheses = module.conformer_stream_step(
                processed_signal=signal,
                processed_signal_length=signal_length,
                cache_last_channel=channel,
                cache_last_time=time,
                cache_last_channel_len=length,
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                drop_extra_pre_encoded=0 if first_native else module.encoder.streaming_cfg.drop_extra_pre_encoded,
                return_transcription=True,
            )
            alone.caches.append((channel.transpose(0, 1).numpy(), int(length[0])))
    if hypotheses is not None:
        alone.tokens = [int(label) for label in hypotheses[0].y_sequence]
        alone.frames = [int(frame) for frame in hypotheses[0].timestamp]
    return alone
