"""An encoder graph under examination, and what it is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..contract import CONTRACT, Contract
from ..errors import StreamparityError
from ..graph.onnx_graph import GraphPort, OnnxGraph
from ..schedule import Schedule, StreamingConfig
from .finding import Finding, InspectOptions
from .flow import Flow

DEFAULT_SCHEDULE: Schedule = "padded"  # the only one that an export, with its drop baked in, can run


@dataclass(frozen=True)
class Promise:
    """What the contract beside a graph says, as far as it matters here.

    Attributes:
        streaming: the configuration that should be baked in.
        normalize: the features' normalisation.
        durations: number of TDT durations, 0 for none.
    """

    streaming: StreamingConfig | None = None
    normalize: Any = None
    durations: int = 0


@dataclass(frozen=True)
class EncoderSubject:
    """An encoder graph with every port that carries state.

    Attributes:
        graph: the file.
        inputs: actual port names by canonical name.
        outputs: actual port names by canonical name.
        promise: what the contract says.
        options: what the user asked for.
    """

    graph: OnnxGraph
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    promise: Promise
    options: InspectOptions

    @cached_property
    def flow(self) -> Flow:
        """The graph's edges."""
        return Flow(self.graph.proto)

    @cached_property
    def ports(self) -> dict[str, GraphPort]:
        """Ports by canonical name."""
        actual = {port.name: port for port in [*self.graph.inputs, *self.graph.outputs]}
        return {canonical: actual[name] for canonical, name in {**self.inputs, **self.outputs}.items()}

    @property
    def schedule(self) -> Schedule:
        """The schedule asked for."""
        return self.options.schedule or DEFAULT_SCHEDULE

    def extent(self, port: str, axis: int) -> int | None:
        """Fixed extent of a port along an axis, where it has one."""
        shape = self.ports[port].shape
        extent = shape[axis] if axis < len(shape) else None
        return extent if isinstance(extent, int) else None


def promise_beside(path: Path) -> tuple[Promise, list[Finding]]:
    """What the contract beside a graph says, and a finding where it cannot be read."""
    file = path.parent / CONTRACT
    if not file.is_file():
        return Promise(), []
    try:
        contract = Contract.read(file)
    except StreamparityError as error:
        finding = Finding("contract-unreadable", "warning", error.message, {"file": CONTRACT}, error.hint)
        return Promise(), [finding]
    # A contract without graphs, of a model that was not exported, speaks of any of its graphs.
    if contract.graphs and path.name not in contract.graphs:
        return Promise(), []
    document = contract.to_json()
    durations = (document["decoding"] or {}).get("durations") or ()
    return Promise(contract.streaming, document["features"].get("normalize"), len(durations)), []
