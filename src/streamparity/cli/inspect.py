"""``streamparity inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import check_writable, write_json


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "json_target", metavar="FILE", help="Write the document; - for standard output.")
def command(path: Path, json_target: str | None) -> int:
    """Say what a .nemo, an .onnx, an engine or a dump is, whether it can stream, and what is wrong with it.

    Exits 1 when a finding is an error.
    """
    from ..inspection import inspect

    check_writable(json_target)
    document = inspect(path)
    if json_target is not None:
        write_json(document, json_target)
    if json_target != "-":
        click.echo(f"{path}: {document['kind']}, {'can stream' if document['can_stream'] else 'cannot stream'}")
        for key, value in document["summary"].items():
            click.echo(f"  {key}: {value}")
        for port in document["ports"]:
            dtype, extents = port.get("dtype", ""), port.get("shape", port.get("axes"))
            click.echo(f"  {port['direction']:7}{port['name']} {dtype} {extents}".replace("  [", " ["))
        for finding in document["findings"]:
            click.echo(f"{finding['severity']}: {finding['message']} [{finding['code']}]")
            click.echo(f"  fix: {finding['fix']}")
    return int(any(finding["severity"] == "error" for finding in document["findings"]))
