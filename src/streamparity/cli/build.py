"""``streamparity build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import INT_LIST, note, progress_bar


@click.command("build")
@click.argument("onnx", type=click.Path(path_type=Path), metavar="ENCODER.onnx")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The engine; X.engine.json goes beside it.")
@click.option(
    "--contract", type=click.Path(path_type=Path), help="Default: contract.json beside the graph.", show_default=False
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="TF32 is off unless it is asked for.",
)
@click.option(
    "--fp32",
    multiple=True,
    metavar="GLOB[,GLOB]",
    help="Layers that stay in float32, such as '*.Softmax,*norm*' or encoder.layers.0.self_attn.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="DUMP",
    help="For int8: a reference dump to take ranges from.",
)
@click.option(
    "--schedule",
    type=click.Choice(["padded", "native"]),
    default="padded",
    show_default=True,
    help="padded needs one chunk length, native two.",
)
@click.option(
    "--tail/--no-tail",
    default=True,
    show_default=True,
    help="A profile for a shorter last chunk, as NeMo makes it; whoever pads that chunk can do without.",
)
@click.option(
    "--batch", type=INT_LIST, default="1", show_default=True, metavar="N or MIN,OPT,MAX", help="Streams at once."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="smNN",
    help="Build ahead of time for it (TensorRT-RTX); current: for the GPU at hand.",
)
@click.option("--taps", multiple=True, metavar="GLOB", help="Also build X.taps.engine, with these taps as outputs.")
@click.option("--unfused", is_flag=True, help="Let the tensors that survive fusion be looked at, where the API can.")
@click.option("--runtime", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="Default: the one that is installed.")
@click.option("--timing-cache", type=click.Path(path_type=Path), metavar="FILE", help="Read and extended (TensorRT).")
@click.option("--force", is_flag=True, help="Replace an earlier engine.")
def command(onnx: Path, batch: tuple[int, ...], fp32: tuple[str, ...], **given: Any) -> None:
    """Build a TensorRT or TensorRT-RTX engine, its profiles made from the contract's chunk schedule."""
    from ..tensorrt.builder import build
    from ..tensorrt.options import BuildOptions

    if len(batch) not in (1, 3):
        raise click.BadParameter(f"{batch} is neither N nor MIN,OPT,MAX", param_hint="--batch")
    least, likeliest, most = batch if len(batch) == 3 else (batch[0], batch[0], batch[0])
    globs = [glob for group in fp32 for glob in group.split(",") if glob]
    options = BuildOptions(batch=(least, likeliest, most), fp32=globs, **given)
    with progress_bar(f"build {given['precision']}") as progress:
        written = build(onnx, options, progress, note)
    for path, metadata in written.items():
        lengths = ", ".join(profile.name for profile in metadata.profiles)
        click.echo(
            f"{path}: {metadata.runtime} {metadata.version}, {metadata.precision}, "
            f"for {', '.join(metadata.targets) or 'any GPU it takes'}, profiles {lengths}, {path.stat().st_size} bytes"
        )
