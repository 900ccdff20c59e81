"""One number that is another: a constant, or a factor that is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...tensors import Array
from ..errors import PieceError
from ..trial import Trial
from .repair import Edit, Repair, constants, described, find, float_constant, put_before, put_behind

# Newton's steps for one number; a number on which the output does not depend smoothly is not found so.
STEPS = 10
NUDGE = 1e-2
# What turning a number by little does to the output must look like the error, at least by so much of its energy.
ALIKE = 0.2
# And a step must take away so much of it; where it leads too far, half of it is tried, and half again.
LESS, HALVINGS = 0.8, 3


@dataclass(frozen=True)
class Knob:
    """A number that can be turned.

    Attributes:
        kind: ``constant`` where the graph has it, ``scale`` where it is put in.
        node: the node that takes it, or makes what is scaled.
        text: names it.
        value: as it is.
        turned: the edit that makes it another.
        alike: what other knobs are the same at another node.
    """

    kind: str
    node: Any
    text: str
    value: float
    turned: Callable[[float], Edit]
    alike: str = ""

    def repair(self, value: float) -> Repair:
        """The edit that sets it."""
        text = f"{self.text} is {value:.6g} in place of {self.value:.6g}"
        return Repair(self.kind, self.node, text, self.turned(value))


def constant_knobs(proto: Any, nodes: Sequence[Any], floats: Collection[str]) -> Iterator[Knob]:
    """Scalar constants."""
    from onnx import numpy_helper

    tensors = {name: t for name, t in constants(proto).items() if t.data_type == 1 and int(np.prod(t.dims)) == 1}
    for node in nodes:
        for position, name in enumerate(node.input):
            if name in tensors and node.output[0] in floats and node.op_type not in ("Pad", "Constant"):
                value = float(numpy_helper.to_array(tensors[name]).reshape(-1)[0])
                text = f"operand {position} of {described(node)}"
                edit = _set(node.output[0], position)
                yield Knob("constant", node, text, value, edit, f"{node.op_type} {position} {value}")


def factor_knobs(nodes: Sequence[Any], floats: Collection[str]) -> Iterator[Knob]:
    """Factors on what nodes make, and on what they take from outside the piece."""
    made = {name for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type == "Constant" or node.output[0] not in floats:
            continue
        yield Knob("scale", node, f"a factor on what {described(node)} makes", 1.0, _scaled(node.output[0]))
        for position, name in enumerate(node.input):
            if name in floats and name not in made:
                text = f"a factor on operand {position} of {described(node)}"
                yield Knob("scale", node, text, 1.0, _scaled_operand(node.output[0], position))


def alike(knobs: Iterable[Knob]) -> Iterator[Knob]:
    """One knob that turns all those that are the same."""
    groups: dict[str, list[Knob]] = {}
    for knob in knobs:
        groups.setdefault(knob.alike, []).append(knob)
    for group in groups.values():
        if len(group) > 1:
            first = group[0]
            text = f"{first.text}, and of {len(group) - 1} more like it,"
            yield Knob(first.kind, first.node, text, first.value, _together([knob.turned for knob in group]))


def solved(
    trial: Trial, knob: Knob, made: Array, tried: Callable[[Repair], tuple[PieceError, Array] | None]
) -> Repair | None:
    """The knob turned to where the error is smallest, by Gauss and Newton; ``None`` where turning it is no cure.

    Args:
        trial: the piece.
        knob: what is turned.
        made: what the piece makes as it is, ``[N]``.
        tried: runs a repair.
    """
    value, error = knob.value, trial.expected - made
    for _ in range(STEPS):
        nudge = NUDGE * (abs(value) or 1.0)
        nudged = tried(knob.repair(value + nudge))
        if nudged is None or not np.isfinite(nudged[1]).all():
            return None
        slope = (nudged[1] - (trial.expected - error)) / nudge
        steepness, energy = float(np.dot(slope, slope)), float(np.dot(error, error))
        along = float(np.dot(slope, error))
        if not steepness or along * along < ALIKE * steepness * energy:
            return None
        for half in range(HALVINGS):
            further = value + along / steepness / 2**half
            done = tried(knob.repair(further))
            if done is None or not np.isfinite(done[1]).all():
                return None
            if done[0].ratio <= 1:
                return knob.repair(further)
            left = trial.expected - done[1]
            if float(np.dot(left, left)) < LESS * energy:
                break
        else:
            return None
        value, error = further, left
    return None


def _set(made: str, position: int) -> Callable[[float], Edit]:
    def turned(value: float) -> Edit:
        def edit(proto: Any) -> None:
            find(proto, made).input[position] = float_constant(proto, f"{made}:set_{position}", value)

        return edit

    return turned


def _scaled(made: str) -> Callable[[float], Edit]:
    def turned(value: float) -> Edit:
        def edit(proto: Any) -> None:
            put_behind(proto, made, "Mul", [float_constant(proto, f"{made}:factor", value)])

        return edit

    return turned


def _scaled_operand(made: str, position: int) -> Callable[[float], Edit]:
    def turned(value: float) -> Edit:
        def edit(proto: Any) -> None:
            node = find(proto, made)
            factor = float_constant(proto, f"{made}:factor_{position}", value)
            scaled = put_before(proto, node, "Mul", [node.input[position], factor], f"{made}:scaled_{position}")
            find(proto, made).input[position] = scaled

        return edit

    return turned


def _together(turned: Sequence[Callable[[float], Edit]]) -> Callable[[float], Edit]:
    def all_of(value: float) -> Edit:
        def edit(proto: Any) -> None:
            for one in turned:
                one(value)(proto)

        return edit

    return all_of
