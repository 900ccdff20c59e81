"""``streamparity run``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import (
    backend_settings,
    check_writable,
    chunks_option,
    conclude,
    mode_option,
    note,
    progress_bar,
    report_options,
    tolerance_options,
    tolerance_rules,
    with_options,
)


@click.command("run")
@click.option("--backend", required=True, help="torch, ort, trt, or the name of an installed backend.")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The model under test.")
@click.option("--reference", type=click.Path(path_type=Path), required=True, help="A dump of the NeMo model.")
@mode_option
@click.option("--taps", multiple=True, metavar="GLOB", help="Taps to compare; default: all that the dump has.")
@click.option("--localize", is_flag=True, help="Say which module makes the error, and the likeliest cause.")
@click.option(
    "--repro",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the piece that makes the error, with its inputs and a script that shows it; implies --localize.",
)
@click.option(
    "--find-fp32-layers",
    is_flag=True,
    help="Build a model in fp16 or bf16 again and again, to find which layers must stay in float32 for it to pass.",
)
@chunks_option
@click.option("--save", type=click.Path(path_type=Path), help="Write what the model returned as a dump.")
@click.option("--force", is_flag=True, help="Let --save and --repro replace what they wrote before.")
@with_options(tolerance_options)
@click.option("--allow-unmatched", multiple=True, metavar="GLOB", help="Taps that the model may lack.")
@click.option("--allow-model-mismatch", is_flag=True, help="Accept a dump of another model.")
@backend_settings
@click.option("--json", "json_target", metavar="FILE", help="Write the result document; - for standard output.")
@with_options(report_options)
def command(
    backend: str,
    model: Path,
    reference: Path,
    mode: str,
    taps: tuple[str, ...],
    localize: bool,
    repro: Path | None,
    find_fp32_layers: bool,
    limit: int | None,
    save: Path | None,
    force: bool,
    atol: float | None,
    rtol: float | None,
    rules: tuple[str, ...],
    policy_file: Path | None,
    allow_unmatched: tuple[str, ...],
    allow_model_mismatch: bool,
    settings: dict[str, str],
    **targets: str | None,
) -> int:
    """Drive a model through a dump's chunks, its caches fed back, and compare every stage."""
    from ..comparison import TolerancePolicy
    from ..dump import DumpReader
    from ..run import RunOptions, run

    check_writable(*targets.values())
    options = RunOptions(
        backend=backend,
        model=model,
        mode="functional" if mode == "functional" else "closed-loop",
        taps=taps,
        limit=limit,
        save=save,
        force=force,
        policy=TolerancePolicy(atol, rtol, rules=tolerance_rules(rules, policy_file)),
        allow_unmatched=allow_unmatched,
        allow_model_mismatch=allow_model_mismatch,
        settings=settings,
        localize=localize or repro is not None,
        repro=repro,
    )
    with progress_bar(f"run {backend}") as progress:
        if find_fp32_layers:
            from ..precision_run import find_fp32_layers as search

            result = search(DumpReader(reference), options, progress, note)
        else:
            result = run(DumpReader(reference), options, progress, note)
    return conclude(result, targets)
