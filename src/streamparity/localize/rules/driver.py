"""The model is sound and is driven wrongly."""

from __future__ import annotations

from collections.abc import Iterator

from ..case import Case
from ..finding import Finding

FIXES = {
    "cache-not-propagated": "feed what a step returns as its caches into the next step, all three",
    "time-cache-dropped": "feed cache_last_time_next back as cache_last_time",
    "cache-length-wrong": "feed cache_last_channel_next_len back as it is: it counts valid frames",
    "cache-misaligned": "keep caches right-aligned, as the model returns them: the newest frame is in the last slot",
    "cache-layers-swapped": "keep the order of layers along axis 1 of the caches",
    "layout-transposed": "keep the axes as contract.json has them, C order",
    "features-differ": "compute features as the reference's preprocessor does (see features in contract.json)",
    "pre-encode-overlap-wrong": "put the pre_encode_cache_size feature frames before the chunk in front of it",
    "first-chunk-schedule": "begin with zero feature frames, pre_encode_cache_size of them, in front of chunk 0",
    "drift": "hand caches over untouched: what is scaled in every step is lost or grows by a power of it",
    "reduced-precision": "keep caches in the model's own dtype",
}


def first_chunk_schedule(case: Case) -> Iterator[Finding]:
    """NeMo's native first chunk fed to an export that always drops."""
    divergence, manifest = case.divergence, case.reference.manifest
    if divergence is None or case.chunk != 0 or manifest.schedule != "native" or not case.runner.bakes_drop:
        return
    frames = int(case.script.expected(0)["in/audio_signal"].shape[2])
    drop = manifest.streaming.drop_extra_pre_encoded
    yield Finding(
        "first-chunk-schedule",
        0.98,
        f"NeMo's native first chunk ({frames} frames, nothing dropped) was fed to an export that always drops {drop} "
        "encoder frames: dump with --schedule padded",
        "dump with --schedule padded",
        {"schedule": manifest.schedule, "first_chunk_frames": frames, "drop_extra_pre_encoded": drop},
    )


def driven_wrongly(case: Case) -> Iterator[Finding]:
    """The model, fed by us, is right; what the loop under test fed it is found by doing the same."""
    if case.driver_is_faithful is not False:
        return
    found = case.explanations
    if found:
        best = found[0]
        sure = 0.97 if best.later is None or best.later < 0.05 else 0.75
        later = "" if best.later is None or best.later < 0.05 else ", in this chunk"
        yield Finding(
            best.code,
            sure,
            f"the model itself is right, but what drives it {best.text}{later}",
            FIXES[best.code],
            {
                "port": best.port,
                "unexplained_energy": best.unexplained,
                "unexplained_energy_later": best.later,
                "also_explained_by": [way.text for way in found[1:4]],
            },
        )
        return
    yield from _by_exclusion(case)


def _by_exclusion(case: Case) -> Iterator[Finding]:
    """No known mistake does exactly this; where it first shows still says which input is wrong."""
    divergence = case.divergence
    if divergence is None:
        return
    tensor = str(divergence["tensor"])
    evidence = {"first_divergence": tensor, "model_by_itself": "right"}
    if tensor.startswith("encoder.pre_encode"):
        yield Finding(
            "features-differ",
            0.7,
            "the model itself is right and the first thing it computes from the features is not: it was fed others",
            FIXES["features-differ"],
            evidence,
        )
    elif ".conv" in tensor:
        message = "the model itself is right, but a convolution started from another cache_last_time than it returned"
        yield Finding("cache-altered", 0.6, message, FIXES["time-cache-dropped"], evidence)
    elif ".self_attn" in tensor:
        message = "the model itself is right, but attention started from another cache_last_channel than it returned"
        yield Finding("cache-altered", 0.6, message, FIXES["cache-not-propagated"], evidence)
