"""An engine built once more from the graph it came from, with other layers in float32."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..contract import CONTRACT
from ..errors import StreamparityError
from ..graph.beside import beside
from ..graph.onnx_graph import OnnxGraph
from ..provenance import file_sha256
from ..tensors import ENCODER_INPUTS, canonical_names
from .builder import build
from .metadata import EngineMetadata, read_metadata, sidecar
from .options import BuildOptions
from .pins import node_path
from .precision import LOWERED, lower


def source_of(engine: Path) -> tuple[Path, EngineMetadata]:
    """The graph an engine was built from, which must still lie beside it, and what is known of the engine.

    Raises:
        StreamparityError: nothing is known of the engine, it is not in reduced precision, or its graph is not there.
    """
    metadata = read_metadata(engine)
    if metadata is None:
        raise StreamparityError(
            f"there is no {sidecar(engine)}, which says what the engine was built from", "build it again"
        )
    if metadata.precision not in LOWERED:
        raise StreamparityError(
            f"{engine.name} is in {metadata.precision}: layers are pinned against {' and '.join(LOWERED)} only",
            "build it with --precision fp16 or bf16",
        )
    source = engine.parent / str(metadata.source["file"])
    if not source.is_file() or file_sha256(source) != metadata.source["sha256"]:
        raise StreamparityError(
            f"{source}, from which {engine.name} was built, is not there or was changed since",
            "put the engine beside the export that it was built from",
        )
    return source, metadata


def layers_of(source: Path) -> list[str]:
    """Path of every layer of an encoder that reduced precision changes."""
    return [node_path(name, "encoder.") for name in lower(OnnxGraph(source), "fp16", lambda name: False).lowered]


def rebuilt(engine: Path, pins: Sequence[str], folder: Path) -> Path:
    """The engine with these layers in float32 besides those that were, and the decoder beside it.

    Args:
        engine: an engine with its graph and contract beside it.
        pins: globs over layers.
        folder: where to put it.
    """
    source, metadata = source_of(engine)
    names = [profile.name for profile in metadata.profiles]
    actual = canonical_names([port.name for port in metadata.inputs], ENCODER_INPUTS, engine.name)["audio_signal"]
    least, likeliest, most = metadata.profiles[0].shapes[actual]
    target = folder / engine.name
    options = BuildOptions(
        out=target,
        contract=engine.parent / CONTRACT,
        schedule="native" if "first" in names else "padded",
        batch=(least[0], likeliest[0], most[0]),
        tail="tail" in names,
        precision=str(metadata.precision),
        fp32=tuple(dict.fromkeys([*metadata.fp32_pins, *pins])),
        targets=metadata.targets,
        runtime=metadata.runtime,
        force=True,
    )
    build(source, options)
    decoder = beside(engine, "decoder_joint")
    wanted = [engine.parent / CONTRACT, *([decoder, sidecar(decoder)] if decoder is not None else [])]
    for path in wanted:
        if path.is_file():
            shutil.copy(path, folder)
    return target
