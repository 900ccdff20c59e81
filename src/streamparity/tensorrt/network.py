"""From ONNX bytes to a network, with an error that names the node that cannot be read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendMissing, StreamparityError
from ..graph.onnx_graph import GraphPort, module_path
from .module import Log, TrtModule


@dataclass
class Network:
    """A parsed network with what must live as long as it does."""

    builder: Any
    network: Any
    parser: Any
    log: Log

    def ports(self, module: TrtModule, direction: str) -> tuple[GraphPort, ...]:
        """Ports as the runtime sees them; ``direction`` is ``input`` or ``output``."""
        count = self.network.num_inputs if direction == "input" else self.network.num_outputs
        get = self.network.get_input if direction == "input" else self.network.get_output
        return tuple(port_of(module, get(place)) for place in range(count))

    def mark(self, tensors: Collection[str]) -> set[str]:
        """Make inner tensors outputs; those that the network does not have under these names are returned."""
        outputs = {self.network.get_output(place).name for place in range(self.network.num_outputs)}
        wanted = set(tensors) - outputs
        for layer in self.network:
            for place in range(layer.num_outputs):
                tensor = layer.get_output(place)
                if tensor is not None and tensor.name in wanted:
                    self.network.mark_output(tensor)
                    wanted.discard(tensor.name)
        return wanted


def port_of(module: TrtModule, tensor: Any) -> GraphPort:
    """Name, dtype and shape of a network's tensor."""
    return GraphPort(tensor.name, module.dtype(tensor.dtype), extents(tensor.shape))


def extents(dims: Any) -> tuple[int | None, ...]:
    """A runtime's shape, ``None`` for -1."""
    return tuple(None if extent < 0 else int(extent) for extent in dims)


def parse(module: TrtModule, log: Log, data: bytes, path: Path, root: str) -> Network:
    """Parse a graph into a strongly typed network.

    Args:
        module: the runtime.
        log: what it logs to.
        data: the serialised graph.
        path: the file it came from; external weights are found beside it.
        root: what comes before this graph's module paths in NeMo's: ``encoder.`` or nothing.

    Raises:
        BackendMissing: this runtime builds on a GPU only, and there is none.
        StreamparityError: a node that the parser does not know.
    """
    trt = module.trt
    try:
        builder = trt.Builder(log.logger)
    except Exception as error:  # pybind turns what the library returns into a TypeError
        raise no_builder(module, log.last_error(str(error))) from None
    if not builder:
        raise no_builder(module, log.last_error("no reason given"))
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(data, str(path)):
        raise _refused(module, parser, log, path, root)
    return Network(builder, network, parser, log)


def no_builder(module: TrtModule, reason: str) -> BackendMissing:
    """The runtime cannot build here."""
    return BackendMissing(
        f"{module.name} {module.version} cannot build here: {reason}",
        "build on a machine with a GPU and its driver, or with --runtime tensorrt_rtx, which needs neither",
    )


def _refused(module: TrtModule, parser: Any, log: Log, path: Path, root: str) -> StreamparityError:
    if not parser.num_errors:
        return StreamparityError(
            f"{module.name} cannot parse {path}: {log.last_error('no reason given')}", "check it: streamparity inspect"
        )
    error = parser.get_error(0)
    name, operator = error.node_name(), error.node_operator()
    where = f"{root}{module_path(name)}".rstrip(".") or "the graph's top level"
    reason = " ".join(str(error.desc()).split())
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    return StreamparityError(
        f"{module.name} {module.version} cannot parse node {name} ({operator}) of {where}: {reason}{more}",
        f"replace {operator} there, or export at another opset; the graph is {path}",
    )
