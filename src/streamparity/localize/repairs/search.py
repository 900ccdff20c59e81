"""The search for what mends a piece."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from ...dump.anatomy import Anatomy
from ...tensors import Array
from ..errors import PieceError
from ..trial import Trial
from .addends import missing, residuals
from .nodes import extra, order
from .norms import epsilon, epsilons, norms
from .operators import operators
from .positions import places
from .precision import widened
from .repair import Repair, together
from .scales import Knob, alike, constant_knobs, factor_knobs, solved
from .vectors import vectors

# What is left of the error must be this much smaller, and within tolerance besides.
CURED = 0.1
# Over all edits, nodes run and bytes of weights copied: of a piece of many or large ones only so many edits are tried.
MOST_WORK = 400_000
MOST_BYTES = 8 * 2**30
MOST_NODES = 1200  # of a piece: a whole model is too large for one change to be found in it
MOST_CURES = 8
MASKS = (-1e4, 0.0, 1.0, -3e38)
LARGEST_EPSILON = 0.1


@dataclass(frozen=True)
class Cure:
    """What mends a piece.

    Attributes:
        kind: a :class:`Repair`'s.
        node: the node that is wrong (``onnx.NodeProto``), ``None`` where no node is.
        text: follows "is right once".
        before: the error as it is.
        after: the error that is left.
        parameter: the reference's parameter that mends it.
    """

    kind: str
    node: Any
    text: str
    before: float
    after: float
    parameter: str | None = None


def cures(trial: Trial, suspects: Collection[str], anatomy: Anatomy | None, scopes: tuple[str, ...]) -> list[Cure]:
    """Edits that mend a piece: all of the first kind of which there is one.

    Args:
        trial: the piece.
        suspects: tensors made by the nodes that can have made the error.
        anatomy: the reference's.
        scopes: beginnings of the module paths in which parameters that might belong there are looked for.
    """
    if len(trial.proto.graph.node) > MOST_NODES:
        return []
    search = _Search(trial, suspects, anatomy, scopes)
    for kind in (
        search.extra,
        search.structure,
        search.weights,
        search.missing,
        search.numbers,
        search.another_norm,
        search.several,
    ):
        found = list(islice(kind(), MOST_CURES))
        if found:
            return found
    return []


class _Search:
    def __init__(
        self, trial: Trial, suspects: Collection[str], anatomy: Anatomy | None, scopes: tuple[str, ...]
    ) -> None:
        self._trial, self._anatomy, self._scopes = trial, anatomy, scopes
        self._proto, self._floats = trial.proto, trial.floats
        self._nodes = [node for node in trial.proto.graph.node if set(node.output) & set(suspects)]
        self._left = min(MOST_WORK // len(trial.proto.graph.node), MOST_BYTES // trial.proto.ByteSize())

    def extra(self) -> Iterator[Cure]:
        """One node too many."""
        return self._all(self._extra())

    def structure(self) -> Iterator[Cure]:
        """One node that is another, or takes other things."""
        return self._all(self._structure())

    def several(self) -> Iterator[Cure]:
        """The same in several nodes."""
        yield from self._all(together(self._extra()))
        yield from self._all(together(self._structure()))
        same = list(alike(constant_knobs(self._proto, self._nodes, self._floats)))
        yield from self._all(repair for knob in same for repair in self._usual(knob))
        yield from self._turned(same)

    def weights(self) -> Iterator[Cure]:
        """A parameter under a name that tells nothing."""
        return self._all(vectors(self._proto, self._nodes, self._known))

    def missing(self) -> Iterator[Cure]:
        """Something that is not added."""
        if self._made is not None:
            for text in missing(self._trial, self._inner, self._made):
                yield Cure("addend", None, text, self._trial.before.max_abs, 0.0)
        fed = [port.name for port in self._proto.graph.input if port.name in self._floats & set(self._inner)]
        yield from self._all(residuals(self._nodes, self._inner, fed))

    def numbers(self) -> Iterator[Cure]:
        """A number that is another."""
        held = list(constant_knobs(self._proto, self._nodes, self._floats))
        yield from self._all(repair for knob in held for repair in self._usual(knob))
        yield from self._turned([*held, *factor_knobs(self._nodes, self._floats)])

    def another_norm(self) -> Iterator[Cure]:
        """A norm that is another, or none."""
        return self._all(norms(self._proto, self._nodes, self._inner, self._anatomy, self._scopes))

    def _extra(self) -> Iterator[Repair]:
        yield from extra(self._nodes, self._floats)
        yield from widened(self._nodes)

    def _structure(self) -> Iterator[Repair]:
        computing = [node for node in self._nodes if not set(node.output) <= self._trial.integers]
        yield from order(computing)
        yield from places(self._proto, computing, self._inner)
        yield from operators(self._proto, self._nodes, self._floats)
        yield from epsilon(self._nodes, self._anatomy)

    def _usual(self, knob: Knob) -> Iterator[Repair]:
        """A constant as masks and norms have it: turning it by little shows nothing."""
        yield from (knob.repair(value) for value in MASKS if value != knob.value)
        if 0 < knob.value < LARGEST_EPSILON:
            yield from (knob.repair(value) for value in epsilons(self._anatomy))

    def _turned(self, knobs: Iterable[Knob]) -> Iterator[Cure]:
        for knob in knobs:
            repair = None if self._made is None else solved(self._trial, knob, self._made, self._run)
            if repair is not None:
                yield from self._all([repair])

    @cached_property
    def _inner(self) -> dict[str, Array]:
        return self._trial.inner()

    @cached_property
    def _made(self) -> Array | None:
        done = self._trial.run(self._proto)
        return None if done is None or not np.isfinite(done[1]).all() else done[1]

    @property
    def _known(self) -> Mapping[str, Array]:
        """The reference's small parameters in and around the module that fails."""
        parameters = {} if self._anatomy is None else self._anatomy.parameters
        near = {
            name: p.whole() for name, p in parameters.items() if name.startswith(self._scopes) and len(p.shape) <= 2
        }
        return {name: values for name, values in near.items() if values is not None}

    def _all(self, repairs: Iterable[Repair]) -> Iterator[Cure]:
        before = self._trial.before.max_abs
        for repair in repairs:
            done = self._run(repair)
            if done is not None and done[0].ratio <= 1 and done[0].max_abs <= CURED * before:
                yield Cure(repair.kind, repair.node, repair.text, before, done[0].max_abs, repair.parameter)

    def _run(self, repair: Repair) -> tuple[PieceError, Array] | None:
        import onnx

        if self._left <= 0:
            return None
        self._left -= 1
        edited = onnx.ModelProto()
        edited.CopyFrom(self._proto)
        try:
            repair.edit(edited)
        except (StopIteration, ValueError):  # one of several edits took away what another looks for
            return None
        return self._trial.run(edited)
