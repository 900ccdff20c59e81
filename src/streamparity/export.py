"""``streamparity export``: NeMo's own exporter, set up to stream, and checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .contract import CONTRACT, Contract, ContractPort
from .dump.store import encode
from .errors import StepFailed, StreamparityError, first_line
from .progress import Note, no_note
from .provenance import file_sha256, versions
from .reference.encoder import initial_caches
from .reference.nemo import LoadedModel, StreamingOptions, configure_streaming, decoder_of, quiet
from .runners import RunnerOptions, StepInput
from .runners.onnx_graph import GraphPort, OnnxGraph
from .runners.ort import OrtRunner
from .schedule import StreamingConfig
from .tensors import DECODER_AXES, ENCODER_INPUTS, ENCODER_OUTPUTS

ENCODER = "encoder.onnx"
DECODER_JOINT = "decoder_joint.onnx"
OPSET = 17


def export(
    model: LoadedModel,
    out: Path,
    options: StreamingOptions,
    *,
    force: bool = False,
    note: Note = no_note,
) -> Contract:
    """Export encoder and ``decoder_joint`` with cache support, check them, and write the contract.

    Everything is made and checked in a folder beside ``out`` and moved in place at the end: as a whole where ``out`` is
    new, else file by file, the contract last.

    Args:
        model: a restored NeMo model.
        out: folder for ``encoder.onnx``, ``decoder_joint.onnx`` and ``contract.json``.
        options: the streaming configuration to bake in.
        force: replace an earlier export.
        note: called with lines the user should see.

    Raises:
        StreamparityError: an export is there already, NeMo cannot export the model, or the export does not stream.
    """
    names = (ENCODER, DECODER_JOINT, CONTRACT)
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
        has_decoder = _export_graphs(model.module, staging)
        if not has_decoder:
            note("the model has no joint: the encoder alone was exported")
        _check_streams(model.module, staging / ENCODER, config)
        contract = _contract(model, config, staging)
        (staging / CONTRACT).write_bytes(encode(contract.to_json()))
        if not out.exists():
            os.replace(staging, out)
        else:
            (out / CONTRACT).unlink(missing_ok=True)
            for path in sorted(staging.iterdir(), key=lambda path: path.name == CONTRACT):
                os.replace(path, out / path.name)
            for name in set(present) - set(contract.graphs) - {CONTRACT}:
                (out / name).unlink()
    return contract


def _export_graphs(module: Any, staging: Path) -> bool:
    """Write the graphs, one file of weights each at most; whether there is a ``decoder_joint``."""
    import torch

    has_decoder = hasattr(module, "joint")
    raw = staging / "raw"
    raw.mkdir()
    try:
        with quiet(), torch.inference_mode(False):
            exported = module if has_decoder else module.encoder
            exported.export(str(raw / "model.onnx"), onnx_opset_version=OPSET, check_trace=False)
    except OSError:
        raise
    except Exception as error:  # NeMo and torch raise whatever their parts raise
        raise StreamparityError(
            f"NeMo cannot export the model: {first_line(error)}", "see the cause with --debug"
        ) from error
    pairs = {ENCODER: "encoder-model.onnx" if has_decoder else "model.onnx", DECODER_JOINT: "decoder_joint-model.onnx"}
    for name, raw_name in pairs.items():
        if (raw / raw_name).exists():
            _gather(raw / raw_name, staging / name)
    shutil.rmtree(raw)
    return has_decoder


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
    runner = OrtRunner.open(encoder, RunnerOptions())
    caches = initial_caches(module, next(module.encoder.parameters()).dtype)
    runner.set_caches(caches)
    frames = config.pre_encode_cache_size[1] + config.chunk_size[1]
    noise = np.random.default_rng(0).standard_normal((1, int(module.encoder._feat_in), frames), dtype=np.float32)
    computed = 1 + (config.chunk_size[1] - config.sampling_frames[1]) // config.subsampling_factor
    expected = 0
    for step in range(2):
        try:
            outputs = runner.step(StepInput(noise, np.array([frames], np.int64), config.drop_extra_pre_encoded, False))
        except StepFailed as failure:
            raise _broken(f"step {step} fails: {failure.message}") from failure
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise _broken(f"step {step} returns values that are not finite")
        kept = int(outputs["out/encoded_lengths"][0])
        expected = min(expected + computed - config.cache_drop_size, config.last_channel_cache_size)
        length = int(outputs["out/cache_last_channel_next_len"][0])
        if kept < 1 or length != expected:
            raise _broken(f"step {step} returns {kept} frames and a cache length of {length}, not {expected}")
        if outputs["out/cache_last_channel_next"].shape != caches["cache_last_channel"].shape:
            raise _broken("the cache it returns is of another size than the one it takes")


def _broken(why: str) -> StreamparityError:
    return StreamparityError(
        f"the exported encoder does not stream: {why}", "nothing was written; try other versions of torch or NeMo"
    )


def _contract(model: LoadedModel, config: StreamingConfig, staging: Path) -> Contract:
    from omegaconf import OmegaConf

    module = model.module
    encoder_axes = {name: port.axes for name, port in {**ENCODER_INPUTS, **ENCODER_OUTPUTS}.items()}
    graphs = {}
    for name, axes in ((ENCODER, encoder_axes), (DECODER_JOINT, DECODER_AXES)):
        path = staging / name
        if path.exists():
            graph, weights = OnnxGraph(path), path.with_name(f"{name}.data")
            graphs[name] = {
                "sha256": file_sha256(path),
                "weights_sha256": file_sha256(weights) if weights.exists() else None,
                "inputs": [_contract_port(port, axes) for port in graph.inputs],
                "outputs": [_contract_port(port, axes) for port in graph.outputs],
            }
    decoder = decoder_of(module)
    preprocessor: Any = OmegaConf.to_container(module.cfg.preprocessor, resolve=True)
    return Contract(
        model={"id": model.id, "sha256": model.sha256, "class": type(module).__name__},
        streaming=config,
        graphs=graphs,
        decoding=None if decoder is None else asdict(decoder),
        features={key: value for key, value in preprocessor.items() if key != "_target_"},
        producer={"program": "streamparity export", "opset": OPSET, "versions": versions()},
    )


def _contract_port(port: GraphPort, axes: dict[str, tuple[str, ...]]) -> ContractPort:
    shape = tuple(extent if isinstance(extent, int) else None for extent in port.shape)
    return ContractPort(port.name, port.dtype, shape, axes.get(port.name, ()))
