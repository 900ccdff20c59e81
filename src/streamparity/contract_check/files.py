"""Checking a contract against files that run: ONNX graphs, by their ports and by running them, and engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..contract import derive
from ..contract.check import MISSING, Ledger, check_ports, check_streaming
from ..contract.engine import Engine, EngineProfile
from ..contract.model import Contract
from ..contract.network import ContractPort, Encoder
from ..errors import BackendMissing
from ..graph.onnx_graph import OnnxGraph
from ..provenance import file_sha256
from ..tensors import DECODER_INPUTS, DECODER_OUTPUTS

Ports = Sequence[ContractPort]


def check_onnx(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Compare the hash and ports of a graph, and what an encoder does."""
    file = OnnxGraph(target)
    inputs, outputs = (
        [ContractPort(port.name, port.dtype, port.extents, ()) for port in group]
        for group in (file.inputs, file.outputs)
    )
    if target.name in contract.graphs:
        ledger.compare(f"graphs/{target.name}/sha256", contract.graphs[target.name].sha256, file_sha256(target))
    fit = _check_ports(contract, target.name, inputs, outputs, ledger, notes)
    if contract.encoder is None or _part(inputs, outputs) == "decoder":
        return
    if fit:
        _check_steps(contract, contract.encoder, target, ledger, notes)
    else:
        notes.append(f"{target.name} was not run: its ports are not those promised")


def _part(inputs: Ports, outputs: Ports) -> str:
    """Which half of the model a file with these ports is."""
    names = {port.name for port in [*inputs, *outputs]}
    return "decoder" if {*DECODER_INPUTS, *DECODER_OUTPUTS} <= names else "encoder"


def _check_ports(
    contract: Contract, file: str, inputs: Ports, outputs: Ports, ledger: Ledger, notes: list[str]
) -> bool:
    """Compare ports with those promised for the file, else for any export of the model; whether they agree."""
    part = _part(inputs, outputs)
    promised, described = contract.graphs.get(file), getattr(contract, part)
    if promised is None and (described is None or not described.inputs):
        notes.append(f"the contract says nothing of the ports of {file}")
        return False
    before = len(ledger.disagreements)
    where = part if promised is None else f"graphs/{file}"
    for side, there in (("inputs", inputs), ("outputs", outputs)):
        ours = getattr(promised or described, side)
        check_ports(ledger, f"{where}/{side}", ours, there, exact=promised is not None)
    return len(ledger.disagreements) == before


def _check_steps(contract: Contract, encoder: Encoder, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Run the graph from empty caches: twice what a chunk brings, then more than any chunk."""
    from . import probe

    mels, config = contract.features.features, contract.streaming
    if mels is None:
        notes.append(f"{target.name} was not run: the contract does not know how many mel bands it takes")
        return
    caches = probe.empty_caches(*derive.cache_shapes(encoder, config))
    inputs = [config.input_frames, config.input_frames, config.input_frames + probe.LONG_INPUT]
    try:
        seen = probe.observe(target, mels, config, caches, inputs)
    except BackendMissing as missing:
        notes.append(f"{target.name} was not run: {missing.message}")
        return
    promised = probe.expected(config, encoder.subsampling, caches, inputs)
    for step, (ours, theirs) in enumerate(zip(promised, seen, strict=False)):
        ran = f"of step {step}, fed {inputs[step]} frames"
        if theirs.failure is not None:
            ledger.compare(f"step/end {ran}", f"{ours.frames} frames", f"failure: {theirs.failure}")
            return
        ledger.compare(f"step/encoded_lengths {ran}", ours.frames, theirs.frames)
        ledger.compare(f"step/cache_last_channel_next_len {ran}", ours.cache_length, theirs.cache_length)
        for name, shape in (ours.shapes or {}).items():
            ledger.compare(f"step/shape of {name}_next {ran}", list(shape), list((theirs.shapes or {}).get(name, ())))
        ledger.compare(f"step/all finite {ran}", True, theirs.finite)


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
    _check_ports(contract, target.name, inputs, outputs, ledger, notes)
    if _part(inputs, outputs) == "encoder":
        _check_profiles(contract, engine.profiles, ledger)


def _check_profiles(contract: Contract, profiles: Sequence[EngineProfile], ledger: Ledger) -> None:
    """Every input of the padded schedule must lie within a profile; promised profiles must be there."""
    there = {profile.name: profile for profile in profiles}
    for promised in contract.tensorrt.profiles:
        name = f"tensorrt/profiles/{promised.name}"
        if promised.name not in there:
            ledger.compare(name, promised.name, MISSING)
            continue
        for port, shapes in promised.shapes.items():
            ours = [list(shape) for shape in (shapes.min, shapes.opt, shapes.max)]
            found = there[promised.name].shapes.get(port)
            ledger.compare(f"{name}/{port}", ours, MISSING if found is None else [list(shape) for shape in found])
    encoder, streaming = contract.encoder, contract.streaming
    if encoder is None or not profiles:
        return
    channel, time = derive.cache_shapes(encoder, streaming)
    needed = {"cache_last_channel": channel, "cache_last_time": time}
    if contract.features.features is not None:
        needed["audio_signal"] = (1, contract.features.features, streaming.input_frames)
    for port, shape in needed.items():
        ranges = [profile.shapes[port] for profile in profiles if port in profile.shapes]
        fits = any(
            len(shape) == len(low) == len(high)
            and all(least <= extent <= most for least, extent, most in zip(low, shape, high, strict=True))
            for low, _, high in ranges
        )
        offered = [[list(low), list(high)] for low, _, high in ranges]
        if ranges:
            ledger.compare(f"tensorrt/profiles/{port}", list(shape), list(shape) if fits else offered)
