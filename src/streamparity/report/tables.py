"""The result as rows of text: what every report shows of a tensor, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = ("tensor", "max", "mean", "p99.9", "cosine", "tolerance", "verdict")


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """One row per tensor in forward order, under :data:`HEADINGS`."""
    return [
        [
            tensor["name"],
            _figure(tensor["max_abs"]),
            _figure(tensor["mean_abs"]),
            _figure(tensor["percentiles"].get("p99.9")),
            "-" if tensor["cosine"] is None else f"{tensor['cosine']:.9f}",
            _tolerance(tensor["tolerance"]),
            verdict(tensor),
        ]
        for tensor in sorted(result["tensors"], key=lambda tensor: tensor["order"])
    ]


def verdict(tensor: Mapping[str, Any]) -> str:
    """``pass``, ``vacuous``, or where it failed and why."""
    if tensor["passed"]:
        return "pass"
    if tensor["vacuous"]:
        return "vacuous"
    failed = f"FAIL from chunk {tensor['first_failed_chunk']}"
    return f"{failed}: {tensor['error']}" if tensor["error"] else failed


def findings(result: Mapping[str, Any]) -> list[str]:
    """What there is to say below the table, a line each."""
    coverage, tokens, found = result["coverage"], result["tokens"], result["first_divergence"]
    reasons = coverage["unmatched_reasons"]
    lines = [f"unmatched: {label} ({reasons[label]})" for label in coverage["unmatched"]]
    if coverage["vacuous"]:
        lines.append(f"vacuous, never a pass: {', '.join(coverage['vacuous'])}")
    if tokens is not None:
        lines += [f"reference: {tokens['reference_text']}", f"candidate: {tokens['candidate_text']}"]
        lines.append("tokens equal" if tokens["equal"] else _difference(tokens["first_difference"]))
    if found is not None:
        why = found.get("error") or f"max abs {_figure(found['max_abs'])}"
        lines.append(f"first divergence: chunk {found['chunk']}, {found['tensor']}: {why}")
    if result["localization"] is not None:
        lines.append(_place(result["localization"]))
    lines += [f"likely cause: {finding['message']} [{finding['code']}]" for finding in result["diagnosis"]]
    return [*lines, *(f"  - {objection}" for objection in result["objections"])]


def headline(result: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    chunks, backend = result["chunks"], result["backend"]
    where = f"{result['mode']} on {backend}" if backend else result["mode"]
    compared = f"{result['coverage']['compared']} tensors compared"
    passed = f"{chunks['passed']} of {chunks['total']} chunks passed"
    return f"{result['verdict'].upper()}: {passed}, {compared}, {where}"


def _place(found: Mapping[str, Any]) -> str:
    """Where the error is made, by itself and accumulated."""
    figures = f"{_figure(found['isolated_max_abs'])} by itself, {_figure(found['accumulated_max_abs'])} in the run"
    if found["kind"] == "introduced":
        node = f" (node {found['node']})" if found["node"] else ""
        return f"introduced in {found['module']}{node} at chunk {found['chunk']}: max abs {figures}"
    source = f" from {found['inherited_from']}" if found["inherited_from"] else ""
    return f"inherited by {found['module']}{source} at chunk {found['chunk']}: max abs {figures}"


def _difference(difference: Mapping[str, Any]) -> str:
    sides = f"reference {difference['reference']}, candidate {difference['candidate']}"
    return f"tokens differ from position {difference['position']}: {sides}"


def _tolerance(tolerance: Mapping[str, Any]) -> str:
    return "equal" if tolerance["source"] == "exact" else f"{tolerance['atol']:g}+{tolerance['rtol']:g}|r|"


def _figure(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"
