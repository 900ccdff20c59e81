"""Checking a contract against what is there: a .nemo, a graph or export, an engine, a dump, another contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import derive
from ..contract.check import MISSING, Ledger, check_contract, check_streaming
from ..contract.engine import Engine, is_engine
from ..contract.engine_check import check_engine
from ..contract.model import CONTRACT, Contract
from ..contract.network import Encoder
from ..dump import DumpReader, is_dump
from ..errors import StreamparityError
from ..provenance import file_sha256
from ..schedule import StreamingConfig
from .graphs import check_onnx

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
        ".onnx": ("onnx", check_onnx),
        ".json": ("contract", _check_document),
    }
    if target.suffix not in readers:
        raise StreamparityError(f"{target} is of no known kind", "give a .nemo, .onnx, .engine, contract or dump")
    return readers[target.suffix]


def _check_engine(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    check_engine(contract, target, ledger, notes)
    described = Engine.read(target).engine_sha256
    if target.suffix == ".json":
        notes.append("the engine itself was not looked at: only what is written beside it")
    elif described is None:
        notes.append(f"nothing says which file was described: {target.name} may be another")
    else:
        ledger.compare("engine/sha256", described, file_sha256(target))


def _check_document(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    check_contract(ledger, contract, Contract.read(target))


def _check_nemo(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    from ..reference.contract import contract_of, streaming_encoder
    from ..reference.nemo import StreamingOptions, configure_streaming, load_model

    model = load_model(str(target))
    baked = contract.streaming
    trained = [tuple(size) for size in model.module.encoder.att_context_size_all]
    plain = configure_streaming(model.module, StreamingOptions())
    if baked.att_context_size in trained or (-1, -1) in trained:
        plain = streaming_encoder(model.module.encoder).same_sizes(baked)
    check_contract(ledger, contract, contract_of(model, plain, "streamparity contract check"))


def _check_export(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    for path in sorted(target.glob("*.onnx")):
        check_onnx(contract, path, ledger, notes)
    if (target / CONTRACT).is_file():
        check_contract(ledger, contract, Contract.read(target / CONTRACT))


def _check_dump(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    reader = DumpReader(target)
    manifest = reader.manifest
    ledger.compare_known("model/sha256", contract.model.sha256, manifest.model["sha256"])
    check_streaming(ledger, contract.streaming, manifest.streaming, manifest.schedule)
    ledger.compare_known("features/sample_rate", contract.features.sample_rate, manifest.audio.get("sample_rate"))
    ours, theirs = contract.decoding, manifest.decoder
    if ours is not None and theirs is not None:
        for key in ("kind", "blank_id", "max_symbols"):
            name, promised = f"decoding/{key}", getattr(ours, key)
            if promised is not None or contract.knows(name):
                ledger.compare(name, promised, getattr(theirs, key))
            else:
                ledger.unknown.append(name)
        ledger.compare("decoding/durations", list(ours.durations), list(theirs.durations))
        vocabulary = None if ours.vocabulary is None else list(ours.vocabulary)
        ledger.compare_known("decoding/vocabulary", vocabulary, list(theirs.vocabulary))
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
        ledger.compare_known("features/features", mels, int(chunk["in/audio_signal"].shape[1]))
