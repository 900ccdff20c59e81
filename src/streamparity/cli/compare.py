"""``streamparity compare``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import INT_LIST, check_writable, conclude, note, tolerance_options, with_options


@click.command("compare")
@click.argument("reference", type=click.Path(path_type=Path), metavar="A")
@click.argument("candidate", type=click.Path(path_type=Path), metavar="B")
@click.option("--shape", type=INT_LIST, metavar="N,N,...", help="Shape of raw files; one extent may be -1.")
@click.option("--dtype", help="Element type of raw files: f32 (default), f64, f16, i64, i32, i16, i8, u8, bool.")
@with_options(tolerance_options)
@click.option("--taps", multiple=True, metavar="GLOB", help="For dumps: the taps to compare; default: all.")
@click.option("--allow-unmatched", multiple=True, metavar="GLOB", help="For dumps: taps that one side may lack.")
@click.option("--json", "json_target", metavar="FILE", help="Write the result document; - for standard output.")
def command(
    reference: Path,
    candidate: Path,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    atol: float | None,
    rtol: float | None,
    taps: tuple[str, ...],
    allow_unmatched: tuple[str, ...],
    json_target: str | None,
) -> int:
    """Compare candidate B with reference A: two files, or two dumps.

    Files are raw (with --shape), .npy, .npz or .safetensors. Dumps are compared chunk by chunk inside the valid
    regions.
    """
    from ..comparison import compare

    check_writable(json_target)
    result = compare(
        reference,
        candidate,
        shape=shape,
        dtype=dtype,
        atol=atol,
        rtol=rtol,
        taps=taps,
        allow_unmatched=allow_unmatched,
    )
    for line in result["notes"]:
        note(line)
    return conclude(result, json_target=json_target)
