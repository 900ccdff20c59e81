"""The name of the place where an error is made: the smallest module, and the node where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..graph.onnx_graph import FLOATS, module_path
from ..tensors import ENCODER_OUTPUTS
from .ancestry import Ancestry
from .case import Case
from .trial import PieceTrial

# What a port returns is named by the port.
PORTS = set(ENCODER_OUTPUTS)
NEAR = 5  # operators of a norm that is written out
# Modules that hold everything say nothing.
VAGUE = {"", "encoder", "encoder.layers"}


@dataclass(frozen=True)
class Place:
    """Where an error is made.

    Attributes:
        module: NeMo's module path.
        node: name of the graph's node, ``None`` where evidence leaves several.
    """

    module: str
    node: str | None


def place(case: Case) -> Place | None:
    """The smallest module that evidence puts the introduced error in; ``None`` where none is introduced."""
    label = case.introduced
    if label is None:
        return None
    named = _by_evidence(case)
    if named is not None:
        return named
    shared = _common(case.together)
    computing = [node.name for node in case.suspects if node.op_type != "Constant"]
    # A whole layer says less than the part of it that fails first.
    module = label if shared == f"encoder.layers.{case.layer}" else shared
    return Place(module, computing[0] if len(computing) == 1 else None)


def _by_evidence(case: Case) -> Place | None:
    """Where a weight or node stands that is wrong and can have made the error."""
    if case.wrong_weight is not None and not case.systemic:
        return Place(case.wrong_weight.parameter.rpartition(".")[0], case.wrong_weight.node)
    if case.introduced in PORTS:
        return None
    nodes = [cure.node for cure in case.cures if cure.node is not None]
    named = [cure.parameter.rpartition(".")[0] for cure in case.cures[:1] if cure.parameter is not None]
    named = named or [norm for norm in (_norm_behind(case, node) for node in nodes[:1]) if norm is not None]
    shared = _common(named or _scopes_near(case, nodes))
    if shared not in VAGUE:
        return Place(shared, nodes[0].name if len(nodes) == 1 else None)
    for odd in case.odd_nodes:
        if odd.module.startswith("encoder.layers.") and odd.node and not case.systemic:
            return Place(odd.module, odd.node)
    return None


def _scopes_near(case: Case, nodes: Sequence[Any]) -> list[str]:
    """The reference's modules that nodes stand in, or that the nearest node before each does."""
    if not nodes or case.trial is None or case.graph is None:
        return []
    root, uncut = ("encoder.", case.graph.proto) if isinstance(case.trial, PieceTrial) else ("", case.trial.proto)
    ancestry, known, floats = Ancestry(uncut), _modules(case), _floats(case)
    scopes = []
    for node in nodes:
        same = next((other for other in uncut.graph.node if other.output[:1] == node.output[:1]), node)
        told = (_known_scope(root, other, known) for other in ancestry.before(same, floats))
        nearest = next((scope for scope in told if scope is not None), None)
        scopes += [] if nearest is None else [nearest]
    return scopes


def _known_scope(root: str, node: Any, known: set[str]) -> str | None:
    """The module that a node's name tells, if it is the reference's."""
    scope = root + module_path(node.name)
    if scope not in known and scope.startswith("decoder."):  # the ModuleDict "prediction" leaves no trace
        scope = scope.replace("decoder.", "decoder.prediction.", 1)
    # What a module without parameters is called is not known, but where it stands is.
    inside = scope in known or scope.rpartition(".")[0] in known
    return scope if node.op_type != "Constant" and inside else None


def _norm_behind(case: Case, node: Any) -> str | None:
    """The norm that a node without a name is a part of: what follows soon takes its gain."""
    if node.name or case.trial is None or case.anatomy is None:
        return None
    for other, _ in zip(Ancestry(case.trial.proto).after(node), range(NEAR), strict=False):
        for name in other.input:
            norm = f"encoder.{name}".rpartition(".")[0]
            if norm in case.anatomy.norms:
                return norm
    return None


def _floats(case: Case) -> set[str]:
    """Tensors that hold numbers rather than shapes or masks."""
    graphs = [case.graph, getattr(case.runner.transducer, "graph", None)]
    return {n for graph in graphs if graph is not None for n, kind in graph.types().items() if kind in FLOATS}


def _modules(case: Case) -> set[str]:
    """Module paths of the reference, of layers and what is in them."""
    known = {spec.label for spec in case.specs if spec.kind == "tap"}
    for name in () if case.anatomy is None else case.anatomy.parameters:
        known |= {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
    return known - VAGUE


def _common(labels: Sequence[str]) -> str:
    """The deepest module that holds all of them."""
    parts = [label.split(".") for label in labels]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)
