"""From a run that went by to what is found out about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comparison import TolerancePolicy
from ..dump import DumpReader
from ..errors import Stateless, StreamparityError, first_line
from ..runners import Runner, RunnerOptions, backend
from ..tensors import TensorSpec
from .case import Case
from .diagnosis import diagnose, schedule_alone
from .finding import Finding
from .localization import localization
from .observation import Observation
from .repro import write_repro
from .state import StateWatch, state


@dataclass(frozen=True)
class Seen:
    """A run as it went by; attributes as those of :class:`Case`, ``runner`` being the one that was driven."""

    reference: DumpReader
    specs: Sequence[TensorSpec]
    policy: TolerancePolicy
    comparison: Mapping[str, Any]
    tokens: Mapping[str, Any] | None
    observation: Observation
    watch: StateWatch
    runner: Runner

    def case(self, runner: Runner) -> Case:
        """The case, with ``runner`` on the bench."""
        return Case(self.reference, self.comparison, self.tokens, self.specs, self.policy, self.observation, runner)


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        localization: the result's ``localization``.
        diagnosis: the result's ``diagnosis``.
        state: the result's ``state``.
        objections: reasons against a pass that only the examination could see.
        remarks: what went wrong on the way.
    """

    localization: dict[str, Any] | None = None
    diagnosis: Sequence[dict[str, Any]] = ()
    state: dict[str, Any] | None = None
    objections: Sequence[str] = ()
    remarks: Sequence[str] = ()


def at_a_glance(seen: Seen) -> Examination:
    """What can be said without running anything again."""
    case = seen.case(seen.runner)
    return Examination(diagnosis=schedule_alone(case))


def examine(
    seen: Seen, backend_name: str, model: Path, settings: Mapping[str, str], repro: Path | None = None
) -> Examination:
    """Open the model afresh, run it whole and in pieces on inputs of our choosing, and apply the rules.

    Args:
        seen: the run.
        backend_name: which backend opens the model; not the runner that was driven, which may itself be at fault.
        model: the model under test.
        settings: the backend's options.
        repro: where the piece that makes the error is to be written.
    """
    options = RunnerOptions.of(seen.specs, seen.reference.manifest.streaming, settings)
    runner = backend(backend_name).open(model, options)
    case = seen.case(runner)
    try:
        found, remarks = diagnose(case)
        objections = [f["message"] for f in found if f["code"] == "batch-dependence"]
        place = _unless_it_breaks(lambda: localization(case), "localization", remarks)
        states = _unless_it_breaks(lambda: state(case, seen.watch), "look at the state", remarks)
        if repro is not None:
            nothing = write_repro(case, repro)
            remarks.append(f"{repro}: a reproduction" if nothing is None else f"no reproduction: {nothing}")
        return Examination(place, found, states, objections, remarks)
    finally:
        runner.close()


def _unless_it_breaks(
    look: Callable[[], dict[str, Any] | None], what: str, remarks: list[str]
) -> dict[str, Any] | None:
    """A broken model may break the examination; the verdict on it stands all the same."""
    try:
        return look()
    except StreamparityError:
        raise
    except Exception as error:
        remarks.append(f"the {what} broke: {type(error).__name__} {first_line(error)}")
        return None


def of_a_stateless_model(error: Stateless) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Localization and diagnosis where the model has no caches, so that nothing can be run."""
    place = {
        "chunk": 0,
        "module": "encoder",
        "kind": "introduced",
        "isolated_max_abs": None,
        "accumulated_max_abs": None,
        "inherited_from": None,
        "tensor": "cache_last_channel_next",
        "node": None,
        "nodes": [],
    }
    finding = Finding("stateless-export", 0.99, error.message, error.hint, {"ports": "missing"})
    return place, [finding.to_json()]
