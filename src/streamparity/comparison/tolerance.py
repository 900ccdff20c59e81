"""How far a value may be from its reference."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..dtypes import DTYPE_DEFAULTS, DType, name_of
from ..dump.noise_floor import NoiseFloor
from ..errors import StreamparityError, first_line
from .noise import MARGIN, UNIT_ROUNDOFF, noise_of

Source = Literal["flag", "policy", "noise-floor", "dtype-default", "exact"]

FLOAT32: DType = np.dtype(np.float32)
FIGURES = ("atol", "rtol", "outliers")


@dataclass(frozen=True)
class Tolerance:
    """A value passes when ``|candidate - reference| <= atol + rtol * |reference|``.

    Attributes:
        outliers: fraction of a chunk's values that may be past it; one that is not finite never may.
        source: what decided.
        pattern: the glob of the rule that decided, where it was one.
    """

    atol: float
    rtol: float
    source: Source
    outliers: float = 0.0
    pattern: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the result shows it."""
        return {
            "atol": self.atol,
            "rtol": self.rtol,
            "source": self.source,
            "outliers": self.outliers,
            "pattern": self.pattern,
        }


@dataclass(frozen=True)
class ToleranceRule:
    """Tolerances of the tensors whose name matches a glob; what is ``None`` is left to others.

    Raises:
        StreamparityError: a figure that is negative, not finite, or for ``outliers`` more than 1.
    """

    pattern: str
    atol: float | None = None
    rtol: float | None = None
    outliers: float | None = None
    source: Source = "flag"

    def __post_init__(self) -> None:
        for name in FIGURES:
            _check(f"{name} of {self.pattern!r}", getattr(self, name), 1.0 if name == "outliers" else math.inf)

    @classmethod
    def parse(cls, text: str) -> ToleranceRule:
        """From ``GLOB:atol=1e-4,rtol=1e-3,outliers=0.001``.

        Raises:
            StreamparityError: not of that form.
        """
        pattern, colon, figures = text.rpartition(":")
        try:
            given = [part.split("=") for part in figures.split(",")]
            named = {name.strip(): float(value) for name, value in given}
        except ValueError:
            named = {}
        if not colon or not pattern or len(named) < len(figures.split(",")) or set(named) - set(FIGURES):
            raise StreamparityError(
                f"{text!r} is no tolerance rule", "write GLOB:atol=1e-4,rtol=1e-3 (or outliers=0.001)"
            )
        return cls(pattern, named.get("atol"), named.get("rtol"), named.get("outliers"))

    def to_json(self) -> dict[str, Any]:
        """Inverse of ``ToleranceRule(**json)``."""
        return {"pattern": self.pattern, **{name: getattr(self, name) for name in FIGURES}, "source": self.source}


def read_policy(path: Path) -> list[ToleranceRule]:
    """Rules from a TOML file: an array of tables ``[[tolerance]]`` with ``tensors`` (a glob) and figures.

    Raises:
        StreamparityError: not there, not TOML, or something else in it.
    """
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StreamparityError(
            f"{path} is not readable as TOML: {first_line(error)}", "see --help for its form"
        ) from None
    tables = data.get("tolerance")
    if set(data) != {"tolerance"} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise StreamparityError(
            f"{path} holds {sorted(data) or 'nothing'}", "write tables [[tolerance]] with tensors, atol, rtol, outliers"
        )
    rules = []
    for table in tables:
        figures = {name: value for name, value in table.items() if name != "tensors"}
        bad = set(figures) - set(FIGURES) or [n for n, v in figures.items() if type(v) not in (int, float)]
        if bad or not isinstance(table.get("tensors"), str) or not figures:
            raise StreamparityError(
                f"{path}: a table {table} is no rule", "give it tensors = GLOB and numbers atol, rtol or outliers"
            )
        rules.append(ToleranceRule(table["tensors"], source="policy", **figures))
    return rules


