"""The model's own numbers are not the reference's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import Case
from ..finding import Finding
from ..structure import training_norms


def weights_differ(case: Case) -> Iterator[Finding]:
    """A parameter that is not the reference's: which, and how."""
    found = [w for w in case.weight_differences if not w.rounding and not _cleared(case, w.parameter)]
    if not found or case.divergence is None:
        return
    suspects = {node.name for node in case.suspects}
    introduced = case.introduced or ""

    def concerned(module: str, node: str) -> bool:
        return node in suspects or module.startswith(introduced.split(".linear")[0]) or introduced.startswith(module)

    relevant = [w for w in found if introduced and concerned(w.parameter.rpartition(".")[0], w.node)]
    worst = max(relevant or found, key=lambda weight: weight.relative)
    others = len(found) - 1
    more = f", and {others} more parameters differ" if others else ""
    yield Finding(
        "weights-differ",
        0.97 if relevant else 0.6,
        f"{worst.parameter} is not the reference's: {worst.relation}, {worst.detail}{more}",
        "convert the weights again from the reference's .nemo, and check this tensor's layout",
        {
            "parameter": worst.parameter,
            "node": worst.node,
            "relation": worst.relation,
            "relative_difference": worst.relative,
            "parameters": [weight.parameter for weight in found[:16]],
        },
    )


def _cleared(case: Case, parameter: str) -> bool:
    """Whether the piece that a parameter belongs to is right by itself."""
    errors = {**case.isolated, **case.replayed} if case.pieces is not None else case.replayed
    held = [label for label in errors if parameter.startswith(f"{label}.")]
    piece = max(held, key=len, default=None)
    return piece is not None and errors[piece].ratio <= 1


def unused(case: Case) -> Iterator[Finding]:
    """Biases and gains of the piece that errs whose values are nowhere in the graph."""
    if case.anatomy is None or case.graph is None or case.introduced is None or case.cures or case.wrong_weight:
        return
    held = case.graph.vectors()
    absent = []
    for name, parameter in case.anatomy.parameters.items():
        values = parameter.whole() if len(parameter.shape) == 1 else None
        if values is None or not name.startswith(f"{case.introduced}.") or "norm" in name or ".conv" in name:
            continue  # what an exporter may fold into its neighbour
        if np.any(values) and not any(np.array_equal(values, other) for other in held if other.size == values.size):
            absent.append(name)
    if absent:
        yield Finding(
            "weights-differ",
            0.8,
            f"{absent[0]} is nowhere in the graph" + (f", nor are {len(absent) - 1} more" if absent[1:] else ""),
            "take the biases over as well",
            {"parameters": absent[:16]},
        )


def weights_unknown(case: Case) -> Iterator[Finding]:
    """Where the dump does not say what the weights should be, they remain when nothing else is odd."""
    if case.anatomy is not None or case.introduced is None or case.systemic or case.odd_nodes or case.cures:
        return
    yield Finding(
        "weights-differ",
        0.4,
        f"{case.introduced} is wrong by itself and built like every other: its weights are the likeliest cause",
        "dump again with this version: the dump then holds what it takes to tell which weight",
        {"tensor": case.introduced},
    )


def norm_epsilon(case: Case) -> Iterator[Finding]:
    """A normalisation layer with another epsilon."""
    for odd in case.odd_nodes:
        if odd.what == "epsilon":
            yield Finding(
                "norm-epsilon",
                0.96,
                f"{odd.module} normalises with {odd.text}",
                "use the epsilon of the reference's layer",
                {"node": odd.node, "module": odd.module},
            )
            return


def batch_norm_in_training(case: Case) -> Iterator[Finding]:
    """A batch norm that takes mean and variance from the chunk at hand."""
    if case.graph is None or case.anatomy is None or not case.failing:
        return
    norms = {name for name, norm in case.anatomy.norms.items() if norm.kind.startswith("BatchNorm")}
    for odd in training_norms(case.graph):
        yield _training(odd.module, odd.node, "its node has training_mode set")
        return
    for node in case.suspects:
        if node.op_type in ("ReduceMean", "BatchNormalization", "InstanceNormalization"):
            for norm in sorted(norms):
                layer = norm.removesuffix(".batch_norm")
                if layer in (case.introduced or "") or (case.introduced or "").startswith(layer):
                    yield _training(norm, node.name, f"a {node.op_type} stands where fixed statistics belong")
                    return


def _training(module: str, node: str, why: str) -> Finding:
    return Finding(
        "batchnorm-training-mode",
        0.95,
        f"{module} normalises by the chunk at hand in place of the statistics it learnt: {why}",
        "export in eval mode: model.eval() before export",
        {"module": module, "node": node},
    )
