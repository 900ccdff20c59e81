"""``streamparity inspect``: what a file is, whether it can stream, which ports it has, what is wrong with it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .dump import DumpReader, is_dump
from .errors import BackendMissing, StreamparityError, first_line
from .inspection_engine import inspect_engine, is_engine
from .reference.nemo import check_archive
from .runners.onnx_graph import STATELESS_HINT, OnnxGraph, missing_ports
from .tensors import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names

SCHEMA = "streamparity.inspect/1"
STREAMING_STYLES = ("chunked_limited", "chunked_limited_with_rc", "regular")


def inspect(path: Path) -> dict[str, Any]:
    """Describe a ``.nemo`` archive, an ONNX graph or a dump, without running code from it.

    Returns:
        A document of schema ``streamparity.inspect/1``: ``kind``, ``can_stream``, ``ports``, ``findings``, and
        ``summary``, a mapping of what else there is to say.

    Raises:
        BackendMissing: the library that reads the format is not installed.
        StreamparityError: nothing there, damaged, or of no known kind.
    """
    if is_dump(path):
        return _document("dump", *_inspect_dump(path))
    if (path / "encoder.onnx").is_file():
        path = path / "encoder.onnx"
    if not path.is_file():
        raise StreamparityError(f"{path} is neither a file, an export nor a dump", "give a .nemo, an .onnx or a dump")
    if is_engine(path):
        return inspect_engine(path)
    if path.suffix == ".onnx":
        return _document("onnx", *_inspect_onnx(path))
    if path.suffix == ".nemo":
        try:
            return _document("nemo", *_inspect_nemo(path))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise StreamparityError(
                f"{path}: model_config.yaml is not a NeMo model's: {type(error).__name__} {first_line(error)}",
                "save the model again with NeMo",
            ) from error
    raise StreamparityError(f"{path} is of no known kind", "give a .nemo, an .onnx, an .engine or a dump folder")


Described = tuple[bool, list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def _document(
    kind: str, can_stream: bool, ports: list[dict[str, Any]], findings: list[dict[str, Any]], summary: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": kind,
        "can_stream": can_stream,
        "ports": ports,
        "findings": findings,
        "summary": summary,
    }


def _finding(code: str, severity: str, message: str, evidence: Mapping[str, Any], fix: str) -> dict[str, Any]:
    return {"code": code, "severity": severity, "message": message, "evidence": dict(evidence), "fix": fix}


def _inspect_onnx(path: Path) -> Described:
    graph = OnnxGraph(path)
    ports = [
        {"name": port.name, "direction": direction, "dtype": port.dtype, "shape": list(port.shape)}
        for direction, group in (("input", graph.inputs), ("output", graph.outputs))
        for port in group
    ]
    names = {port["name"] for port in ports}
    summary = {"opset": graph.opset, "nodes": len(graph.proto.graph.node)}
    if {*DECODER_INPUTS, *DECODER_OUTPUTS} <= names:
        return True, ports, [], {"role": "decoder_joint", **summary}
    try:
        inputs = canonical_names([port.name for port in graph.inputs], ENCODER_INPUTS, str(path))
        outputs = canonical_names([port.name for port in graph.outputs], ENCODER_OUTPUTS, str(path))
    except StreamparityError as error:
        finding = _finding("unknown-port", "error", error.message, {"ports": sorted(names)}, error.hint)
        return False, ports, [finding], {"role": "unknown", **summary}
    missing = missing_ports(inputs, outputs)
    findings = []
    if missing:
        findings.append(
            _finding(
                "stateless-export",
                "error",
                "the graph lacks ports that carry state: it forgets everything between chunks and repeats itself",
                {"missing": missing},
                STATELESS_HINT,
            )
        )
    return not missing, ports, findings, {"role": "encoder", **summary}


def _inspect_dump(path: Path) -> Described:
    reader = DumpReader(path)
    manifest = reader.manifest
    ports = [{"direction": spec.name.split("/")[0], **spec.to_json()} for spec in manifest.tensors]
    findings = []
    if not manifest.complete:
        findings.append(
            _finding(
                "incomplete-dump",
                "warning",
                f"the dump was cut off after {reader.chunk_count} whole chunks",
                {"chunks": reader.chunk_count},
                "run the same `streamparity dump` with --resume",
            )
        )
    summary = {
        "model": manifest.model["id"],
        "model_sha256": manifest.model["sha256"],
        "att_context_size": list(manifest.streaming.att_context_size),
        "schedule": manifest.schedule,
        "chunks": reader.chunk_count,
        "seconds": manifest.audio.get("seconds"),
        "text": manifest.text,
    }
    return True, ports, findings, summary


def _inspect_nemo(path: Path) -> Described:
    check_archive(path)
    config = _nemo_config(path)
    encoder, preprocessor = config.get("encoder") or {}, config.get("preprocessor") or {}
    style = encoder.get("att_context_style", "regular")
    contexts = encoder.get("att_context_size") or [-1, -1]
    contexts = contexts if isinstance(contexts[0], list) else [contexts]
    target = str(encoder.get("_target_", ""))
    summary = {
        "class": str(config.get("target", "")).rpartition(".")[2],
        "encoder": target.rpartition(".")[2],
        "layers": encoder.get("n_layers"),
        "d_model": encoder.get("d_model"),
        "att_context_style": style,
        "att_context_size": contexts,
        "subsampling_factor": encoder.get("subsampling_factor"),
        "normalize": preprocessor.get("normalize"),
        "sample_rate": config.get("sample_rate"),
        "written_by": config.get("nemo_version"),
    }
    can_stream = target.endswith("ConformerEncoder") and style in STREAMING_STYLES
    findings = []
    if not can_stream:
        findings.append(
            _finding(
                "not-a-streaming-encoder",
                "error",
                f"{summary['encoder'] or 'the encoder'} with {style} attention is not cache-aware",
                {"target": target, "att_context_style": style},
                "use a model with a ConformerEncoder and limited attention context",
            )
        )
    elif any(part < 0 for context in contexts for part in context):
        findings.append(
            _finding(
                "unlimited-context",
                "warning",
                "the attention context is unlimited: NeMo's own chunks for it are too long to stream",
                {"att_context_size": contexts},
                "pass --att-context L,-1 with --chunk-size and --shift-size, in encoder frames",
            )
        )
    if preprocessor.get("normalize") in ("per_feature", "all_features"):
        findings.append(
            _finding(
                "whole-utterance-normalization",
                "warning",
                "features are normalised over the whole utterance, which a live stream does not have",
                {"normalize": preprocessor["normalize"]},
                "expect other features live than in this dump, or retrain with normalize: NA",
            )
        )
    ports = [
        {"name": name, "direction": direction, "axes": list(port.axes)}
        for direction, group in (("input", ENCODER_INPUTS), ("output", ENCODER_OUTPUTS))
        for name, port in group.items()
    ]
    return can_stream, ports if can_stream else [], findings, summary


def _nemo_config(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise BackendMissing(f"PyYAML cannot be imported: {error}", "pip install 'streamparity[nemo]'") from None
    with tarfile.open(path) as archive:
        member = next(item for item in archive.getmembers() if Path(item.name).name == "model_config.yaml")
        file = archive.extractfile(member)
        try:
            config = yaml.safe_load(file.read()) if file is not None else None
        except yaml.YAMLError as error:
            raise StreamparityError(f"{path}: model_config.yaml is not YAML: {error}", "copy it again") from None
    if not isinstance(config, dict):
        raise StreamparityError(f"{path}: model_config.yaml holds no configuration", "copy it again")
    return config
