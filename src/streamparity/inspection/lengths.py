"""The cache length, and the frames dropped, over the lengths of a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import StepFailed
from ..schedule import StreamingConfig
from .arithmetic import USUAL_FACTOR, Arithmetic, Baked
from .finding import Finding
from .subject import EncoderSubject

STEPS = 64  # chunks after which a cache length that was going to go wrong has


def assumed_config(subject: EncoderSubject, baked: Baked) -> StreamingConfig | None:
    """The contract's configuration, or the one that a graph's constants make by NeMo's rules."""
    if subject.promise.streaming is not None:
        return subject.promise.streaming
    computed, factor = baked.computed, baked.factor or USUAL_FACTOR
    if computed is None or baked.valid_out is None or baked.cache_drop is None or not baked.slots:
        return None
    size, shift = factor * (computed - 1), factor * (baked.valid_out - 1)
    return StreamingConfig(
        att_context_size=(baked.slots, baked.valid_out - 1),
        att_context_style="unknown",
        chunk_size=(1 + size, factor + size),
        shift_size=(1 + shift, factor + shift),
        pre_encode_cache_size=(0, factor + 1),
        sampling_frames=(1, factor),
        drop_extra_pre_encoded=2,  # what factor + 1 frames of history make
        cache_drop_size=baked.cache_drop,
        valid_out_len=baked.valid_out,
        last_channel_cache_size=baked.slots,
        subsampling_factor=factor,
    )


def ignored_length_findings(subject: EncoderSubject) -> Iterator[Finding]:
    """``encoded_lengths`` to which no edge leads from ``length``."""
    if not _length_leads_on(subject):
        yield _ignored({"reached": False})


def constant_length_findings(
    subject: EncoderSubject, arithmetic: Arithmetic, baked: Baked, frames: int
) -> Iterator[Finding]:
    """``encoded_lengths`` that is the same for one valid feature frame and for a whole chunk of ``frames``."""
    if not _length_leads_on(subject):
        return
    frames = subject.extent("audio_signal", 2) or frames
    short, whole = arithmetic.encoded(1, frames), arithmetic.encoded(frames, frames)
    # Where nothing is dropped and one frame kept, a single feature frame makes as many as a whole chunk.
    if short == whole and not (short == 1 and not baked.drop):
        yield _ignored({"reached": True, "frames": [1, frames], "encoder_frames": [short, whole]})


def _length_leads_on(subject: EncoderSubject) -> bool:
    return subject.outputs["encoded_lengths"] in subject.flow.reached(subject.inputs["length"])


def _ignored(evidence: dict[str, Any]) -> Finding:
    return Finding(
        "length-ignored",
        "error",
        "encoded_lengths does not depend on `length`: a short last chunk is taken for a whole one",
        evidence,
        "trace the export with the length as an input, not as a Python number; streamparity export does",
    )


def length_findings(
    subject: EncoderSubject, arithmetic: Arithmetic, baked: Baked, config: StreamingConfig
) -> Iterator[Finding]:
    """Run the graph's arithmetic over the chunks of the schedule and hold it against NeMo's.

    At most one finding each for frames dropped against the schedule and for a cache length that goes wrong.
    """
    schedule, fixed = subject.schedule, subject.extent("audio_signal", 2)
    dropped, wrong, before = False, False, 0
    for index in range(STEPS):
        which = 0 if index == 0 and schedule == "native" else 1
        fed = config.pre_encode_cache_size[which] + config.chunk_size[which]
        if fixed is not None and fixed != fed:
            yield _fixed_chunk(schedule, index, fed, fixed)
            return
        drop = config.drop_extra_pre_encoded if which else 0
        computed = 1 + (config.chunk_size[which] - config.sampling_frames[which]) // config.subsampling_factor
        kept = min(computed, config.valid_out_len or computed)
        expected = min(before + computed - config.cache_drop_size, config.last_channel_cache_size)
        try:
            encoded, after = arithmetic.encoded(fed), arithmetic.remembered(fed, before)
        except StepFailed as failure:
            yield _cannot_run(index, fed, failure)
            return
        seen = {"schedule": schedule, "chunk": index, "frames": fed, "cache_length_before": before}
        seen |= {"encoder_frames": encoded, "cache_length_after": after}
        shifted = baked.drop is not None and baked.drop != drop
        if not dropped and shifted and (encoded != kept or after != expected):
            dropped = True
            yield Finding(
                "drop-against-schedule",
                "error",
                f"the graph drops {baked.drop} encoder frames of every chunk, chunk {index} of the {schedule} schedule "
                f"needs {drop} dropped",
                {**seen, "baked": baked.drop, "needed": drop, "expected_encoder_frames": kept},
                "feed the padded schedule, every chunk with its history in front and the first one with zeros"
                if baked.drop
                else "export with the model's own drop_extra_pre_encoded: call encoder.setup_streaming_params() last",
            )
        if not wrong and after < 0:
            wrong = True
            yield Finding(
                "cache-length-negative",
                "error",
                f"cache_last_channel_next_len is {after} after chunk {index}: fed back, it masks what it should show",
                seen,
                "keep fewer frames out of the cache than a chunk computes (--cache-drop-size), or feed longer chunks",
            )
        elif not wrong and not dropped and after == before == 0:
            wrong = True
            yield Finding(
                "cache-length-stuck",
                "error",
                f"cache_last_channel_next_len stays {after}: the caches never count as filled",
                {**seen, "expected": expected},
                "export a graph that returns the length of the cache it returns; keep fewer frames out of the cache",
            )
        elif not wrong and not dropped and after != expected:
            wrong = True
            yield Finding(
                "cache-length-wrong",
                "error",
                f"cache_last_channel_next_len is {after} after chunk {index} where NeMo returns {expected}",
                {**seen, "expected": expected},
                "export again with the streaming configuration of the contract, or write the contract of this graph",
            )
        if dropped or after in (before, config.last_channel_cache_size) or after < 0:
            return
        before = after


def _fixed_chunk(schedule: str, index: int, fed: int, fixed: int) -> Finding:
    return Finding(
        "chunk-size-fixed",
        "error",
        f"the graph takes {fixed} feature frames only, chunk {index} of the {schedule} schedule has {fed}",
        {"schedule": schedule, "chunk": index, "frames": fed, "fixed": fixed},
        "export with that chunk size or with a dynamic time axis, or feed the padded schedule",
    )


def _cannot_run(index: int, fed: int, failure: StepFailed) -> Finding:
    return Finding(
        "cannot-run",
        "error",
        f"a chunk of {fed} feature frames cannot be run: {failure.message}",
        {"chunk": index, "frames": fed},
        "export again with cache support, and feed chunks of the size that the model was exported for",
    )
