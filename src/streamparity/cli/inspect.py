"""``streamparity inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..schedule import SCHEDULES
from .common import INT_LIST, check_writable, write_json

BACKENDS = ("ort", "trt")


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--att-context",
    type=INT_LIST,
    metavar="L,R",
    help="Attention context that should be baked in; default: the contract's, where there is one.",
)
@click.option("--schedule", type=click.Choice(SCHEDULES), help="Schedule that the graph must run; default: padded.")
@click.option("--backend", type=click.Choice(BACKENDS), help="Backend that must be able to run the graph.")
@click.option("--json", "json_target", metavar="FILE", help="Write the document; - for standard output.")
def command(path: Path, json_target: str | None, **options: Any) -> int:
    """Say what a .nemo, an .onnx, an engine or a dump is, whether it can stream, and what is wrong with it.

    Exits 1 when a finding is an error.
    """
    from ..inspection import InspectOptions, inspect

    if options["att_context"] is not None and len(options["att_context"]) not in (2, 3):
        raise click.BadParameter("an attention context is L,R (or L,CHUNK,R)", param_hint="--att-context")
    check_writable(json_target)
    document = inspect(path, InspectOptions(**options))
    if json_target is not None:
        write_json(document, json_target)
    if json_target != "-":
        click.echo(f"{path}: {document['kind']}, {'can stream' if document['can_stream'] else 'cannot stream'}")
        for key, value in document["summary"].items():
            _print_entry(key, value)
        for port in document["ports"]:
            dtype, extents = port.get("dtype", ""), port.get("shape", port.get("axes"))
            click.echo(f"  {port['direction']:7}{port['name']} {dtype} {extents}".replace("  [", " ["))
        for finding in document["findings"]:
            click.echo(f"{finding['severity']}: {finding['message']} [{finding['code']}]")
            click.echo(f"  fix: {finding['fix']}")
    return int(any(finding["severity"] == "error" for finding in document["findings"]))


def _print_entry(key: str, value: Any) -> None:
    """One line, or one below the other for a mapping or several."""
    rows: list[str] = []
    if isinstance(value, dict):
        rows = [f"{name} {part}" for name, part in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [", ".join(f"{name} {part}" for name, part in item.items()) for item in value]
    click.echo(f"  {key}:" if rows else f"  {key}: {value}")
    for row in rows:
        click.echo(f"    {row}")
