"""Checking a contract against ONNX graphs, by their ports and by running them."""

from __future__ import annotations

from pathlib import Path

from ..contract import derive
from ..contract.check import MISSING, Ledger
from ..contract.file_ports import check_file_ports, part_of
from ..contract.model import Contract
from ..contract.network import ContractPort, Encoder
from ..errors import BackendMissing
from ..graph.onnx_graph import OnnxGraph
from ..provenance import file_sha256


def check_onnx(contract: Contract, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Compare the hash and ports of a graph, and what an encoder does."""
    file = OnnxGraph(target)
    inputs, outputs = (
        [ContractPort(port.name, port.dtype, port.extents, ()) for port in group]
        for group in (file.inputs, file.outputs)
    )
    if target.name in contract.graphs:
        promised = contract.graphs[target.name]
        ledger.compare(f"graphs/{target.name}/sha256", promised.sha256, file_sha256(target))
        weights = target.with_name(f"{target.name}.data")
        if promised.weights_sha256 is not None:
            there = file_sha256(weights) if weights.is_file() else MISSING
            ledger.compare(f"graphs/{target.name}/weights_sha256", promised.weights_sha256, there)
    fit = check_file_ports(contract, target.name, inputs, outputs, ledger, notes)
    if contract.encoder is None or part_of(inputs, outputs) != "encoder":
        return
    if fit:
        _check_steps(contract, contract.encoder, target, ledger, notes)
    else:
        notes.append(f"{target.name} was not run: its ports are not those promised")


def _check_steps(contract: Contract, encoder: Encoder, target: Path, ledger: Ledger, notes: list[str]) -> None:
    """Run the graph from empty caches: twice what a chunk brings, then more than any chunk, then the least."""
    from . import probe

    mels, config = contract.features.features, contract.streaming
    if mels is None:
        notes.append(f"{target.name} was not run: the contract does not know how many mel bands it takes")
        return
    caches = probe.empty_caches(*derive.cache_shapes(encoder, config))
    shortest = config.pre_encode_cache_size[1] + config.sampling_frames[1]
    inputs = [config.input_frames, config.input_frames, config.input_frames + probe.LONG_INPUT, shortest]
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
