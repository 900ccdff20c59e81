"""What several commands share: parsing of lists, notes, progress, results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StreamparityError

if TYPE_CHECKING:
    from ..comparison import ToleranceRule


class IntList(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """Comma-separated whole numbers, such as ``70,1``."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse; anything else is a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).strip("[]").split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers separated by commas", param, ctx)


INT_LIST = IntList()


def _settings(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        settings[key] = text
    return settings


backend_settings = click.option(
    "-o", "--option", "settings", multiple=True, metavar="KEY=VALUE", callback=_settings, help="Backend option."
)
mode_option = click.option(
    "--mode",
    type=click.Choice(["closed-loop", "functional"]),
    default="closed-loop",
    show_default=True,
    help="closed-loop: the model's own caches are fed back; functional: every step gets the reference's.",
)
chunks_option = click.option("--chunks", "limit", type=click.IntRange(min=1), help="Stop after so many chunks.")
tolerance_options = [
    click.option("--atol", type=click.FloatRange(min=0), help="Absolute tolerance; default: by dtype."),
    click.option("--rtol", type=click.FloatRange(min=0), help="Relative tolerance; default: by dtype."),
    click.option(
        "--tol",
        "rules",
        multiple=True,
        metavar="GLOB:FIGURES",
        help="Tolerance of some tensors, such as 'encoder.layers.*:atol=1e-4,rtol=1e-3'; outliers=0.001 allows that "
        "fraction of a chunk's values past it. The first that matches is taken.",
    ),
    click.option(
        "--policy",
        "policy_file",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        help="The same from a file: tables [[tolerance]] with tensors = GLOB, atol, rtol, outliers.",
    ),
]
report_options = [
    click.option("--html", "html_target", metavar="FILE", help="Write a page."),
    click.option("--junit", "junit_target", metavar="FILE", help="Write JUnit XML, a test case per tensor."),
]
streaming_options = [
    click.option(
        "--att-context",
        type=INT_LIST,
        metavar="L,R",
        help="Attention context in encoder frames; default: the model's first.",
    ),
    click.option(
        "--chunk-size",
        type=click.IntRange(min=1),
        help="Encoder frames per chunk (NeMo setup_streaming_params), for models with unlimited context.",
    ),
    click.option("--shift-size", type=click.IntRange(min=1), help="Encoder frames by which the stream moves on."),
    click.option("--cache-drop-size", type=click.IntRange(min=0), help="Newest encoder frames kept out of the caches."),
]


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Decorate a command with several options, in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def tolerance_rules(rules: tuple[str, ...], policy_file: Path | None) -> tuple[ToleranceRule, ...]:
    """What --tol and --policy say, in the order in which it counts."""
    from ..comparison import ToleranceRule, read_policy

    from_file = [] if policy_file is None else read_policy(policy_file)
    return (*(ToleranceRule.parse(rule) for rule in rules), *from_file)


def note(line: str) -> None:
    """A remark, on standard error."""
    click.echo(f"note: {line}", err=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error where that is a terminal, else nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def write_text(text: str, target: str) -> None:
    """Write to a file, or to standard output for ``-``."""
    from ..dump.atomic import write_bytes

    if target == "-":
        click.echo(text, nl=False)
    elif Path(target).is_file() or not Path(target).exists():
        write_bytes(Path(target), text.encode())
    else:
        Path(target).write_text(text, encoding="utf-8")  # a device or a pipe


def write_json(document: Mapping[str, Any], target: str) -> None:
    """Write a document to a file, or to standard output for ``-``."""
    write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", target)


def check_writable(*targets: str | None) -> None:
    """Refuse files that cannot be written, and two reports on standard output, before any work is done."""
    if sum(target == "-" for target in targets) > 1:
        raise StreamparityError("two reports cannot both go to standard output", "give all but one of them a file")
    for target in targets:
        if target is None or target == "-":
            continue
        if Path(target).is_dir():
            raise StreamparityError(f"{target} is a folder", "give a file")
        if not Path(target).resolve().parent.is_dir():
            raise StreamparityError(f"the folder of {target} does not exist", "make it first")


def conclude(result: Mapping[str, Any], targets: Mapping[str, str | None], quiet: bool = False) -> int:
    """Write the reports asked for, print the table unless one of them is standard output or ``quiet``.

    Args:
        result: a result document.
        targets: files by ``json_target``, ``html_target``, ``junit_target`` and ``markdown_target``.
        quiet: print no table.

    Returns:
        The exit code: 0 for a pass, 1 for a fail.
    """
    from ..report.html import html
    from ..report.junit import junit
    from ..report.markdown import markdown
    from ..report.terminal import render

    reports = {"html_target": html, "junit_target": junit, "markdown_target": markdown}
    for option, target in targets.items():
        if target is not None and option == "json_target":
            write_json(result, target)
        elif target is not None:
            write_text(reports[option](result), target)
    if not quiet and "-" not in targets.values():
        render(result)
    return 0 if result["verdict"] == "pass" else 1
