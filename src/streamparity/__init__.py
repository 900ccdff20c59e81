"""streamparity: is a port of a NeMo cache-aware streaming speech model right, and if not, where did it go wrong?

Importing the package is cheap: nothing heavy is loaded until a function needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import compare

__version__ = "0.1.0"
__all__ = ["__version__", "compare"]


def __getattr__(name: str) -> object:
    if name == "compare":
        from .comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
