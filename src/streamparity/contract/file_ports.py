"""Ports of a file, a graph or an engine, held against those that a contract promises."""

from __future__ import annotations

from collections.abc import Sequence

from ..tensors import CTC_INPUTS, CTC_OUTPUTS, DECODER_INPUTS, DECODER_OUTPUTS
from .check import Ledger, check_ports
from .model import Contract
from .network import ContractPort

Ports = Sequence[ContractPort]


def part_of(inputs: Ports, outputs: Ports) -> str:
    """Which part of the model a file with these ports is: ``encoder``, ``decoder`` (with joint) or ``ctc`` head."""
    names = {port.name for port in [*inputs, *outputs]}
    if {*CTC_INPUTS, *CTC_OUTPUTS} <= names:
        return "ctc"
    return "decoder" if {*DECODER_INPUTS, *DECODER_OUTPUTS} <= names else "encoder"


def check_file_ports(
    contract: Contract, file: str, inputs: Ports, outputs: Ports, ledger: Ledger, notes: list[str]
) -> bool:
    """Compare ports with those promised for the file, else for any export of the model; whether they agree."""
    part = part_of(inputs, outputs)
    promised, described = contract.graphs.get(file), getattr(contract, part, None)
    if promised is None and (described is None or not described.inputs):
        notes.append(f"the contract says nothing of the ports of {file}")
        return False
    before = len(ledger.disagreements)
    where = part if promised is None else f"graphs/{file}"
    for side, there in (("inputs", inputs), ("outputs", outputs)):
        ours = getattr(promised or described, side)
        check_ports(ledger, f"{where}/{side}", ours, there, exact=promised is not None)
    return len(ledger.disagreements) == before
