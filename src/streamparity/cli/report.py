"""``streamparity report``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import StreamparityError
from .common import check_writable, conclude, report_options, with_options


@click.command("report")
@click.argument("result", type=click.Path(path_type=Path), metavar="RESULT.json")
@with_options(report_options)
@click.option("--markdown", "markdown_target", metavar="FILE", help="Write Markdown.")
def command(result: Path, **targets: str | None) -> int:
    """Show a result of `run` or `compare` again, or write it in another form; exits as the run did.

    FILE, to write to, may be - for standard output.
    """
    from ..comparison.result import SCHEMA

    check_writable(*targets.values())
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StreamparityError(f"{result} cannot be read: {error}", "give a file that --json wrote") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StreamparityError(
            f"{result} is not a {SCHEMA} document", "give what `run` or `compare` wrote with --json"
        )
    try:
        return conclude(document, targets)
    except (KeyError, TypeError, IndexError) as error:
        raise StreamparityError(
            f"{result} does not follow {SCHEMA}: {type(error).__name__} {error}", "run the comparison again"
        ) from error
