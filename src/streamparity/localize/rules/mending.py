"""A piece that is right once one thing in its graph is changed was wrong in that thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...dump.decoder import JOINT
from ...tensors import RETURNED
from ..ancestry import Ancestry
from ..cache_changes import CHANNEL, TIME
from ..case import Case
from ..finding import Finding
from ..repairs import Cure
from ..repairs.operators import NORMS
from .driver import FIXES

CLIPS = {"Clip", "Min", "Max"}
ROUNDS = {"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Round", "Floor"}
SQUARE_ROOTS = {"Sqrt", "Rsqrt", "Reciprocal", "Pow"}
PRE_ENCODE = "encoder.pre_encode"
POSITIONS = "encoder.pos_enc"
# A cure of a kind of which there are several leaves open which it is.
SURE, ONE_OF_SEVERAL = 0.93, 0.9
FIX = {
    "extra": "take this node out, or do what it does where the reference does it",
    "order": "hand the operands over, or take the outputs, in the reference's order",
    "place": "take the reference's frames, sides and axes here",
    "operator": "use the reference's operator here",
    "addend": "add it, as the reference does",
    "constant": "use the reference's number here",
    "scale": "look at the numbers and weights here: their product with what follows is off by this factor",
}
FIX_OF_CODE = {
    **FIXES,
    "overflow": "take it out, or use a format that reaches further",
    "reduced-precision": "build it in float32, or judge it as what it is",
    "norm-epsilon": "use the epsilon of the reference's layer",
    "weights-differ": "convert the weights again from the reference's .nemo, and check this tensor",
    "mask-missing": "set masked scores to a number so low that they vanish in the softmax",
    "positional-encoding-shift": "apply each position's score to its own distance, as NeMo's rel_shift does",
}


def mended(case: Case) -> Iterator[Finding]:
    """What one change of the graph shows to have been wrong."""
    # How a returned cache is related to the right one says more than what would mend it.
    if not case.cures or case.introduced in RETURNED.values():
        return
    found = case.cures[0]
    code = _code(case, found)
    sure = SURE if len(case.cures) == 1 else ONE_OF_SEVERAL
    yield Finding(
        code,
        sure if code == "graph-differs" else sure + 0.02,
        f"{case.introduced} is right once {found.text}",
        FIX_OF_CODE.get(code, FIX.get(found.kind, "")),
        {
            "node": None if found.node is None else found.node.name,
            "change": found.kind,
            "error_before": found.before,
            "error_after": found.after,
            "also_mended_by": [other.text for other in case.cures[1:4]],
            "parameter": found.parameter,
        },
    )


def _code(case: Case, found: Cure) -> str:
    node = found.node
    if found.kind == "weight":
        return "weights-differ"
    if node is None:
        return "graph-differs"
    if found.kind == "extra" and node.op_type in CLIPS:
        return "overflow"
    if found.kind == "precision" or (found.kind == "extra" and node.op_type in ROUNDS):
        return "reduced-precision"
    if case.trial is None or str(case.introduced).startswith(("decoder", JOINT)):
        return "graph-differs"
    return _by_role(case, found, Ancestry(case.trial.proto))


def _by_role(case: Case, found: Cure, ancestry: Ancestry) -> str:
    """What the node is there for, by what it is made of."""
    node, label = found.node, str(case.introduced)
    inputs = ancestry.inputs(node)
    nearby = [other.op_type for other, _ in zip(ancestry.after(node), range(3), strict=False)]
    rooted = node.op_type == "Add" and bool(SQUARE_ROOTS & set(nearby[1:]))
    if found.kind in ("extra", "constant") and (rooted or node.op_type in NORMS):
        return "norm-epsilon"
    if found.kind == "constant" and (node.op_type == "Where" or (node.op_type == "Add" and "Softmax" in nearby)):
        return "mask-missing"
    before = [other.op_type for other in ancestry.before(node)]
    if found.kind == "extra" and label.startswith(PRE_ENCODE) and "Conv" not in before:
        return "features-differ"
    caches = {CHANNEL, TIME} & inputs
    if _is_position(case, found, inputs, before):
        return "positional-encoding-shift"
    if found.kind == "place" and caches and inputs <= {CHANNEL, TIME}:
        return "cache-layers-swapped" if node.op_type == "Gather" else "cache-misaligned"
    if found.kind == "order" and node.op_type == "Concat" and caches:
        return "cache-misaligned"
    return "graph-differs"


def _is_position(case: Case, found: Cure, inputs: set[str], before: list[str]) -> bool:
    """Whether scores of positions are moved before they meet those of what is there, which need the cache."""
    tensor_of: Any = getattr(case.runner, "tensor_of", None)
    held = {spec.label for spec in case.subject.taps}
    positions = tensor_of(POSITIONS) if tensor_of is not None and POSITIONS in held else None
    moves = found.kind in ("place", "order")
    return moves and positions in inputs and CHANNEL not in inputs and "Softmax" not in before
