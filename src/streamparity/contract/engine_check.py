"""A contract held against an engine, by what is written beside it."""

from __future__ import annotations

from pathlib import Path

from . import derive
from .check import Ledger, check_streaming
from .engine import Engine
from .engine_profiles import check_profiles, check_promised
from .file_ports import check_file_ports, part_of
from .model import Contract


def check_engine(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Compare what the file beside an engine says of it."""
    engine = Engine.read(target)
    exported = sorted(graph.sha256 for graph in contract.graphs.values())
    if engine.source.sha256 is not None and exported:
        made_of = engine.source.sha256 if engine.source.sha256 in exported else " or ".join(exported)
        ledger.compare("graphs/sha256", made_of, engine.source.sha256)
        weights = next((g.weights_sha256 for g in contract.graphs.values() if g.sha256 == engine.source.sha256), None)
        if weights is not None:
            ledger.compare("graphs/weights_sha256", weights, engine.source.weights_sha256)
    if engine.model is not None:
        ledger.compare_known("model/sha256", contract.model.sha256, engine.model.sha256)
    if engine.streaming is not None:
        check_streaming(ledger, contract.streaming, engine.streaming, contract.schedule)
    marked = set(engine.taps.values())
    inputs = [port.promised for port in engine.inputs]
    outputs = [port.promised for port in engine.outputs if port.name not in marked]
    check_file_ports(contract, target.name, inputs, outputs, ledger, notes)
    if part_of(inputs, outputs) == "encoder":
        names = [port.name for port in engine.inputs]
        check_promised(contract.tensorrt.profiles, engine.profiles, names, ledger, notes)
        encoder, mels = contract.encoder, contract.features.features
        slots = None if encoder is None else derive.cache_shapes(encoder, contract.streaming)[1][-1]
        check_profiles(contract.streaming, engine.profiles, names, ledger, mels=mels, time_slots=slots)
