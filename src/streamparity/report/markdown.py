"""The result as Markdown, for an issue or a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tables import HEADINGS, findings, headline, rows


def markdown(result: Mapping[str, Any]) -> str:
    """A heading with the verdict, the findings, the table."""
    lines = [f"## {headline(result)}", "", *(f"- {line.strip().removeprefix('- ')}" for line in findings(result)), ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(result)]
    return "\n".join(lines) + "\n"
