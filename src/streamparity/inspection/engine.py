"""``inspect X.engine``: what ``build`` wrote beside it, and the engine itself where there is a CUDA driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..contract import CONTRACT, Contract
from ..contract.check import Disagreement, Ledger, shown
from ..contract.engine_profiles import PROFILES, check_profiles, dropped_at_first
from ..contract.profiles import Profile
from ..errors import BackendMissing, StreamparityError
from ..graph.onnx_graph import STATELESS_HINT
from ..tensorrt.agreement import disagreements, stateless_ports
from ..tensorrt.device import open_device
from ..tensorrt.engine import Engine
from ..tensorrt.metadata import EngineMetadata, check_file, differences, read_metadata, sidecar
from ..tensorrt.module import load_module
from .finding import Finding, InspectOptions, Report, has_error

REBUILD = "build it again from the export: streamparity build"


def inspect_engine(path: Path, options: InspectOptions) -> Report:
    """Describe an engine.

    Returns:
        A report; ``summary["read"]`` says what was read: the metadata beside the
        engine, the engine itself, or both, and whether those agree.

    Raises:
        StreamparityError: the metadata cannot be read.
    """
    written = read_metadata(path)
    read, why = _read_itself(path, written)
    findings = []
    known = written or read
    if known is None:
        message = f"{path.name} cannot be opened here ({why}), and no {sidecar(path).name} beside it says what it is"
        fix = "copy the file that streamparity build wrote beside it, or inspect it on a machine with a GPU"
        return Report("engine", False, [], [Finding("engine-unknown", "error", message, {}, fix)], {"read": "nothing"})
    if written is not None:
        try:
            check_file(path, written)
        except StreamparityError as error:
            findings.append(Finding("engine-changed", "error", error.message, {}, error.hint))
    wrong = [] if written is None or read is None else differences(written, read)
    findings += [Finding("engine-metadata", "error", line, {}, REBUILD) for line in wrong]
    missing = stateless_ports(known)
    if missing:
        message = "the engine lacks ports that carry state: it forgets everything between chunks and repeats itself"
        findings.append(Finding("stateless-export", "error", message, {"missing": missing}, STATELESS_HINT))
    elif known.role == "encoder":
        findings += _of_the_stream(path, written, known)
        lost = None if known.streaming is None else dropped_at_first(known.streaming, known.profiles)
        if lost is not None:
            fix = "build with --schedule padded and put zeros in front of the first chunk"
            findings.append(Finding("first-chunk-dropped", "warning", lost, {}, fix))
    findings += _of_the_build(known)
    ports = [
        {"name": port.name, "direction": direction, "dtype": port.dtype, "shape": list(port.shape)}
        for direction, group in (("input", known.inputs), ("output", known.outputs))
        for port in group
    ]
    told = {"read": _what_was_read(written, read, why, wrong)}
    return Report(
        "engine",
        not missing and not has_error(findings),
        ports,
        findings,
        {**told, **_summary(known)},
    )


def _read_itself(path: Path, written: EngineMetadata | None) -> tuple[EngineMetadata | None, str]:
    """What the engine says of itself, or why it could not be asked."""
    try:
        module = load_module(None if written is None else written.runtime)
        device = open_device()
    except BackendMissing as error:
        return None, error.message
    try:
        return Engine(module, path, device, () if written is None else written.targets).metadata(), ""
    except StreamparityError as error:
        return None, error.message
    finally:
        device.close()


def _what_was_read(written: EngineMetadata | None, read: EngineMetadata | None, why: str, wrong: Any) -> str:
    if written is None:
        return "the engine itself; nothing is written beside it"
    if read is None:
        return f"what build wrote beside it; not the engine itself ({why})"
    return "what build wrote beside it and the engine itself, which " + ("disagree" if wrong else "agree")


def _of_the_stream(path: Path, written: EngineMetadata | None, known: EngineMetadata) -> list[Finding]:
    """Whether profiles and contract let it be driven."""
    contract_path = path.parent / CONTRACT
    if written is not None and contract_path.is_file():
        contract = Contract.read(contract_path)
        if written.source.get("file") in contract.graphs or (written.source and not contract.graphs):
            return [_disagreeing(each, str(contract_path)) for each in disagreements(contract, path)]
    if known.streaming is None:
        return []
    ledger = Ledger()
    check_profiles(known.streaming, known.profiles, [port.name for port in known.inputs], ledger)
    return [_disagreeing(each, "the engine's own streaming configuration") for each in ledger.disagreements]


def _disagreeing(found: Disagreement, where: str) -> Finding:
    seen, evidence = f"{found.name} is {shown(found.target)}", {"contract": where}
    if found.name.startswith(PROFILES):
        return Finding("profile", "error", f"{seen}, the stream needs {shown(found.contract)}", evidence, REBUILD)
    return Finding("contract", "error", f"{seen}, the contract says {shown(found.contract)}", evidence, REBUILD)


def _of_the_build(known: EngineMetadata) -> list[Finding]:
    findings = []
    if known.tf32:
        message = "float32 matrix products may be computed in TF32, with 10 bits of mantissa"
        findings.append(Finding("tf32", "warning", message, {}, "build with --precision fp32 where that is too little"))
    try:
        module = load_module(known.runtime)
    except BackendMissing:
        module = None
    if module is not None and module.version != known.version:
        message = f"built by {known.runtime} {known.version}; {module.version} is installed, which does not read it"
        findings.append(Finding("engine-version", "warning", message, {"installed": module.version}, REBUILD))
    return findings + [Finding("builder-warning", "info", line, {}, "see docs/tensorrt.md") for line in known.warnings]


def _summary(known: EngineMetadata) -> dict[str, Any]:
    return {
        "role": known.role,
        "runtime": f"{known.runtime} {known.version}",
        "targets": list(known.targets) or "the builder's choice",
        "precision": known.precision,
        "tf32": known.tf32,
        "fp32_pins": list(known.fp32_pins),
        "profiles": {profile.name: _shapes(profile) for profile in known.profiles},
        "taps": sorted(known.taps),
        "source": known.source.get("file"),
        "source_sha256": known.source.get("sha256"),
        "model": None if known.model is None else known.model.get("id"),
        "model_sha256": None if known.model is None else known.model.get("sha256"),
        "att_context_size": None if known.streaming is None else list(known.streaming.att_context_size),
    }


def _shapes(profile: Profile) -> str:
    """Every input of more than one axis with its least and greatest shape, once where they are one."""

    def written(port: str) -> str:
        least, most = ("x".join(map(str, profile.shapes[port][end])) for end in (0, 2))
        return f"{port} {least}" if least == most else f"{port} {least} to {most}"

    return ", ".join(written(port) for port, three in profile.shapes.items() if len(three[0]) > 1)
