"""``streamparity compare``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from ..errors import StreamparityError
from .common import (
    INT_LIST,
    check_writable,
    conclude,
    note,
    report_options,
    tolerance_options,
    tolerance_rules,
    with_options,
    write_json,
)

if TYPE_CHECKING:
    from ..comparison import View
    from ..dump.files import RawLayout


class FloatList(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """Comma-separated numbers, or ``none``."""

    name = "X,X,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse; anything else is a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return () if value == "none" else tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas", param, ctx)


@click.command("compare")
@click.argument("reference", type=click.Path(path_type=Path), metavar="A")
@click.argument("candidate", type=click.Path(path_type=Path), metavar="B")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="[a:|b:]N,N,...",
    help="Shape of a chunk of raw files; one extent may be -1. With a: or b: before it, of that file only.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="[a:|b:]TYPE",
    help="Element type of raw files: f32 (default), f64, f16, bf16, f8_e4m3, f8_e5m2, i64 to i8, u64 to u8, bool; "
    ">f32 is big-endian.",
)
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    metavar="[a:|b:]c|ggml",
    help="Layout of raw files: c, or ggml: four int64 extents, innermost first, then the values. Default: by its look.",
)
@click.option(
    "--permute",
    "permutes",
    multiple=True,
    metavar="[a:|b:]N,N,...",
    help="Take the axes of B in another order, as numpy.transpose; of A with a: before it.",
)
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="[a:|b:]RANGES",
    help="Compare a part of B, such as 0:10,:,::2 (after --permute); of A with a: before it.",
)
@click.option("--overlap", is_flag=True, help="Where one side is longer along one axis, compare what both have.")
@with_options(tolerance_options)
@click.option(
    "--percentiles",
    type=FloatList(),
    help="Percentages of values to report errors of; none saves a pass over large files.",
)
@click.option("--taps", multiple=True, metavar="GLOB", help="For dumps: the taps to compare; default: all.")
@click.option("--allow-unmatched", multiple=True, metavar="GLOB", help="For dumps: taps that one side may lack.")
@click.option("--json", "json_target", metavar="FILE", help="Write the result document; - for standard output.")
@with_options(report_options)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; the exit code tells.")
def command(
    reference: Path,
    candidate: Path,
    shapes: tuple[str, ...],
    dtypes: tuple[str, ...],
    layouts: tuple[str, ...],
    permutes: tuple[str, ...],
    slices: tuple[str, ...],
    overlap: bool,
    atol: float | None,
    rtol: float | None,
    rules: tuple[str, ...],
    policy_file: Path | None,
    percentiles: tuple[float, ...] | None,
    taps: tuple[str, ...],
    allow_unmatched: tuple[str, ...],
    quiet: bool,
    **targets: str | None,
) -> int:
    """Compare candidate B with reference A: two files, or two dumps.

    Files are raw (with --shape), ggml-style, .npy, .npz, .safetensors, .pt, Polygraphy's JSON, or JSONL with base64
    arrays; the two may be of different formats. Tensors are paired by name, and a file that holds several chunks is
    compared chunk by chunk. Dumps are compared inside the valid regions.
    """
    from ..comparison import compare
    from ..comparison.statistics import PERCENTILES, WORST

    check_writable(*targets.values())
    raw = _raw("a", shapes, dtypes, layouts)
    result = compare(
        reference,
        candidate,
        shape=raw.shape,
        dtype=raw.dtype,
        layout=raw.layout,
        candidate_raw=_raw("b", shapes, dtypes, layouts),
        reference_view=_view("a", permutes, slices),
        candidate_view=_view("b", permutes, slices),
        overlap=overlap,
        atol=atol,
        rtol=rtol,
        rules=tolerance_rules(rules, policy_file),
        taps=taps,
        allow_unmatched=allow_unmatched,
        percentiles=PERCENTILES if percentiles is None else percentiles,
        worst=WORST,
    )
    _check_reference(result, reference, targets["json_target"])
    for line in result["notes"]:
        if not quiet:
            note(line)
    return conclude(result, targets, quiet)


def _raw(side: str, shapes: tuple[str, ...], dtypes: tuple[str, ...], layouts: tuple[str, ...]) -> RawLayout:
    """What the options say about raw files of one side; without a letter they speak of both."""
    from ..dump.files import RawLayout

    shape, dtype, layout = (
        _of_side(side, values, option, otherwise=side)
        for values, option in ((shapes, "--shape"), (dtypes, "--dtype"), (layouts, "--layout"))
    )
    if layout not in (None, "c", "ggml"):
        raise StreamparityError(f"there is no layout {layout!r}", "give c or ggml")
    return RawLayout(
        None if shape is None else INT_LIST.convert(shape, None, None),
        dtype,
        cast("Literal['c', 'ggml'] | None", layout),
    )


def _view(side: str, permutes: tuple[str, ...], slices: tuple[str, ...]) -> View:
    """What the options say about one side; without a letter they speak of B."""
    from ..comparison import View

    permute = _of_side(side, permutes, "--permute", otherwise="b")
    ranges = _of_side(side, slices, "--slice", otherwise="b")
    return View(
        None if permute is None else INT_LIST.convert(permute, None, None),
        () if ranges is None else View.parse_slices(ranges),
    )


def _of_side(side: str, values: tuple[str, ...], option: str, otherwise: str) -> str | None:
    """What an option says of a side; a value without a letter speaks of ``otherwise``."""
    given = [re.fullmatch("(?:([ab]):)?(.*)", value, re.DOTALL) for value in values]
    mine = [match[2] for match in given if match is not None and (match[1] or otherwise) == side]
    if len(mine) > 1:
        raise StreamparityError(f"{option} is given twice for {side.upper()}", "give it once for each side")
    return mine[0] if mine else None


def _check_reference(result: dict[str, Any], reference: Path, json_target: str | None) -> None:
    """NaN in a reference is bad input: nothing could ever be right by it."""
    for tensor in result["tensors"]:
        if tensor["nan_reference"]:
            if json_target is not None:
                write_json(result, json_target)
            raise StreamparityError(
                f"{reference}: {tensor['nan_reference']} of {tensor['elements']} values of {tensor['name']} are NaN, "
                "which cannot be a reference",
                "make the reference again; if it is the candidate, swap A and B",
            )