@dataclass(frozen=True)
class TolerancePolicy:
    """Chooses the tolerance of a tensor: what the user gave, else the noise floor, else the coarser dtype's default.

    A rule for the tensor comes before ``atol`` and ``rtol``, these before a policy file, and of several rules that
    match the first is taken.

    Attributes:
        atol: absolute tolerance from the command line; alone it makes ``rtol`` 0.
        rtol: relative tolerance from the command line; alone it makes ``atol`` 0.
        arithmetic: dtype in which the candidate computes, where its arrays do not say (bfloat16 arrives as float32).
        head: dtype in which its predictor and joint, or its CTC head, compute, where that is known.
        rules: by name of tensor.
        floor: what arithmetic alone costs the reference, where it is known.

    Raises:
        StreamparityError: a tolerance that is negative or not finite.
    """

    atol: float | None = None
    rtol: float | None = None
    arithmetic: str | None = None
    rules: Sequence[ToleranceRule] = field(default_factory=tuple)
    floor: NoiseFloor | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            _check(name, value)
            object.__setattr__(self, name, None if value is None else float(value))  # not numpy's, which JSON has not

    @property
    def given(self) -> bool:
        """Whether the user gave any tolerance."""
        return self.atol is not None or self.rtol is not None or bool(self.rules)

    def tolerance(self, name: str, reference: DType, candidate: DType) -> Tolerance:
        """Tolerance for a tensor and a pair of dtypes; integers and booleans must be equal."""
        kinds = name_of(reference), name_of(candidate)
        default = _default(*kinds, self.arithmetic)
        default = default if default.source == "exact" else self._of_the_floor(name, kinds) or default
        if default.source == "exact" or not self.given:
            return default
        matching = [rule for rule in self.rules if fnmatchcase(name, rule.pattern)]
        flags = [ToleranceRule("*", self.atol, self.rtol)]
        order = [r for r in matching if r.source == "flag"] + flags + [r for r in matching if r.source != "flag"]
        outliers = next((rule.outliers for rule in order if rule.outliers is not None), 0.0)
        for rule in order:
            if rule.atol is not None or rule.rtol is not None:
                pattern = None if rule in flags else rule.pattern
                return Tolerance(rule.atol or 0.0, rule.rtol or 0.0, rule.source, outliers, pattern)
        return replace(default, outliers=outliers)

    def of_the_head(self, name: str) -> Tolerance:
        """Tolerance of one score of predictor and joint, or of the CTC head, by their own arithmetic.

        What a coarser encoder costs the scores is left out: the floor of a loop wholly in that arithmetic has it in.
        Where nothing is known of the head it is float32.
        """
        own = self.head if self.head in UNIT_ROUNDOFF else "float32"
        floor = self.floor
        if floor is not None:
            floor = replace(floor, errors={kind: e for kind, e in floor.errors.items() if kind == "float32"})
        return replace(self, arithmetic=own, floor=floor).tolerance(name, FLOAT32, FLOAT32)

    def _of_the_floor(self, name: str, kinds: tuple[str, str]) -> Tolerance | None:
        """A multiple of what the coarsest arithmetic concerned costs this tensor."""
        known = [kind for kind in (*kinds, self.arithmetic) if kind in UNIT_ROUNDOFF]
        if self.floor is None or not known:
            return None
        noise = noise_of(self.floor, name, max(map(str, known), key=UNIT_ROUNDOFF.__getitem__))
        return None if noise is None else Tolerance(MARGIN * noise, 0.0, "noise-floor")

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse a rule of the command line that concerns no tensor.

        Raises:
            StreamparityError: its glob matches none of ``names``.
        """
        known = list(names) if self.rules else []
        for rule in self.rules:
            if rule.source == "flag" and not any(fnmatchcase(name, rule.pattern) for name in known):
                shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise StreamparityError(f"--tol {rule.pattern!r} matches no tensor", f"the tensors are {shown}")


@cache
def _default(reference: str, candidate: str, arithmetic: str | None) -> Tolerance:
    """By the coarsest of the dtypes; nothing at all for what is no float."""
    names = [reference, candidate]
    if any(name not in DTYPE_DEFAULTS for name in names):
        return Tolerance(0.0, 0.0, "exact")
    if arithmetic in DTYPE_DEFAULTS:
        names.append(str(arithmetic))
    rtol, atol = max(DTYPE_DEFAULTS[name] for name in names)
    return Tolerance(atol, rtol, "dtype-default")


def _check(what: str, value: float | None, most: float = math.inf) -> None:
    try:
        judges = value is None or 0 <= float(value) <= min(most, sys.float_info.max)
    except OverflowError:  # a whole number too large for a float
        judges = False
    if not judges:
        limit = "not negative" if most == math.inf else f"from 0 to {most:g}"
        raise StreamparityError(f"{what} is {value}", f"give a number that is finite and {limit}")


def rules_from_json(rules: Iterable[Mapping[str, Any]]) -> tuple[ToleranceRule, ...]:
    """Rules as :meth:`ToleranceRule.to_json` gives them."""
    return tuple(ToleranceRule(**{**rule, "pattern": str(rule["pattern"])}) for rule in rules)
