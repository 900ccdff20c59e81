"""What a run wrote into its saved dump so that ``compare`` can judge it as the run did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..dump import Manifest
from ..errors import StreamparityError
from ..tensors import TensorSpec
from .tolerance import TolerancePolicy, rules_from_json


@dataclass(frozen=True)
class CandidateFacts:
    """The part of a candidate's ``dump.json`` that only a saved run has; empty for any other dump.

    Attributes:
        scope: names of the tensors that were compared, ``None`` for all. Ports are always compared.
        unmatched: taps that the model lacked, with the reason.
        requested_chunks: how many chunks the run was to compare, ``None`` for all.
        allow_unmatched: globs over taps that the model may lack.
        policy: tolerances by which the run judged; ``compare`` goes by them unless told otherwise.
        failed_step: chunk, message and module of a step that the model could not run.
    """

    scope: tuple[str, ...] | None = None
    unmatched: Mapping[str, str] = field(default_factory=dict)
    requested_chunks: int | None = None
    allow_unmatched: tuple[str, ...] = ()
    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    failed_step: tuple[int, str, str | None] | None = None

    def in_scope(self, spec: TensorSpec) -> bool:
        """Whether the run compared (or was fed) this tensor."""
        return self.scope is None or spec.kind == "input" or spec.is_port or spec.name in self.scope

    def to_json(self) -> dict[str, Any]:
        """Keys of ``dump.json``."""
        facts: dict[str, Any] = {
            "scope": None if self.scope is None else list(self.scope),
            "unmatched": dict(self.unmatched),
            "requested_chunks": self.requested_chunks,
            "allow_unmatched": list(self.allow_unmatched),
            "atol": self.policy.atol,
            "rtol": self.policy.rtol,
            "arithmetic": self.policy.arithmetic,
            "head_arithmetic": self.policy.head,
            "tolerance_rules": [rule.to_json() for rule in self.policy.rules],
        }
        if self.failed_step is not None:
            facts["failed_step"] = dict(zip(("chunk", "message", "module"), self.failed_step, strict=True))
        return facts

    @classmethod
    def of(cls, manifest: Manifest) -> CandidateFacts:
        """Read them back.

        Raises:
            StreamparityError: they are there and malformed.
        """
        extra = manifest.extra
        try:
            scope, requested, failed = extra.get("scope"), extra.get("requested_chunks"), extra.get("failed_step")
            return cls(
                scope=None if scope is None else tuple(str(name) for name in scope),
                unmatched={str(name): str(reason) for name, reason in extra.get("unmatched", {}).items()},
                requested_chunks=None if requested is None else int(requested),
                allow_unmatched=tuple(str(glob) for glob in extra.get("allow_unmatched", ())),
                policy=TolerancePolicy(
                    _tolerance(extra.get("atol")),
                    _tolerance(extra.get("rtol")),
                    None if extra.get("arithmetic") is None else str(extra["arithmetic"]),
                    rules_from_json(extra.get("tolerance_rules", ())),
                    head=None if extra.get("head_arithmetic") is None else str(extra["head_arithmetic"]),
                ),
                failed_step=None
                if failed is None
                else (int(failed["chunk"]), str(failed["message"]), failed["module"]),
            )
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise StreamparityError(
                f"the candidate's dump.json says something malformed about its run: {type(error).__name__} {error}",
                "save the run again with --save",
            ) from None


def _tolerance(value: Any) -> float | None:
    return None if value is None else float(value)
