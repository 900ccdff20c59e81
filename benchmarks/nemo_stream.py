"""NeMo's own streaming loop, with nothing of streamparity: what the benchmark times and the tests compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stream(module: Any, buffer: Any, after_step: Callable[[Any, Any], None] = lambda channel, length: None) -> Any:
    """Run a filled ``CacheAwareStreamingAudioBuffer`` as NeMo's speech_to_text_cache_aware_streaming_infer.py does.

    Args:
        module: the NeMo model, set up to stream.
        buffer: padded or native.
        after_step: called with ``cache_last_channel`` ``[L, B, C, D]`` and its length ``[B]``.

    Returns:
        The hypotheses after the last chunk, ``None`` where CTC decodes; the predictions and what they are as text: for
        CTC the best label of every frame so far.
    """
    import torch

    channel, time, length = module.encoder.get_initial_cache_state(batch_size=1)
    hypotheses, predictions, text = None, None, None
    with torch.inference_mode():
        for index, (signal, signal_length) in enumerate(buffer):
            first_native = index == 0 and not buffer.pad_and_drop_preencoded
            predictions, text, channel, time, length, hypotheses = module.conformer_stream_step(
                processed_signal=signal,
                processed_signal_length=signal_length,
                cache_last_channel=channel,
                cache_last_time=time,
                cache_last_channel_len=length,
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=predictions,
                drop_extra_pre_encoded=0 if first_native else module.encoder.streaming_cfg.drop_extra_pre_encoded,
                return_transcription=True,
            )
            after_step(channel, length)
    return hypotheses, predictions, text
