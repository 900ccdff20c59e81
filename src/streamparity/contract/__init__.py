"""The contract of a model or of its export: what goes in, what comes out, how it streams, what it was made from."""

from .check import check_against
from .model import CONTRACT, Contract
from .network import ContractPort

__all__ = ["CONTRACT", "Contract", "ContractPort", "check_against"]
