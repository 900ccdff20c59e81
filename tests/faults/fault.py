"""A fault: how it is planted, and where and why it should be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamparity.runners.ort import OrtRunner

from .bench import Bench


@dataclass(frozen=True)
class Planted:
    """What to run.

    Attributes:
        model: the model under test.
        runner: what drives it.
        reference: name of the bench's dump.
        backend: which backend a localizer opens the model with.
        settings: its options.
        allow_unmatched: taps that the model may lack.
        limit: stop after so many chunks.
        mode: how caches are fed.
    """

    model: Path
    runner: type = OrtRunner
    reference: str = "speech"
    backend: str = "ort"
    settings: Mapping[str, str] = field(default_factory=dict)
    allow_unmatched: tuple[str, ...] = ()
    limit: int | None = None
    mode: str = "closed-loop"


@dataclass(frozen=True)
class Harmless:
    """A change that is no fault."""

    name: str
    plant: Callable[[Bench], Planted]
    only: str | None = None


Names = str | tuple[str, ...]


def several(names: Names) -> tuple[str, ...]:
    """One name, or all of several; none where the one is empty."""
    if isinstance(names, str):
        return (names,) if names else ()
    return names


@dataclass(frozen=True)
class Fault:
    """One way to break a port.

    Attributes:
        name: in tables.
        plant: breaks a bench at a strength; where ``strengths`` is ``None`` the strength is not looked at.
        codes: the diagnosis expected first, or each that is as right; none where docs/diagnosis.md has none that
            would be.
        modules: the module expected, or each that is as right; what lies inside is right too. ``{mid}`` and ``{last}``
            are layers. None where a fault has no place.
        chunk: the first chunk that is wrong; a function of the bench where it depends on the model.
        strengths: the strongest and the weakest setting tried in search of the weakest that still flips a label.
        only: the bench that it can be planted in, ``None`` for every.
        any_chunk: the chunk says nothing, as for what only a batch shows.
    """

    name: str
    plant: Callable[[Bench, float], Planted]
    codes: tuple[str, ...]
    modules: tuple[str, ...]
    chunk: int | Callable[[Bench], int] = 0
    strengths: tuple[float, float] | None = None
    only: str | None = None
    any_chunk: bool = False

    def expected_modules(self, bench: Bench) -> tuple[str, ...]:
        return tuple(name.format(mid=bench.layers // 2, last=bench.layers - 1) for name in self.modules)

    def expected_chunk(self, bench: Bench) -> int:
        return self.chunk if isinstance(self.chunk, int) else self.chunk(bench)
