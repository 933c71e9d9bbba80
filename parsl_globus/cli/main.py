"""The command `parsl-globus`: its groups, and one place where errors become a sentence and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import click

from parsl_globus.cli.extras import needs_extra
from parsl_globus.errors import ParslGlobusError
from parsl_globus.version import __version__

#: Where each command lives; loaded when it is used, so that `--help` is quick and no extra is needed for others.
_COMMANDS = {
    "demo": ("parsl_globus.cli.demo", "demo", "demo"),
    "endpoint": ("parsl_globus.cli.endpoint", "endpoint", "endpoint"),
    "login": ("parsl_globus.cli.login", "login", "service"),
    "logout": ("parsl_globus.cli.login", "logout", "service"),
    "service": ("parsl_globus.cli.service", "service", "service"),
    "whoami": ("parsl_globus.cli.login", "whoami", "service"),
}

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, extra = _COMMANDS[cmd_name]
        with needs_extra(extra):
            command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="parsl-globus")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for every detail.")
def cli(verbose: int) -> None:
    """Run Parsl apps on Globus Compute endpoints: a service, endpoints and a demo.

    \b
    Examples:
      parsl-globus demo                         see all of it work on this machine
      parsl-globus service run                  a service on 127.0.0.1:5000, until Ctrl-C
      parsl-globus login --credentials FILE     use a service that runs elsewhere
      parsl-globus endpoint configure laptop    make an endpoint's folder and configuration
      parsl-globus endpoint start laptop        start it in the background
      parsl-globus endpoint list                what is there, and what runs
    """  # noqa: D301 - \b is for click: keep these lines as they are
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main() -> NoReturn:
    """Entry point: run the command; any failure is one sentence on stderr and a non-zero exit code."""
    code = run(lambda: cli.main(standalone_mode=False))
    # Nothing is left to interrupt; one more must neither show a traceback nor change an exit code of 130.
    signal.signal(signal.SIGINT, signal.SIG_IGN if code == EXIT_INTERRUPTED else signal.SIG_DFL)
    sys.exit(code)


def run(command: Callable[[], Any]) -> int:
    """Run `command` and turn how it ends into an exit code."""
    try:
        code = command()
        sys.stdout.flush()
    except ParslGlobusError as exc:
        click.echo(f"parsl-globus: {exc}", err=True)
        return EXIT_FAILURE
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left, as `| head` does; nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return code if isinstance(code, int) else 0
