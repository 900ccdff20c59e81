"""Layers chosen by glob, under the module paths that taps have, with the operator at the end.

``/layers.0/self_attn/Softmax`` is ``encoder.layers.0.self_attn.Softmax``. A glob that fits a module takes everything
inside it, so ``encoder.layers.*.self_attn`` and ``*.Softmax`` both do what they seem to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from ..errors import StreamparityError
from ..graph.onnx_graph import module_path


def node_path(node_name: str, root: str) -> str:
    """Where a node lies.

    Args:
        node_name: as the exporter gives it: module path, then operator, with slashes between.
        root: what comes before this graph's module paths in NeMo's: ``encoder.`` or nothing.
    """
    path, operator = module_path(node_name), node_name.rpartition("/")[2]
    return f"{root}{path}.{operator}" if path else f"{root}{operator}"


def inside(path: str, glob: str) -> bool:
    """Whether a path, or a module around it, fits a glob."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:count]), glob) for count in range(1, len(parts) + 1))


def pinning(globs: Sequence[str], node_names: Iterable[str], root: str) -> Callable[[str], bool]:
    """Which nodes the globs choose, by node name.

    Raises:
        StreamparityError: a glob chooses no node.
    """
    paths = {name: node_path(name, root) for name in node_names}
    chosen: set[str] = set()
    for glob in globs:
        fitting = {name for name, path in paths.items() if inside(path, glob)}
        if not fitting:
            example = next((path for path in paths.values() if path.count(".") > 2), "encoder.layers.0.norm_out")
            raise StreamparityError(f"no layer of the graph is called {glob}", f"a name is such as {example}")
        chosen |= fitting
    return chosen.__contains__
