"""A contract held against an engine, by what is written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import derive
from .check import Ledger, check_streaming
from .engine import Engine
from .file_ports import check_file_ports, part_of
from .model import Contract
from .parts import Profile as Promised
from .profiles import Profile

TAIL = "tail"


def check_engine(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Compare what the file beside an engine says of it."""
    engine = Engine.read(target)
    exported = sorted(graph.sha256 for graph in contract.graphs.values())
    if engine.source.sha256 is not None and exported:
        made_of = engine.source.sha256 if engine.source.sha256 in exported else " or ".join(exported)
        ledger.compare("graphs/sha256", made_of, engine.source.sha256)
    if engine.model is not None:
        ledger.compare_known("model/sha256", contract.model.sha256, engine.model.sha256)
    if engine.streaming is not None:
        check_streaming(ledger, contract.streaming, engine.streaming, contract.schedule)
    marked = set(engine.taps.values())
    inputs = [port.promised for port in engine.inputs]
    outputs = [port.promised for port in engine.outputs if port.name not in marked]
    check_file_ports(contract, target.name, inputs, outputs, ledger, notes)
    if part_of(inputs, outputs) == "encoder":
        _check_profiles(contract, engine.profiles, ledger, notes)


def _check_profiles(contract: Contract, profiles: Sequence[Profile], ledger: Ledger, notes: list[str]) -> None:
    """Every promised profile, and every input of the padded schedule, must lie within a profile of the engine."""
    for promised in contract.tensorrt.profiles:
        most = {port: shapes.max for port, shapes in promised.shapes.items()}
        if any(_takes(profile, promised) for profile in profiles):
            ledger.compare(f"tensorrt/profiles/{promised.name}", promised.name, promised.name)
        elif promised.name == TAIL:
            notes.append("no profile takes the shorter last chunk of a stream: what drives the engine has to pad it")
        else:
            offered = [profile.name for profile in profiles]
            ledger.compare(f"tensorrt/profiles/{promised.name}", f"one that takes {most}", offered)
    encoder, streaming = contract.encoder, contract.streaming
    if encoder is None or not profiles:
        return
    channel, time = derive.cache_shapes(encoder, streaming)
    needed = {"cache_last_channel": channel, "cache_last_time": time}
    if contract.features.features is not None:
        needed["audio_signal"] = (1, contract.features.features, streaming.input_frames)
    for port, shape in needed.items():
        ranges = [profile.shapes[port] for profile in profiles if port in profile.shapes]
        fits = any(profile.admits({port: shape}) for profile in profiles)
        offered_shapes = [[list(low), list(high)] for low, _, high in ranges]
        if ranges:
            ledger.compare(f"tensorrt/profiles/{port}", list(shape), list(shape) if fits else offered_shapes)


def _takes(profile: Profile, promised: Promised) -> bool:
    """Whether a profile allows all that a promised one does; an input that it does not name has one shape."""
    named = {port: shapes for port, shapes in promised.shapes.items() if port in profile.shapes}
    ends = ({port: shapes.min for port, shapes in named.items()}, {port: shapes.max for port, shapes in named.items()})
    return bool(named) and all(profile.admits(shapes) for shapes in ends)
