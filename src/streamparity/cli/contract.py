"""``streamparity contract``: write, check and show contracts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StreamparityError
from ..schedule import SCHEDULES
from .common import INT_LIST, check_writable, note, streaming_options, with_options, write_json, write_text

if TYPE_CHECKING:
    from ..contract import Contract


@click.group("contract")
def command() -> None:
    """Write contracts, check them against graphs, engines, dumps and models, and show the schedule they imply."""


@command.command("write")
@click.argument("model", metavar="MODEL.nemo")
@click.option("--out", metavar="FILE", default="-", help="Where to; standard output when not given.")
@with_options(streaming_options)
@click.option("--force", is_flag=True, help="Replace an earlier file.")
def write(model: str, out: str, force: bool, **streaming: Any) -> None:
    """Write the contract of a model: ports, features, labels, and how it streams at every attention context."""
    check_writable(out)
    if out != "-" and Path(out).exists() and not force:
        raise StreamparityError(f"{out} is there already", "choose another --out, or pass --force to replace it")
    contract = _of_model(model, **streaming)
    write_text(contract.to_bytes().decode(), out)


@command.command("check")
@click.argument("contract", metavar="CONTRACT", type=click.Path(path_type=Path))
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@click.option("--json", "json_target", metavar="FILE", help="Write the document; - for standard output.")
def check(contract: Path, target: Path, json_target: str | None) -> int:
    """Compare a contract with a .nemo, an .onnx, an export, an engine, a dump or another contract.

    Exits 1 when they disagree, and says on what, with both values and what breaks because of it.
    """
    from ..contract import Contract
    from ..contract_check.targets import check as compare

    check_writable(json_target)
    checked = compare(Contract.read(contract), target)
    document = checked.to_json(contract, target)
    if json_target is not None:
        write_json(document, json_target)
    for line in checked.notes:
        note(line)
    if json_target != "-":
        for each in checked.ledger.disagreements:
            click.echo(each.sentence)
            click.echo(f"  breaks: {each.breaks}")
        if checked.ledger.unknown:
            click.echo(f"not known to the contract, not compared: {', '.join(checked.ledger.unknown)}")
        found, compared = len(checked.ledger.disagreements), len(checked.ledger.compared)
        verdict = f"{found} of {compared} values disagree" if found else f"all {compared} values agree"
        click.echo(f"{target}: {checked.kind}, {verdict}")
    return int(bool(checked.ledger.disagreements))


@command.command("show")
@click.argument("source", metavar="[CONTRACT|MODEL.nemo]", default="contract.json")
@click.option("--audio-seconds", "seconds", type=float, default=2.0, show_default=True, help="Length of the recording.")
@click.option("--att-context", type=INT_LIST, metavar="L,R", help="One of the contract's; default: under streaming.")
@click.option(
    "--schedule", type=click.Choice([*SCHEDULES, "both"]), default="both", show_default=True, help="Which schedule."
)
def show(source: str, seconds: float, att_context: tuple[int, ...] | None, schedule: str) -> None:
    """Print the chunk table: frames, samples and milliseconds in, overlap, frames dropped and out, cache lengths.

    Of a contract (contract.json in this folder by default) or of a .nemo.
    """
    from ..contract import Contract
    from ..contract.show import HEADINGS, LEGEND, explain
    from ..report.columns import columns

    is_contract = Path(source).suffix == ".json" or (not source.endswith(".nemo") and Path(source).exists())
    contract = Contract.read(Path(source)) if is_contract else _of_model(source)
    for name in SCHEDULES:
        if schedule in (name, "both"):
            table = explain(contract, att_context, seconds, name)
            for line in [*table.lines(), *columns(HEADINGS, table.rows())]:
                click.echo(line)
            click.echo()
    for line in LEGEND:
        click.echo(line)


def _of_model(model: str, **streaming: Any) -> Contract:
    from ..reference.contract import contract_of
    from ..reference.nemo import StreamingOptions, configure_streaming, load_model

    loaded = load_model(model)
    configured = configure_streaming(loaded.module, StreamingOptions(**streaming))
    return contract_of(loaded, configured, "streamparity contract write")
