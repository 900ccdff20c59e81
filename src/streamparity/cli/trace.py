"""``streamparity trace``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import StreamparityError
from .common import backend_settings, check_writable, chunks_option, mode_option, note, progress_bar, write_json


@click.command("trace")
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="A dump of the NeMo model.")
@click.option("--backend", help="torch, ort, or the name of an installed backend; with --model.")
@click.option("--model", type=click.Path(path_type=Path), help="The model under test; decoded by the rules.")
@backend_settings
@click.option(
    "--candidate",
    type=click.Path(path_type=Path),
    metavar="TRACE.jsonl",
    help="Decisions that another program wrote (docs/trace.md), or a dump that holds them. With --model too, the "
    "model is what that program runs, and wrong decoding rules are found by trying them on it.",
)
@click.option(
    "--reference-model",
    type=click.Path(path_type=Path),
    help="The .nemo that the dump was made from, or its export: lets parts of both sides be swapped.",
)
@mode_option
@chunks_option
@click.option(
    "--text-offline", metavar="TEXT|@FILE", help="Transcript of the recording decoded at once, for error rates."
)
@click.option("--allow-model-mismatch", is_flag=True, help="Accept a dump of another model.")
@click.option("--json", "json_target", metavar="FILE", help="Write the result document; - for standard output.")
def command(
    reference: Path,
    backend: str | None,
    model: Path | None,
    settings: dict[str, str],
    candidate: Path | None,
    reference_model: Path | None,
    mode: str,
    limit: int | None,
    text_offline: str | None,
    allow_model_mismatch: bool,
    json_target: str | None,
) -> int:
    """Compare every decision of greedy decoding with the reference's, and say where they part and why."""
    from ..dump import DumpReader
    from ..report.trace import render
    from ..tracing import TraceOptions, trace

    if (backend is None) != (model is None):
        raise click.UsageError("--backend and --model belong together")
    check_writable(json_target)
    options = TraceOptions(
        backend=backend,
        model=model,
        settings=settings,
        mode="functional" if mode == "functional" else "closed-loop",
        candidate=candidate,
        reference_model=reference_model,
        limit=limit,
        offline=_text(text_offline),
        allow_model_mismatch=allow_model_mismatch,
    )
    with progress_bar("trace") as progress:
        result = trace(DumpReader(reference), options, progress, note)
    if json_target is not None:
        write_json(result, json_target)
    if json_target != "-":
        render(result)
    return 0 if result["verdict"] == "pass" else 1


def _text(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise StreamparityError(f"{given[1:]} is not a text file", "give a transcript in UTF-8") from None
