"""What is fed when: streaming configurations, chunks of feature frames, and the audio that they need."""

from .audio import WHOLE_UTTERANCE, AudioPiece, FrameGrid
from .chunking import Chunk, chunks, shortest_stream
from .config import SCHEDULES, Schedule, StreamingConfig
from .encoder import StreamingEncoder, Subsampling
from .steps import Step, steps

__all__ = [
    "SCHEDULES",
    "WHOLE_UTTERANCE",
    "AudioPiece",
    "Chunk",
    "FrameGrid",
    "Schedule",
    "Step",
    "StreamingConfig",
    "StreamingEncoder",
    "Subsampling",
    "chunks",
    "shortest_stream",
    "steps",
]
