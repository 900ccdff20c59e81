"""``contract.json``, schema ``streamparity.contract/1``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import StreamparityError
from ..schedule import StreamingConfig

SCHEMA = "streamparity.contract/1"
CONTRACT = "contract.json"


@dataclass(frozen=True)
class ContractPort:
    """A port as exported; a dynamic extent is ``None``."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Contract:
    """What an export promises.

    Attributes:
        model: ``id``, ``sha256``, ``class`` of the NeMo model.
        streaming: the configuration baked into the graph.
        graphs: per file name, its SHA-256 (and that of the weights beside it, or ``None``), inputs and outputs.
        decoding: decoder kind, blank, ``max_symbols``, durations, vocabulary.
        features: rate, window and normalisation of the preprocessor.
        producer: program and versions.
    """

    model: dict[str, Any]
    streaming: StreamingConfig
    graphs: dict[str, dict[str, Any]]
    decoding: dict[str, Any] | None
    features: dict[str, Any]
    producer: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            # An exported encoder always drops its pre-encode history: only the padded schedule fits it.
            "streaming": {"schedule": "padded", **self.streaming.to_json()},
            "features": self.features,
            "decoding": self.decoding,
            "graphs": {
                name: {
                    "sha256": graph["sha256"],
                    "weights_sha256": graph["weights_sha256"],
                    "inputs": [asdict(port) for port in graph["inputs"]],
                    "outputs": [asdict(port) for port in graph["outputs"]],
                }
                for name, graph in self.graphs.items()
            },
            "producer": self.producer,
        }

    @classmethod
    def read(cls, path: Path) -> Contract:
        """Read ``contract.json``.

        Raises:
            StreamparityError: not JSON, another schema, or fields missing.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("schema") != SCHEMA:
                raise ValueError(f"schema {data.get('schema')!r}, not {SCHEMA!r}")
            if not isinstance(data["model"].get("sha256"), str):
                raise ValueError("model.sha256 is missing")
            return cls(
                model=data["model"],
                streaming=StreamingConfig.from_json(data["streaming"]),
                graphs={
                    name: {
                        "sha256": graph["sha256"],
                        "weights_sha256": graph["weights_sha256"],
                        "inputs": [_port(port) for port in graph["inputs"]],
                        "outputs": [_port(port) for port in graph["outputs"]],
                    }
                    for name, graph in data["graphs"].items()
                },
                decoding=data["decoding"],
                features=data["features"],
                producer=data["producer"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise StreamparityError(
                f"{path} is not a contract that can be read: {error}", "export again, or move the file away"
            ) from None


def _port(data: Mapping[str, Any]) -> ContractPort:
    return ContractPort(data["name"], data["dtype"], tuple(data["shape"]), tuple(data["axes"]))


def check_against(
    contract: Contract, graph_name: str, ports: Mapping[str, tuple[str, tuple[int | str | None, ...]]]
) -> list[str]:
    """Every disagreement of a graph with its contract, one line each.

    Args:
        contract: the contract beside the graph.
        graph_name: file name of the graph.
        ports: what the graph has: dtype and shape by name; symbolic extents are not numbers.
    """
    promised = contract.graphs.get(graph_name)
    if promised is None:
        return [f"the contract does not speak of {graph_name}; it has {', '.join(contract.graphs)}"]
    problems = []
    for port in [*promised["inputs"], *promised["outputs"]]:
        if port.name not in ports:
            problems.append(f"port {port.name} is missing")
            continue
        dtype, shape = ports[port.name]
        fixed = tuple(extent if isinstance(extent, int) else None for extent in shape)
        if dtype != port.dtype:
            problems.append(f"port {port.name} is {dtype}, the contract says {port.dtype}")
        if fixed != port.shape:
            problems.append(f"port {port.name} has shape {list(fixed)}, the contract says {list(port.shape)}")
    return problems
