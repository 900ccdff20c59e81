"""For tests: ``assert_parity`` fails with what ``streamparity compare`` would have printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .comparison import compare
from .report.detail import detail, subject
from .report.tables import findings, headline

WORST = 3


def assert_parity(reference: Any, candidate: Any, **options: Any) -> None:
    """Fail unless a candidate agrees with its reference.

    Args:
        reference: what is right: an array or tensor, a mapping of them by name, a file or a dump.
        candidate: what is tested, in the same form.
        **options: those of :func:`streamparity.compare`: ``atol``, ``rtol``, ``rules``, ``overlap``, ``shape``...

    Raises:
        AssertionError: they differ, or the comparison could not have failed; says how many elements are past
            tolerance, where the worst are and how far off, and how the errors are distributed.
        StreamparityError: what was given cannot be compared.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    options.setdefault("worst", WORST)
    result = compare(reference, candidate, **options)
    if result["verdict"] != "pass":
        raise AssertionError("\n".join(_message(result)))


def _message(result: Mapping[str, Any]) -> list[str]:
    tensors = [tensor for tensor in result["tensors"] if not tensor["passed"] and not tensor["error"]]
    looked_at = subject(result)
    return [
        headline(result),
        *(line for tensor in tensors for line in _figures(tensor)),
        *([] if looked_at is None else detail(looked_at)),
        *findings(result),
    ]


def _figures(tensor: Mapping[str, Any]) -> list[str]:
    """As ``torch.testing.assert_close`` puts it, and what else is known."""
    tolerance, worst = tensor["tolerance"], tensor["worst"]
    if not tensor["violations"] or worst is None:
        return []
    lines = [
        f"{tensor['name']}: mismatched elements: {tensor['violations']} / {tensor['elements']} "
        f"({tensor['violations'] / tensor['elements']:.1%})",
        f"  greatest absolute difference: {_number(tensor['max_abs'])} at chunk {worst['chunk']}, index "
        f"{tuple(worst['index'])}: reference {_number(worst['reference'])}, candidate {_number(worst['candidate'])}",
        f"  greatest relative difference: {_number(tensor['max_rel'])}",
        f"  allowed: {tolerance['atol']:g} + {tolerance['rtol']:g} * |reference| ({tolerance['source']})",
    ]
    known = {name: tensor[name] for name in ("rmse", "cosine", "snr_db", "max_ulp") if tensor[name] is not None}
    known |= {name: value for name, value in tensor["percentiles"].items() if value is not None}
    return [*lines, "  " + ", ".join(f"{name} {value:.6g}" for name, value in known.items())]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.9g}"
