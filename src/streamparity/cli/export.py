"""``streamparity export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import note, streaming_options, with_options


@click.command("export")
@click.argument("model", metavar="MODEL.nemo")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the graphs and contract.json.")
@with_options(streaming_options)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def command(model: str, out: Path, force: bool, **streaming: Any) -> None:
    """Export encoder and decoder_joint to ONNX with cache support, checked, with a contract."""
    from ..export import export
    from ..reference.nemo import StreamingOptions, load_model

    contract = export(load_model(model), out, StreamingOptions(**streaming), force=force, note=note)
    for name in contract.graphs:
        click.echo(f"{out / name}: attention context {list(contract.streaming.att_context_size)}")
    click.echo(f"{out / 'contract.json'}: {contract.model.id} {str(contract.model.sha256)[:12]}")
