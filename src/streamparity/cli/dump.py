"""``streamparity dump``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..schedule import SCHEDULES
from .common import chunks_option, note, progress_bar, streaming_options, with_options


@click.command("dump")
@click.argument("model", metavar="MODEL.nemo")
@click.option("--audio", type=click.Path(path_type=Path), required=True, help="Sound file; resampled if need be.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the dump.")
@with_options(streaming_options)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default="padded",
    show_default=True,
    help="padded: every chunk of the same length, which exports can run; native: NeMo's shorter first chunk.",
)
@click.option("--taps", multiple=True, metavar="GLOB", help="Module paths to tap; default: every block.")
@chunks_option
@click.option(
    "--decoder",
    type=click.Choice(["rnnt", "ctc"]),
    help="Which head of a hybrid decodes (rnnt: TDT too); default: the one it is set to.",
)
@click.option(
    "--offline-text", is_flag=True, help="Also decode the whole recording at once, for error rates in `trace`."
)
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--force", is_flag=True, help="Replace an earlier dump.")
@click.option("--resume", is_flag=True, help="Go on with a dump that was cut off, to the same bytes.")
@click.option(
    "--noise-floor",
    is_flag=True,
    help="Also measure what arithmetic alone costs every tensor, and keep the float64 values that low precision is "
    "held against. The dump takes more than twice the room, and five more runs.",
)
def command(
    model: str,
    audio: Path,
    out: Path,
    device: str,
    schedule: str,
    taps: tuple[str, ...],
    limit: int | None,
    force: bool,
    resume: bool,
    noise_floor: bool,
    decoder: str | None,
    offline_text: bool,
    **streaming: Any,
) -> None:
    """Stream a recording through a NeMo model and write every stage down.

    MODEL.nemo is a file, or a hub name that NeMo can download.
    """
    from ..reference.dumper import DumpOptions, dump
    from ..reference.nemo import StreamingOptions, load_model

    if force and resume:
        raise click.UsageError("--force starts anew and --resume goes on: pass one of them")
    options = DumpOptions(
        StreamingOptions(**streaming),
        "native" if schedule == "native" else "padded",
        taps,
        limit,
        force,
        resume,
        noise_floor,
        decoder,
        offline_text,
    )
    loaded = load_model(model, device)
    with progress_bar("dump") as progress:
        manifest = dump(loaded, audio, out, options, progress, note)
    click.echo(f"{out}: {manifest.chunks} chunks, {len(manifest.tensors)} tensors each, schedule {manifest.schedule}")
    if manifest.text is not None:
        click.echo(f"text: {manifest.text}")
