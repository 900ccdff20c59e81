"""An independent reference: NeMo's buffer, NeMo's step, nothing tapped, nothing of streamparity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nemo_stream import stream


@dataclass
class Alone:
    """What NeMo alone makes of a stream.

    Per chunk the attention cache ``[B, L, C, D]`` and its length. Of a transducer the labels and their frames; of CTC
    the best label of every frame and the text.
    """

    caches: list[tuple[np.ndarray, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    text: str = ""


def nemo_loop(module, samples: np.ndarray, schedule: str) -> Alone:
    """Stream ``samples`` through NeMo's own buffer and step; the model is set up already."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(module, pad_and_drop_preencoded=schedule == "padded")
    buffer.append_audio(samples)
    alone = Alone()
    hypotheses, best, text = stream(
        module,
        buffer,
        lambda channel, length: alone.caches.append((channel.transpose(0, 1).numpy(), int(length[0]))),
    )
    if hypotheses is not None:
        alone.tokens = [int(label) for label in hypotheses[0].y_sequence]
        alone.frames = [int(frame) for frame in hypotheses[0].timestamp]
    else:
        alone.best, alone.text = best[0].tolist(), text[0].text
    return alone
