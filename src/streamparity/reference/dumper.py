"""``streamparity dump``: stream a recording through the NeMo model and write everything down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..dump import DumpReader, DumpWriter, Manifest
from ..dump.trace import emitted
from ..errors import StreamparityError, first_line
from ..progress import Note, Progress, no_note, no_progress
from ..provenance import versions
from ..schedule import WHOLE_UTTERANCE, Schedule, chunks, shortest_stream
from .anatomy import anatomy_of
from .audio import open_recording
from .features import FeatureStream
from .nemo import LoadedModel, StreamingOptions, configure_streaming, decoder_of
from .noise_floor import measure
from .streamer import ReferenceStreamer
from .taps import choose_taps


@dataclass(frozen=True)
class DumpOptions:
    """What to dump and how; see ``streamparity dump --help``."""

    streaming: StreamingOptions = field(default_factory=StreamingOptions)
    schedule: Schedule = "padded"
    taps: Sequence[str] = ()
    limit: int | None = None
    force: bool = False
    resume: bool = False
    noise_floor: bool = False


def dump(
    model: LoadedModel,
    audio: Path,
    out: Path,
    options: DumpOptions,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> Manifest:
    """Write the reference dump of one recording.

    Args:
        model: a restored NeMo model.
        audio: a sound file of any rate.
        out: the dump's folder.
        options: schedule, taps, limits.
        progress: called with chunks done and chunks in all.
        note: called with lines the user should see.

    Returns:
        The finished manifest.

    Raises:
        StreamparityError: unusable model, audio or folder.
    """
    module = model.module
    config = configure_streaming(module, options.streaming)
    encoder_taps, other_taps = choose_taps(module, options.taps)
    recording = open_recording(audio, int(module.cfg.sample_rate))
    for line in recording.notes:
        note(line)
    features = FeatureStream(module, recording)
    if features.normalize in WHOLE_UTTERANCE:
        note(
            f"features are normalised {features.normalize} over the whole recording: a live stream cannot do that, "
            "and its features will differ"
        )
    shortest = shortest_stream(config, options.schedule)
    if features.total_frames < shortest:
        raise StreamparityError(
            f"{audio} is {recording.seconds:.2f} s long, shorter than one chunk of "
            f"{shortest * features.frame_seconds:.2f} s",
            "give a longer recording, or an attention context with less look-ahead",
        )
    plan = list(islice(chunks(config, features.total_frames, options.schedule), options.limit))
    decoder = decoder_of(module)
    manifest = Manifest(
        model={
            "id": model.id,
            "sha256": model.sha256,
            "class": type(module).__name__,
            "att_context_size": list(config.att_context_size),
            "decoder": None if decoder is None else decoder.kind,
        },
        streaming=config,
        schedule=options.schedule,
        decoder=decoder,
        audio={
            "sha256": recording.sha256,
            "sample_rate": recording.sample_rate,
            "seconds": recording.seconds,
            "feature_frames": features.total_frames,
        },
        producer=_producer(module),
        taps=tuple(options.taps),
        extra={} if options.limit is None else {"limit": options.limit},
    )
    streamer = ReferenceStreamer(module, decoder, encoder_taps, other_taps)
    writer = DumpWriter(out, manifest, force=options.force, resume=options.resume)
    if writer.next_chunk:
        streamer.resume(*_earlier(out, writer.next_chunk))
    try:
        for produced in streamer.run(features, iter(plan[writer.next_chunk :])):
            writer.write(produced.specs, produced.tensors, produced.trace)
            progress(writer.next_chunk, len(plan))
    except OSError as error:
        raise StreamparityError(
            f"{out}: {error.strerror or error} after {writer.next_chunk} of {len(plan)} chunks",
            "make room and run the same command with --resume",
        ) from error
    except RuntimeError as error:
        writer.abandon()
        raise StreamparityError(
            f"NeMo cannot run chunk {writer.next_chunk} of {len(plan)} at attention context "
            f"{list(config.att_context_size)}, chunk size {list(config.chunk_size)}: {first_line(error)}",
            "choose --att-context, --chunk-size and --shift-size that fit each other and the model",
        ) from error
    for name in sorted(streamer.repeated_taps):
        note(f"{name} is called more than once in a step, so it has no one output: it is not in the dump")
    tokens, text = None, None
    if decoder is not None and decoder.kind in ("rnnt", "tdt"):
        tokens, text = streamer.tokens, spoken(module, streamer.tokens)
    anatomy_of(module).write(out)
    finished = writer.finish(tokens, text)
    if options.noise_floor:
        measure(module, DumpReader(out), features, plan, progress, note).write(out)
    return finished


def spoken(module: Any, tokens: list[int]) -> str:
    """Text of labels, by the model's own tokenizer."""
    return str(module.decoding.decode_ids_to_str(tokens)) if tokens else ""


def _earlier(out: Path, chunk_count: int) -> tuple[dict[str, Any], list[int]]:
    reader = DumpReader(out)
    decoder = reader.manifest.decoder
    tokens = [] if decoder is None else emitted(reader.trace(), decoder)
    return reader.chunk(chunk_count - 1), tokens


def _producer(module: Any) -> dict[str, Any]:
    import torch

    return {
        "program": "streamparity dump",
        "versions": versions(),
        "device": str(module.device),
        "dtype": str(next(module.encoder.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "math": {"tf32": bool(torch.backends.cuda.matmul.allow_tf32)},
    }
