"""A trace's result on a terminal: the first difference at close range, what caused it, the transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from .terminal import PIPE_WIDTH

HEADS = {
    "label": "decided by the label head",
    "duration": "decided by the duration head",
    "advance": "the loop went to another frame",
    "collapse": "emitted on one side only",
    "end": "one side makes a decision more",
}


def render(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a result document of ``streamparity trace``.

    Args:
        result: the document.
        console: where to; standard output when not given.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    for line in lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    style = "bold green" if result["verdict"] == "pass" else "bold red"
    console.print(headline(result), style=style, highlight=False, markup=False, soft_wrap=True)


def headline(result: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    steps, difference = result["steps"], result["first_difference"]
    total = f"the first {steps['equal']} of {steps['reference']} {steps['compared']} are the same"
    if difference is None:
        total = f"all {steps['equal']} {steps['compared']} are the same"
    elif difference["kind"] == "near-tie":
        total += ", then a near tie"
    backend = f", {result['decoder']['kind']} on {result['backend']}" if result["backend"] else ""
    return f"{result['verdict'].upper()}: {total}{backend}"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Everything above the verdict."""
    difference = result["first_difference"]
    if difference is not None:
        yield from _difference(difference)
    yield from _swap(result["swap"], difference is not None)
    for finding in result["diagnosis"]:
        yield f"likely cause: {finding['message']} [{finding['code']}]"
        yield f"  fix: {finding['fix']}"
    yield from _forced(result["forced"])
    yield from _robustness(result["robustness"])
    if result["durations"] is not None:
        yield from _histogram(result["durations"])
    yield from _transcripts(result["transcripts"])
    yield from (f"not done: {line}" for line in result["skipped"])
    yield from (f"  - {line}" for line in result["objections"])


def _difference(found: Mapping[str, Any]) -> Iterator[str]:
    where = f"chunk {found['chunk']}, frame {found['frame']} (encoder frame {found['encoder_frame']})"
    yield f"first difference: decision {found['index']}, {where}: {HEADS[found['head']]}"
    for side in ("reference", "candidate"):
        step = found[side]
        if step is None:
            yield f"  {side}  nothing"
            continue
        moved = "" if step["duration"] is None else f", duration {step['duration']}"
        place = "" if side == "reference" else _elsewhere(found)
        yield f"  {side}  {step['label']} {step['piece']}{moved}{place}"
        for choices, name in ((step["top"], "label"), (step["durations"], "duration")):
            if choices:
                shown = "   ".join(_choice(choice, name) for choice in choices)
                yield f"    best {name}s: {shown}   margin {_figure(_margin(choices))}"
    yield f"  {found['kind']}: {found['reason']}"


def _elsewhere(found: Mapping[str, Any]) -> str:
    step = found["candidate"]
    here = (step["chunk"], step["frame"]) == (found["chunk"], found["frame"])
    return "" if here else f" at chunk {step['chunk']}, frame {step['frame']}"


def _choice(choice: Mapping[str, Any], name: str) -> str:
    spelt = f" {choice['piece']}" if name == "label" else ""
    score = choice["logit"] if choice["log_prob"] is None else choice["log_prob"]
    return f"{choice[name]}{spelt} ({'-' if score is None else f'{score:.4f}'})"


def _margin(choices: Sequence[Mapping[str, Any]]) -> float | None:
    logits = [choice["logit"] for choice in choices]
    return None if len(logits) < 2 or None in logits else logits[0] - logits[1]


def _swap(swap: Mapping[str, Any], differs: bool) -> Iterator[str]:
    rows = [row for row in swap["rows"] if row["ran"]]
    if not differs or len(rows) < 2:
        return
    parts = [key for key in rows[0] if key not in ("ran", "first_flip", "text")]
    yield "parts of both sides, decoded by the rules:"
    yield "  " + "  ".join(f"{part:<15}" for part in parts) + "  first flip"
    for row in rows:
        flip = row["first_flip"]
        where = "none" if flip is None else f"decision {flip['index']}, chunk {flip['chunk']}, frame {flip['frame']}"
        yield "  " + "  ".join(f"{row[part]:<15}" for part in parts) + f"  {where}"
    yield f"first flip caused by: {', '.join(swap['cause']) or 'not clear'}"


def _forced(forced: Mapping[str, Any] | None) -> Iterator[str]:
    if forced is not None and (forced["flips"] or forced["near_ties"]):
        counts = f"{forced['near_ties']} near ties, {forced['flips']} flips"
        yield f"along the reference's {forced['decisions']} decisions, each from its own history: {counts}"


def _robustness(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    at = found["at"]
    narrowest = f"narrowest margin {_figure(found['smallest_margin'])} (chunk {at['chunk']}, frame {at['frame']})"
    if found["survives_max_abs"] is None:
        yield narrowest
        return
    floors = "" if found["floors"] is None else f", {found['floors']:.2g} times what float32 costs it"
    yield f"{narrowest}; to turn one of the {found['examined']} narrowest decisions takes an encoder error of"
    yield f"  {_figure(found['survives_max_abs'])} in every value, each in its worst direction{floors};"
    yield f"  {_figure(found['survives_rmse'])} (RMS) at random"


def _histogram(durations: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    known = sorted({*durations["reference"], *durations["candidate"]}, key=int)
    counts = "  ".join(f"{d}: {durations['reference'].get(d, 0)}/{durations['candidate'].get(d, 0)}" for d in known)
    yield f"durations, reference/candidate: {counts or 'none'}"


def _transcripts(found: Mapping[str, Any]) -> Iterator[str]:
    for name in ("reference", "candidate", "offline"):
        if found[f"{name}_text"] is not None:
            yield f"{name}: {found[f'{name}_text']}"
    for name, rates in (found["error_rates"] or {}).items():
        yield f"{name.replace('_', ' ')}: WER {rates['wer']:.2%}, CER {rates['cer']:.2%} of {rates['words']} words"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
