"""Which layers must stay in float32 for a model in reduced precision to pass: delta debugging over its taps.

The verdict decides, whatever gives it: pins go in, pass or fail comes out. What is found is minimal in the sense that
no layer can be left out of it; another set, as small or smaller, may do as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import StreamparityError
from .progress import Progress, no_progress

Verdict = Callable[[Sequence[str]], bool]
COARSE = re.compile(r"[^.]+\.layers\.\d+|[^.]+\.[^.]+")


@dataclass(frozen=True)
class Group:
    """Layers that are pinned together.

    Attributes:
        tap: the tap they belong to.
        globs: what chooses them, and nothing of another group.
    """

    tap: str
    globs: tuple[str, ...]


@dataclass(frozen=True)
class Needed:
    """What must stay in float32.

    Attributes:
        taps: the taps, in the order of the graph.
        pins: globs for ``build --fp32``.
        tried: how many models were judged.
    """

    taps: tuple[str, ...]
    pins: tuple[str, ...]
    tried: int

    def to_json(self) -> dict[str, Any]:
        """As in the result."""
        return {"taps": list(self.taps), "pins": list(self.pins), "tried": self.tried}


def groups_of(paths: Iterable[str], taps: Iterable[str]) -> list[Group]:
    """Divide layers among taps: each belongs to the innermost tap around it.

    Args:
        paths: of every layer, operator at the end: ``encoder.layers.0.conv.pointwise_conv1.Conv``.
        taps: labels.
    """
    known = sorted(set(taps), key=len, reverse=True)
    globs: dict[str, dict[str, None]] = {}
    for path in paths:
        tap = next((label for label in known if path.startswith(f"{label}.")), path.split(".")[0])
        inner = any(label.startswith(f"{tap}.") for label in known)
        globs.setdefault(tap, {})[_glob(path, tap) if inner or tap not in known else tap] = None
    return [Group(tap, tuple(chosen)) for tap, chosen in globs.items()]


def _glob(path: str, tap: str) -> str:
    """What chooses a layer of a tap that has others inside: its module, or the tap's own operators."""
    first, *rest = path.removeprefix(f"{tap}.").split(".")
    return f"{tap}.{first}" if rest else f"{tap}.[A-Z]*"


def find_needed(groups: Sequence[Group], passes: Verdict, progress: Progress = no_progress) -> Needed:
    """Search for a smallest set of groups with which the verdict is a pass: whole layers first, then what is in them.

    Args:
        groups: from :func:`groups_of`.
        passes: the verdict on the model with these globs pinned.
        progress: called with models judged and, as nobody knows how many it will take, the same again.

    Raises:
        StreamparityError: it fails even with everything in float32.
    """
    judged: dict[frozenset[str], bool] = {}

    def holds(chosen: Sequence[Group]) -> bool:
        key = frozenset(group.tap for group in chosen)
        if key not in judged:
            judged[key] = passes([glob for group in chosen for glob in group.globs])
            progress(len(judged), len(judged))
        return judged[key]

    if holds([]):
        return Needed((), (), len(judged))
    if not holds(groups):
        raise StreamparityError(
            "the model fails even with every layer in float32: precision is not what is wrong with it",
            "build it with --precision fp32, run that, and look for the cause with --localize",
        )
    coarse: dict[str, list[Group]] = {}
    for group in groups:
        match = COARSE.match(group.tap)
        coarse.setdefault(match[0] if match else group.tap, []).append(group)

    def flat(names: Sequence[str]) -> list[Group]:
        return [group for name in names for group in coarse[name]]

    layers = minimal(list(coarse), lambda names: holds(flat(names)))
    needed = minimal(flat(layers), holds)
    return Needed(
        tuple(group.tap for group in needed), tuple(glob for group in needed for glob in group.globs), len(judged)
    )


def minimal(items: Sequence[Any], holds: Callable[[Sequence[Any]], bool]) -> list[Any]:
    """Zeller's ddmin: a subset that still holds and from which no single item can be left out.

    Args:
        items: a set that holds.
        holds: whether a subset does.
    """
    kept, parts = list(items), 2
    while len(kept) >= 2:
        size = -(-len(kept) // parts)
        pieces = [kept[start : start + size] for start in range(0, len(kept), size)]
        rests = [[item for item in kept if item not in piece] for piece in pieces]
        smaller = next((piece for piece in pieces if len(piece) < len(kept) and holds(piece)), None)
        if smaller is not None:
            kept, parts = smaller, 2
            continue
        rest = next((rest for rest in rests if rest and holds(rest)), None) if len(pieces) > 2 else None
        if rest is not None:
            kept, parts = rest, max(parts - 1, 2)
        elif parts < len(kept):
            parts = min(len(kept), parts * 2)
        else:
            break
    return kept


def with_needed(result: Mapping[str, Any], needed: Needed) -> dict[str, Any]:
    """A result that says which layers must stay in float32."""
    if not needed.pins:
        line = "the model passes with no layer pinned"
    else:
        line = f"it passes with {', '.join(needed.taps)} in float32: build --fp32 '{','.join(needed.pins)}'"
    return {**result, "fp32_layers": needed.to_json(), "notes": [*result["notes"], line]}
