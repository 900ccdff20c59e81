"""``streamparity demo``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import INT_LIST, progress_bar


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("streamparity-demo"),
    show_default=True,
    help="Folder for everything the demo makes.",
)
@click.option(
    "--att-context",
    type=INT_LIST,
    default="70,1",
    show_default=True,
    metavar="L,R",
    help="70,13 70,6 70,1 or 70,0: look-ahead in encoder frames of 80 ms.",
)
@click.option("--force", is_flag=True, help="Replace what an earlier demo left in --out.")
def command(out: Path, att_context: tuple[int, ...], force: bool) -> int:
    """The whole job on the shipped model and speech: reference, export, two backends, comparison."""
    from ..demo import demo
    from ..report.terminal import render

    outcome = demo(out, att_context, force=force, progress=progress_bar)
    torch, ort = outcome.results["torch"], outcome.results["ort"]
    render(ort)
    click.echo(f"said:      {outcome.said}")
    chunks = torch["chunks"]
    click.echo(f"PyTorch again, same loop: {torch['verdict'].upper()}, {chunks['passed']} of {chunks['total']} chunks")
    click.echo(f"{out / 'reference'}: what NeMo computed, one file per chunk")
    click.echo(f"{out / 'encoder.onnx'}, decoder_joint.onnx, contract.json: the export under test")
    click.echo(f"{out / 'result.json'}: the verdict above, every figure; result-torch.json for PyTorch")
    return 0 if torch["verdict"] == ort["verdict"] == "pass" else 1
