"""Two verdicts where getting at inner tensors can change what is computed: with the taps, and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def both_verdicts(marked: Mapping[str, Any], bare: Mapping[str, Any], how: str) -> dict[str, Any]:
    """The result of a run with taps, with what the same model does without them.

    Args:
        marked: the result with taps.
        bare: the result of the same run without any.
        how: how the taps were got.

    Returns:
        ``marked`` with the key ``marks``. The verdict is a pass only where both are.
    """
    verdicts = {"with": marked["verdict"], "without": bare["verdict"]}
    divergence = bare["first_divergence"]
    objections, notes = list(marked["objections"]), list(marked["notes"])
    notes.append(f"{how}: with them {verdicts['with']}, without them {verdicts['without']}")
    if verdicts["without"] != "pass":
        where = "" if divergence is None else f", first at chunk {divergence['chunk']}, {divergence['tensor']}"
        objections.append(f"without taps the model fails{where}")
    return {
        **marked,
        "verdict": "fail" if objections else "pass",
        "objections": objections,
        "notes": notes,
        "marks": {**verdicts, "how": how, "first_divergence_without": divergence, "timing_without": bare["timing"]},
    }
