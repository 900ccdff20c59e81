"""Profiles of an encoder's engine held against its stream: caches of one size, a profile for a whole chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..schedule import StreamingConfig
from ..tensors import ENCODER_INPUTS, aliases
from .check import MISSING, Ledger
from .parts import Profile as Promised
from .parts import ShapeRange
from .profiles import Profile, Shape, between

PROFILES = "tensorrt/profiles"
FIRST, TAIL = "first", "tail"
CACHES = ("cache_last_channel", "cache_last_time")
SIGNAL = "audio_signal"
ONE_SIZE = "one size"


def check_profiles(
    streaming: StreamingConfig,
    profiles: Sequence[Profile],
    names: Iterable[str],
    ledger: Ledger,
    *,
    mels: int | None = None,
    time_slots: int | None = None,
) -> None:
    """Whether every profile keeps the caches at the stream's size, and one takes a whole chunk; the batch is free.

    Args:
        streaming: the configuration that the encoder was exported with.
        profiles: what the engine was built for.
        names: the names of its inputs.
        ledger: takes what was compared.
        mels: mel bands of the features, where they are known.
        time_slots: frames that ``cache_last_time`` holds, where that is known.
    """
    actual = _actual(names)
    sizes = {"C": streaming.last_channel_cache_size, "K": time_slots}
    for profile in profiles:
        for port in (port for port in CACHES if port in actual):
            where, axes = f"{PROFILES}/{profile.name}/{port}", ENCODER_INPUTS[port].axes
            least, _, most = profile.shapes.get(actual[port], ((), (), ()))
            if not len(least) == len(most) == len(axes):
                ledger.compare(where, list(axes), [list(least), list(most)] if least else MISSING)
                continue
            for axis, low, high in zip(axes, least, most, strict=True):
                wanted = sizes.get(axis)
                if axis != "B":
                    found = f"{low} to {high}" if low != high else ONE_SIZE if wanted is None else low
                    ledger.compare(f"{where}/{axis}", ONE_SIZE if wanted is None else wanted, found)
    signal = actual.get(SIGNAL, SIGNAL)
    offered = [profile.shapes[signal] for profile in profiles if signal in profile.shapes]
    whole = [mels, streaming.input_frames]
    fits = any(between(least[1:], whole, most[1:]) for least, _, most in offered)
    wanted_chunk = f"one that takes {streaming.input_frames} frames"
    there = [[list(least), list(most)] for least, _, most in offered] or MISSING
    ledger.compare(f"{PROFILES}/{SIGNAL}", wanted_chunk, wanted_chunk if fits else there)


def dropped_at_first(streaming: StreamingConfig, profiles: Sequence[Profile]) -> str | None:
    """What a graph that always drops its history does to the native first chunk, which has none; else ``None``."""
    dropped = streaming.drop_extra_pre_encoded
    if dropped < 1 or all(profile.name != FIRST for profile in profiles):
        return None
    return (
        f"profile {FIRST} takes the native schedule's first chunk, which has no history in front, and the graph drops "
        f"{dropped} encoder frames of it all the same: that much of the beginning is lost"
    )


def check_promised(
    promised: Sequence[Promised], profiles: Sequence[Profile], names: Iterable[str], ledger: Ledger, notes: list[str]
) -> None:
    """Whether a profile of the engine takes all that each promised one does, whatever the batch.

    One for a shorter last chunk may be missing: whoever pads that chunk does without.
    """
    actual, known = _actual(names), aliases(ENCODER_INPUTS)
    for wanted in promised:
        shapes = {known.get(port, port): each for port, each in wanted.shapes.items()}
        if any(_takes(profile, shapes, actual) for profile in profiles):
            ledger.compare(f"{PROFILES}/{wanted.name}", wanted.name, wanted.name)
        elif wanted.name == TAIL:
            notes.append("no profile takes the shorter last chunk of a stream: what drives the engine has to pad it")
        else:
            most = {port: each.max for port, each in shapes.items()}
            offered = [profile.name for profile in profiles]
            ledger.compare(f"{PROFILES}/{wanted.name}", f"one that takes {most}", offered)


def _takes(profile: Profile, promised: Mapping[str, ShapeRange], actual: Mapping[str, str]) -> bool:
    """Whether a profile allows all that is promised; an input that it does not name has one shape."""
    named = {port: profile.shapes[actual[port]] for port in promised if actual.get(port) in profile.shapes}
    return bool(named) and all(
        between(_without_batch(port, least), _without_batch(port, shape), _without_batch(port, most))
        for port, (least, _, most) in named.items()
        for shape in (promised[port].min, promised[port].max)
    )


def _actual(names: Iterable[str]) -> dict[str, str]:
    """The engine's names by canonical ones; what is no port goes by its own."""
    known = aliases(ENCODER_INPUTS)
    return {known.get(name, name): name for name in names}


def _without_batch(port: str, shape: Shape) -> Shape:
    axes = ENCODER_INPUTS[port].axes if port in ENCODER_INPUTS else ()
    return tuple(extent for place, extent in enumerate(shape) if axes[place : place + 1] != ("B",))
