"""Runs what a command does, and ends with its code or with the code of what went wrong."""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.input.lines import Source, sources_of
from marketplace_metering_async.cli.output.console import PLAIN, Console, Log, error_text
from marketplace_metering_async.errors import MeteringError


def sources_or_exit(
    names: list[str], log: Log = PLAIN, *, for_ledger: bool = False
) -> list[Source]:
    """Return where to read, or leave with a word on what cannot be read."""
    try:
        return sources_of(names, for_ledger=for_ledger)
    except MisuseError as error:
        Console(log).complain(error)
        raise typer.Exit(Exit.USAGE) from None


def finish(work: Callable[[Console], Coroutine[Any, Any, Exit]], log: Log = PLAIN) -> None:
    """
    Run *work* with the console and leave with its code; what it raises is printed in a line.

    Raises:
        typer.Exit: always.
    """
    console = Console(log)
    try:
        code = asyncio.run(work(console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
    except MisuseError as error:
        console.complain(error)
        code = Exit.USAGE
    except MeteringError as error:
        console.complain(error_text(error))
        code = exit_codes.of_error(error)
    except OSError as error:
        hint = "; give another --port (0: a free one)" if error.errno == errno.EADDRINUSE else ""
        console.complain(f"{error.strerror or error}{hint}")
        code = Exit.USAGE
    raise typer.Exit(code)
