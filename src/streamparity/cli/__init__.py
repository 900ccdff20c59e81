"""The command line. Commands only parse, call the library and print; nothing heavy is imported before it is needed."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import traceback

import click

from .. import __version__
from ..errors import StreamparityError, first_line

# name -> module; the order is that of the help text.
COMMANDS = {
    "demo": "demo",
    "inspect": "inspect",
    "export": "export",
    "build": "build",
    "dump": "dump",
    "run": "run",
    "compare": "compare",
    "trace": "trace",
    "contract": "contract",
    "report": "report",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{COMMANDS[name]}", __name__).command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamparity")
@click.option(
    "--debug", is_flag=True, help="Show a traceback when something goes wrong; any place on the line will do."
)
def cli(debug: bool) -> None:
    """Is a port of a NeMo cache-aware streaming speech model right, and if not, where did it go wrong?

    Exit codes: 0 parity, 1 divergence, 2 bad input or usage, 3 a backend or device is missing, 130 interrupted.
    """


def main() -> None:
    """Entry point of the console script."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the program quietly, and not with exit code 1
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        code = cli.main(arguments, prog_name="streamparity", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except StreamparityError as error:
        _fail(error.message, error.hint, error.exit_code, debug)
    except click.exceptions.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "streamparity"
        _fail(error.format_message(), f"{command} --help", 2, debug)
    except OSError as error:
        hint = "check the path and its permissions"
        if error.errno == errno.ENOSPC:
            hint = "make room there and in the temporary folder (TMPDIR), and try again"
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), hint, 2, debug)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {first_line(error)}", "see where with --debug, and report it", 2, debug
        )


def _interrupted() -> None:
    click.echo("interrupted", err=True)
    sys.exit(130)


def _fail(message: str, hint: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"error: {message}", err=True)
    click.echo(f"  try: {hint}", err=True)
    sys.exit(code)
