"""Does an engine keep what the contract of its model promises?"""

from __future__ import annotations

from pathlib import Path

from ..contract import Contract
from ..contract.check import Disagreement, Ledger
from ..contract.engine_check import check_engine
from ..graph.onnx_graph import missing_ports
from ..schedule import StreamingConfig
from ..tensors import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names
from .metadata import EngineMetadata


def disagreements(contract: Contract, engine: Path) -> list[Disagreement]:
    """Every disagreement of an engine, described beside it, with a contract."""
    ledger = Ledger(contract.source)
    check_engine(contract, engine, ledger, [])
    return ledger.disagreements


def streaming_problems(built: StreamingConfig, promised: StreamingConfig, where: str) -> list[str]:
    """What an engine was built for and ``where`` has otherwise, one line each."""
    ours, theirs = built.to_json(), promised.to_json()
    return [
        f"{key} is {ours[key]} in the engine and {theirs[key]} in {where}" for key in theirs if ours[key] != theirs[key]
    ]


def stateless_ports(metadata: EngineMetadata) -> list[str]:
    """The ports that a decoder, or an encoder that streams, must have and the engine lacks."""
    outputs = [port.name for port in metadata.outputs if port.name not in metadata.taps.values()]
    inputs = [port.name for port in metadata.inputs]
    if metadata.role == "decoder_joint":
        return [name for name in (*DECODER_INPUTS, *DECODER_OUTPUTS) if name not in (*inputs, *outputs)]
    return missing_ports(
        canonical_names(inputs, ENCODER_INPUTS, "the engine"), canonical_names(outputs, ENCODER_OUTPUTS, "the engine")
    )
