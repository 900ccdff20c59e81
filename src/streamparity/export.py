"""``streamparity export``: NeMo's own exporter, set up to stream, and checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .contract import CONTRACT, Contract, ContractPort
from .contract.parts import Graph
from .contract_check.probe import expected, observe
from .errors import StreamparityError, first_line
from .graph.onnx_graph import OnnxGraph
from .progress import Note, no_note
from .provenance import file_sha256
from .reference.contract import contract_of, streaming_encoder
from .reference.encoder import initial_caches
from .reference.nemo import LoadedModel, StreamingOptions, configure_streaming, ctc_head, quiet
from .schedule import StreamingConfig
from .tensors import CTC_INPUTS, CTC_OUTPUTS, DECODER_AXES, ENCODER_INPUTS, ENCODER_OUTPUTS, Port

ENCODER = "encoder.onnx"
DECODER_JOINT = "decoder_joint.onnx"
CTC_DECODER = "ctc_decoder.onnx"
OPSET = 17


def export(
    model: LoadedModel,
    out: Path,
    options: StreamingOptions,
    *,
    force: bool = False,
    note: Note = no_note,
) -> Contract:
    """Export encoder, ``decoder_joint`` and CTC head with cache support, check them, and write the contract.

    Everything is made and checked in a folder beside ``out`` and moved in place at the end: as a whole where ``out`` is
    new, else file by file, the contract last.

    Args:
        model: a restored NeMo model.
        out: folder for ``encoder.onnx``, ``decoder_joint.onnx``, ``ctc_decoder.onnx`` and ``contract.json``.
        options: the streaming configuration to bake in.
        force: replace an earlier export.
        note: called with lines the user should see.

    Raises:
        StreamparityError: an export is there already, NeMo cannot export the model, or the export does not stream.
    """
    names = (ENCODER, DECODER_JOINT, CTC_DECODER, CONTRACT)
    present = [name for name in names if (out / name).exists()]
    if out.is_file() or (present and not force):
        raise StreamparityError(
            f"{out} already holds {', '.join(present) or 'a file'}",
            "choose another --out, or pass --force to replace it",
        )
    with quiet():
        # Before the configuration: NeMo's set_export_config sets up its default streaming parameters again.
        model.module.set_export_config({"cache_support": "True"})
    config = configure_streaming(model.module, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.export-"
    for stale in out.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale)  # an export that was killed
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as folder:
        staging = Path(folder) / "export"
        staging.mkdir()
        _export_graphs(model.module, staging)
        if not any((staging / name).exists() for name in (DECODER_JOINT, CTC_DECODER)):
            note("the model has neither joint nor CTC head: the encoder alone was exported")
        _check_streams(model.module, staging / ENCODER, config)
        contract = contract_of(model, config, "streamparity export", _graphs(staging), OPSET)
        (staging / CONTRACT).write_bytes(contract.to_bytes())
        if not out.exists():
            os.replace(staging, out)
        else:
            (out / CONTRACT).unlink(missing_ok=True)
            for path in sorted(staging.iterdir(), key=lambda path: path.name == CONTRACT):
                os.replace(path, out / path.name)
            for name in set(present) - set(contract.graphs) - {CONTRACT}:
                (out / name).unlink()
    return contract


def _export_graphs(module: Any, staging: Path) -> None:
    """Write the graphs, one file of weights each at most.

    NeMo exports a CTC model as one graph without encoder output, and leaves the CTC head of a hybrid out: the head is
    exported by itself, which serves both.
    """
    import torch

    has_decoder, head = hasattr(module, "joint"), ctc_head(module)
    raw = staging / "raw"
    raw.mkdir()
    try:
        with quiet(), torch.inference_mode(False):
            exported = module if has_decoder else module.encoder
            exported.export(str(raw / "model.onnx"), onnx_opset_version=OPSET, check_trace=False)
            if head is not None:
                head.export(str(raw / CTC_DECODER), onnx_opset_version=OPSET, check_trace=False)
    except OSError:
        raise
    except Exception as error:  # NeMo and torch raise whatever their parts raise
        raise StreamparityError(
            f"NeMo cannot export the model: {first_line(error)}", "see the cause with --debug"
        ) from error
    pairs = {
        ENCODER: "encoder-model.onnx" if has_decoder else "model.onnx",
        DECODER_JOINT: "decoder_joint-model.onnx",
        CTC_DECODER: CTC_DECODER,
    }
    for name, raw_name in pairs.items():
        if (raw / raw_name).exists():
            _gather(raw / raw_name, staging / name)
    shutil.rmtree(raw)


def _gather(source: Path, target: Path) -> None:
    """Move a graph; weights that the exporter scattered over many files go into one beside it."""
    import onnx

    scattered = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in onnx.load(str(source), load_external_data=False).graph.initializer
    )
    if not scattered:
        os.replace(source, target)
        return
    onnx.save_model(
        onnx.load(str(source)),
        str(target),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=target.name + ".data",
    )
    # onnx makes the file for its owner's eyes only, whatever the umask says; the graph beside it is not so.
    target.with_name(f"{target.name}.data").chmod(target.stat().st_mode & 0o666)


def _check_streams(module: Any, encoder: Path, config: StreamingConfig) -> None:
    """Load the encoder in ONNX Runtime, look for every cache port, and run two chained steps.

    Raises:
        StreamparityError: any of it fails.
    """
    caches, inputs = initial_caches(module, next(module.encoder.parameters()).dtype), [config.input_frames] * 2
    promised = expected(config, streaming_encoder(module.encoder).subsampling, caches, inputs)
    seen = observe(encoder, int(module.encoder._feat_in), config, caches, inputs)
    for step, (ours, theirs) in enumerate(zip(promised, seen, strict=False)):
        if theirs.failure is not None:
            raise _broken(f"step {step} fails: {theirs.failure}")
        if not theirs.finite:
            raise _broken(f"step {step} returns values that are not finite")
        if theirs.frames < 1 or (theirs.frames, theirs.cache_length) != (ours.frames, ours.cache_length):
            raise _broken(
                f"step {step} returns {theirs.frames} frames and a cache length of {theirs.cache_length}, "
                f"not {ours.frames} and {ours.cache_length}"
            )
        if theirs.shapes != ours.shapes:
            raise _broken("the cache it returns is of another size than the one it takes")


def _broken(why: str) -> StreamparityError:
    return StreamparityError(
        f"the exported encoder does not stream: {why}", "nothing was written; try other versions of torch or NeMo"
    )


def _graphs(staging: Path) -> dict[str, Graph]:
    """The files exported, with what they say of themselves."""
    graphs = {}
    decoder_ports = {name: Port(axes, "decoder") for name, axes in DECODER_AXES.items()}
    encoder_ports, ctc_ports = {**ENCODER_INPUTS, **ENCODER_OUTPUTS}, {**CTC_INPUTS, **CTC_OUTPUTS}
    for name, ports in ((ENCODER, encoder_ports), (DECODER_JOINT, decoder_ports), (CTC_DECODER, ctc_ports)):
        path = staging / name
        if path.exists():
            graph, weights = OnnxGraph(path), path.with_name(f"{name}.data")
            inputs, outputs = (
                tuple(ContractPort.of(port.name, port.dtype, port.extents, ports.get(port.name)) for port in group)
                for group in (graph.inputs, graph.outputs)
            )
            weights_sha256 = file_sha256(weights) if weights.exists() else None
            graphs[name] = Graph(file_sha256(path), weights_sha256, inputs, outputs)
    return graphs
