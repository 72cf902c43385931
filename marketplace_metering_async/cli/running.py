"""Runs what a command does, and ends with its code or with the code of what went wrong."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import typer

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.input.lines import Source, sources_of
from marketplace_metering_async.cli.output.console import error_text, stderr_console
from marketplace_metering_async.errors import MeteringError


def sources_or_exit(names: list[str]) -> list[Source]:
    """Return where to read, or leave with a word on what cannot be read."""
    try:
        return sources_of(names)
    except MisuseError as error:
        stderr_console().complain(error)
        raise typer.Exit(Exit.USAGE) from None


def finish(work: Coroutine[Any, Any, Exit]) -> None:
    """
    Run *work* and leave with its code; what it raises is printed in a line.

    Raises:
        typer.Exit: always.
    """
    try:
        code = asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
    except MisuseError as error:
        stderr_console().complain(error)
        code = Exit.USAGE
    except MeteringError as error:
        stderr_console().complain(error_text(error))
        code = exit_codes.of_error(error)
    except OSError as error:  # such as a port that is taken
        stderr_console().complain(error.strerror or error)
        code = Exit.USAGE
    raise typer.Exit(code)
