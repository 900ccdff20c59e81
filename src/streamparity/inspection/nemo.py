"""A ``.nemo`` archive: members, configuration and the ways to stream it offers. Nothing in it is run or unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BackendMissing, StreamparityError, first_line
from ..reference.nemo import check_archive
from ..tensors import ENCODER_INPUTS, ENCODER_OUTPUTS
from .features import normalisation_findings
from .finding import Finding, InspectOptions, Report
from .modes import contexts, streaming_modes

STREAMING_STYLES = ("chunked_limited", "chunked_limited_with_rc", "regular")
CONFIG = "model_config.yaml"
LARGEST_CONFIG = 64 << 20  # bytes; NeMo's own are kilobytes, plus a vocabulary
LISTED = 64
# Where NeMo's own configurations take their classes from: instantiating one of these runs no stranger's code.
TRUSTED = ("nemo.", "torch.optim.", "torch.nn.", "pytorch_lightning.", "lightning.")


def inspect_nemo(path: Path, _: InspectOptions) -> Report:
    """Describe a NeMo model by its archive's table of contents and its configuration.

    Raises:
        BackendMissing: PyYAML is not installed.
        StreamparityError: truncated, or not a NeMo model.
    """
    check_archive(path)
    try:
        return _inspect(path)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise StreamparityError(
            f"{path}: {CONFIG} is not a NeMo model's: {type(error).__name__} {first_line(error)}",
            "save the model again with NeMo",
        ) from error


def _inspect(path: Path) -> Report:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        config = _configuration(path, archive, members)
    encoder, preprocessor = config.get("encoder") or {}, config.get("preprocessor") or {}
    style = encoder.get("att_context_style", "regular")
    target = str(encoder.get("_target_", ""))
    can_stream = target.endswith("ConformerEncoder") and style in STREAMING_STYLES
    summary = {
        "class": str(config.get("target", "")).rpartition(".")[2],
        "encoder": target.rpartition(".")[2],
        "layers": encoder.get("n_layers"),
        "d_model": encoder.get("d_model"),
        "att_context_style": style,
        "att_context_size": [list(context) for context in contexts(encoder)],
        "subsampling_factor": encoder.get("subsampling_factor"),
        "normalize": preprocessor.get("normalize"),
        "sample_rate": config.get("sample_rate"),
        "written_by": config.get("nemo_version"),
        "members": {str(PurePosixPath(member.name)): member.size for member in members[:LISTED] if member.isfile()},
        "modes": _described_modes(encoder, preprocessor) if can_stream else [],
    }
    findings = [*_member_findings(members), *_target_findings(config)]
    findings += _streaming_findings(can_stream, target, encoder)
    findings += normalisation_findings(preprocessor.get("normalize"))
    ports = [
        {"name": name, "direction": direction, "axes": list(port.axes)}
        for direction, group in (("input", ENCODER_INPUTS), ("output", ENCODER_OUTPUTS))
        for name, port in group.items()
    ]
    return Report("nemo", can_stream, ports if can_stream else [], findings, summary)


def _described_modes(encoder: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> list[dict[str, Any]]:
    hop_ms = float(preprocessor.get("window_stride") or 0.01) * 1000
    return [
        {
            "att_context_size": list(mode.att_context_size),
            "chunk_size": list(mode.chunk_size),
            "shift_size": list(mode.shift_size),
            "pre_encode_cache_size": list(mode.pre_encode_cache_size),
            "valid_out_len": mode.valid_out_len,
            "last_channel_cache_size": mode.last_channel_cache_size,
            "chunk_ms": round(mode.shift_size[1] * hop_ms),
        }
        for mode in streaming_modes(encoder)
    ]


def _member_findings(members: list[tarfile.TarInfo]) -> list[Finding]:
    escaping = [m.name for m in members if m.name.startswith("/") or ".." in PurePosixPath(m.name).parts]
    special = [m.name for m in members if not (m.isfile() or m.isdir())]
    names = [PurePosixPath(m.name).name for m in members if m.isfile()]
    twice = sorted({name for name in (CONFIG, "model_weights.ckpt") if names.count(name) > 1})
    if not (escaping or special or twice):
        return []
    return [
        Finding(
            "unsafe-archive",
            "error",
            "the archive holds members that no model needs: paths that lead out of it, links or devices, or one twice",
            {"escaping": escaping[:LISTED], "links_or_devices": special[:LISTED], "twice": twice},
            "do not restore it; get the model from where it was published",
        )
    ]


def _target_findings(config: Mapping[str, Any]) -> list[Finding]:
    foreign = sorted({target for target in _targets(config) if not target.startswith(TRUSTED)})
    if not foreign:
        return []
    return [
        Finding(
            "foreign-target",
            "warning",
            "restoring the model would instantiate classes that are not NeMo's",
            {"targets": foreign[:LISTED]},
            "make sure that you trust who made it before you dump or export it",
        )
    ]


def _targets(value: Mapping[str, Any]) -> Iterator[str]:
    """Every ``_target_`` in a configuration, however deep, which hydra would call, and NeMo's own ``target``."""
    waiting: list[Any] = [value]
    seen: set[int] = set()
    if isinstance(value.get("target"), str):
        yield value["target"]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:  # YAML aliases may point back
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            if isinstance(item.get("_target_"), str):
                yield item["_target_"]
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _streaming_findings(can_stream: bool, target: str, encoder: Mapping[str, Any]) -> list[Finding]:
    style, offered = encoder.get("att_context_style", "regular"), contexts(encoder)
    if not can_stream:
        return [
            Finding(
                "not-a-streaming-encoder",
                "error",
                f"{target.rpartition('.')[2] or 'the encoder'} with {style} attention is not cache-aware",
                {"target": target, "att_context_style": style},
                "use a model with a ConformerEncoder and limited attention context",
            )
        ]
    if any(part < 0 for context in offered for part in context):
        return [
            Finding(
                "unlimited-context",
                "warning",
                "the attention context is unlimited: NeMo's own chunks for it are too long to stream",
                {"att_context_size": [list(context) for context in offered]},
                "pass --att-context L,-1 with --chunk-size and --shift-size, in encoder frames",
            )
        ]
    return []


def _configuration(path: Path, archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise BackendMissing(f"PyYAML cannot be imported: {error}", "pip install 'streamparity[nemo]'") from None
    found = [m for m in members if PurePosixPath(m.name).name == CONFIG and m.isfile()]
    if not found or found[0].size > LARGEST_CONFIG:
        why = "is no file of the archive" if not found else f"has {found[0].size} bytes"
        raise StreamparityError(f"{path}: {CONFIG} {why}", "save the model again with NeMo")
    file = archive.extractfile(found[0])
    try:
        config = yaml.safe_load(file.read()) if file is not None else None
    except yaml.YAMLError as error:
        raise StreamparityError(f"{path}: {CONFIG} is not YAML: {first_line(error)}", "copy it again") from None
    if not isinstance(config, dict):
        raise StreamparityError(f"{path}: {CONFIG} holds no configuration", "copy it again")
    return config
