"""Backends by name, found through the entry-point group ``streamparity.backends``."""

from __future__ import annotations

from importlib.metadata import entry_points

from ..errors import BackendMissing
from .base import Runner

GROUP = "streamparity.backends"


def backend_names() -> list[str]:
    """Names of every backend installed, streamparity's own and third parties'."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def backend(name: str) -> type[Runner]:
    """The runner class called ``name``.

    Raises:
        BackendMissing: there is none, or what it needs cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                runner = entry.load()
            except ImportError as error:
                raise BackendMissing(
                    f"backend {name} cannot be imported: {error}",
                    f"install what it needs, or use one of {backend_names()}",
                ) from None
            if not (isinstance(runner, type) and issubclass(runner, Runner)):
                raise BackendMissing(f"backend {name} is no Runner: {runner!r}", "subclass streamparity.runners.Runner")
            return runner
    raise BackendMissing(f"there is no backend {name!r}", f"installed backends: {', '.join(backend_names())}")
