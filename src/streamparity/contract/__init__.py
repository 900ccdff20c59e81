"""The contract of an exported model: ports, shapes, streaming configuration, hashes."""

from .model import CONTRACT, Contract, ContractPort, check_against

__all__ = ["CONTRACT", "Contract", "ContractPort", "check_against"]
