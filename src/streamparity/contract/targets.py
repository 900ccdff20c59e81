"""Checking a contract against what is there: a .nemo, a graph or export, an engine, a dump, another contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dump import DumpReader, is_dump
from ..errors import BackendMissing, StreamparityError
from ..provenance import file_sha256
from ..runners.onnx_graph import OnnxGraph
from ..schedule import StreamingConfig
from ..tensors import DECODER_INPUTS, DECODER_OUTPUTS
from . import derive
from .check import MISSING, Ledger, check_contract, check_ports, check_streaming
from .engine import Engine, EngineProfile, is_engine
from .model import CONTRACT, Contract, ContractPort, Encoder

CHECK_SCHEMA = "streamparity.contract-check/1"


@dataclass(frozen=True)
class Checked:
    """A contract beside a target.

    Attributes:
        kind: what the target is.
        ledger: what was compared.
        notes: lines on what was not.
    """

    kind: str
    ledger: Ledger
    notes: list[str]

    def to_json(self, contract: Path, target: Path) -> dict[str, Any]:
        """A document of schema ``streamparity.contract-check/1``."""
        return {
            "schema": CHECK_SCHEMA,
            "contract": str(contract),
            "target": str(target),
            "kind": self.kind,
            "agrees": not self.ledger.disagreements,
            "compared": len(self.ledger.compared),
            "disagreements": [vars(each) for each in self.ledger.disagreements],
            "unknown": self.ledger.unknown,
            "notes": self.notes,
        }


def check(contract: Contract, target: Path) -> Checked:
    """Every disagreement of a target with a contract.

    Raises:
        BackendMissing: what reads the target is not installed.
        StreamparityError: the target is damaged, of no known kind, or has nothing in common with the contract.
    """
    ledger, notes = Ledger(contract.source), list[str]()
    kind, compare = _reader(target)
    compare(contract, target, ledger, notes)
    if not ledger.compared:
        raise StreamparityError(
            f"{target} and the contract have nothing in common that could be compared",
            "write the contract again, from the .nemo: `streamparity contract write`",
        )
    return Checked(kind, ledger, notes)


Compare = Callable[[Contract, Path, Ledger, list[str]], None]


def _reader(target: Path) -> tuple[str, Compare]:
    if is_dump(target):
        return "dump", _check_dump
    if target.is_dir() and (any(target.glob("*.onnx")) or (target / CONTRACT).is_file()):
        return "export", _check_export
    if not target.is_file():
        raise StreamparityError(
            f"{target} is neither a file, an export nor a dump",
            "give a .nemo, .onnx, .engine, contract, export or dump",
        )
    if is_engine(target):
        return "engine", _check_engine
    readers: dict[str, tuple[str, Compare]] = {
        ".nemo": ("nemo", _check_nemo),
        ".onnx": ("onnx", _check_onnx),
        ".json": ("contract", _check_document),
    }
    if target.suffix not in readers:
        raise StreamparityError(f"{target} is of no known kind", "give a .nemo, .onnx, .engine, contract or dump")
    return readers[target.suffix]


def _check_document(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    check_contract(ledger, contract, Contract.read(target))


def _check_nemo(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    from ..reference.nemo import StreamingOptions, configure_streaming, load_model
    from .from_nemo import contract_of, streaming_encoder

    model = load_model(str(target))
    baked = contract.streaming
    trained = [tuple(size) for size in model.module.encoder.att_context_size_all]
    plain = configure_streaming(model.module, StreamingOptions())
    if baked.att_context_size in trained or (-1, -1) in trained:
        plain = streaming_encoder(model.module.encoder).same_sizes(baked)
    check_contract(ledger, contract, contract_of(model, plain, "streamparity contract check"))


def _check_export(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    for path in sorted(target.glob("*.onnx")):
        _check_onnx(contract, path, ledger, notes)
    if (target / CONTRACT).is_file():
        check_contract(ledger, contract, Contract.read(target / CONTRACT))


def _check_onnx(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
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


Ports = Sequence[ContractPort]


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
    fed = config.pre_encode_cache_size[1] + config.chunk_size[1]
    inputs = [fed, fed, fed + probe.LONG_INPUT]
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


def _check_dump(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    reader = DumpReader(target)
    manifest = reader.manifest
    _compare_known(ledger, "model/sha256", contract.model.sha256, manifest.model["sha256"])
    check_streaming(ledger, contract.streaming, manifest.streaming, manifest.schedule)
    _compare_known(ledger, "features/sample_rate", contract.features.sample_rate, manifest.audio.get("sample_rate"))
    ours, theirs = contract.decoding, manifest.decoder
    if ours is not None and theirs is not None:
        for key in ("kind", "blank_id", "max_symbols"):
            name = f"decoding/{key}"
            if contract.knows(name):
                ledger.compare(name, getattr(ours, key), getattr(theirs, key))
            else:
                ledger.unknown.append(name)
        ledger.compare("decoding/durations", list(ours.durations), list(theirs.durations))
        vocabulary = None if ours.vocabulary is None else list(ours.vocabulary)
        _compare_known(ledger, "decoding/vocabulary", vocabulary, list(theirs.vocabulary))
    if contract.encoder is not None and reader.chunk_count:
        _check_tensors(contract.encoder, contract.streaming, reader.chunk(0), contract.features.features, ledger)


def _check_tensors(
    encoder: Encoder, streaming: StreamingConfig, chunk: Mapping[str, Any], mels: int | None, ledger: Ledger
) -> None:
    channel, time = derive.cache_shapes(encoder, streaming)
    for name, shape in (("cache_last_channel", channel), ("cache_last_time", time)):
        for key, side in ((f"in/{name}", "inputs"), (f"out/{name}_next", "outputs")):
            there = list(chunk[key].shape) if key in chunk else MISSING
            ledger.compare(f"encoder/{side}/{key.split('/')[1]}/shape", list(shape), there)
    if "in/audio_signal" in chunk:
        _compare_known(ledger, "features/features", mels, int(chunk["in/audio_signal"].shape[1]))


def _check_engine(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    engine = Engine.read(target)
    exported = sorted(graph.sha256 for graph in contract.graphs.values())
    if engine.source.sha256 is not None and exported:
        made_of = engine.source.sha256 if engine.source.sha256 in exported else " or ".join(exported)
        ledger.compare("graphs/sha256", made_of, engine.source.sha256)
    if engine.model is not None:
        _compare_known(ledger, "model/sha256", contract.model.sha256, engine.model.sha256)
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
    fed = streaming.pre_encode_cache_size[1] + streaming.chunk_size[1]
    needed = {"cache_last_channel": channel, "cache_last_time": time}
    if contract.features.features is not None:
        needed["audio_signal"] = (1, contract.features.features, fed)
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


def _compare_known(ledger: Ledger, name: str, contract: Any, target: Any) -> None:
    """Compare unless one of them is not known."""
    if contract is None:
        ledger.unknown.append(name)
    elif target is not None:
        ledger.compare(name, contract, target)
