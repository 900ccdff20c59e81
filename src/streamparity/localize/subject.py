"""The model under test on the bench: run as a whole or piece by piece, on inputs of one's choosing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..comparison import TolerancePolicy
from ..errors import StepFailed
from ..runners import Runner
from ..tensors import Array, TensorSpec
from .errors import PieceError, errors
from .inputs import Inputs, Script

Errors = dict[str, PieceError]


class Subject:
    """A runner opened afresh, so that whatever drives the one under test has no part in what is seen here.

    Args:
        runner: an opened runner.
        script: the reference's chunks.
        specs: tensors to look at, in forward order.
        policy: tolerances.
    """

    def __init__(self, runner: Runner, script: Script, specs: Sequence[TensorSpec], policy: TolerancePolicy) -> None:
        self.runner = runner
        self.script = script
        self.specs = [spec for spec in specs if spec.kind in ("tap", "output", "cache", "length")]
        self.policy = policy
        self.taps = [spec for spec in self.specs if spec.kind == "tap" and spec.label not in runner.unmatched]

    def whole(self, inputs: Inputs) -> dict[str, Array] | None:
        """Everything the model makes of one step; ``None`` where it cannot run it."""
        self.runner.set_caches(inputs.caches)
        try:
            return self.runner.step(inputs.step)
        except (StepFailed, ValueError, TypeError):  # an input of another shape than the model takes
            return None

    def pieces(
        self,
        chunk: int,
        inputs: Inputs | None = None,
        forced: Mapping[str, Array] | None = None,
        at: Collection[str] | None = None,
    ) -> dict[str, Array] | None:
        """What every piece makes of the reference's tensors of one chunk.

        Args:
            chunk: the chunk.
            inputs: in place of the reference's.
            forced: by tap label, in place of the reference's taps.
            at: labels of the taps to cut at; every tap by default.

        Returns:
            Tensors as a step returns them, or ``None`` where the model cannot be run in pieces here.
        """
        if not self.runner.isolates:
            return None
        expected = self.script.expected(chunk)
        given = {
            spec.label: expected[spec.name]
            for spec in self.taps
            if spec.name in expected and (at is None or spec.label in at)
        }
        inputs = inputs or self.script.inputs(chunk)
        self.runner.set_caches(inputs.caches)
        try:
            return self.runner.isolated_step(inputs.step, {**given, **(forced or {})})
        except (StepFailed, ValueError, TypeError, KeyError):  # a tap of another shape than the graph's own
            return None

    def errors(self, chunk: int, tensors: Mapping[str, Array] | None, specs: Iterable[TensorSpec] = ()) -> Errors:
        """Errors against the reference's tensors of one chunk; none where there is nothing to compare."""
        if tensors is None:
            return {}
        return errors(specs or self.specs, self.script.expected(chunk), tensors, self.policy)
