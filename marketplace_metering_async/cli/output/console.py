"""What goes out: JSON for programs on stdout, everything for people on stderr."""

import json
import os
import sys
from datetime import datetime
from typing import Any

import rich.console

from marketplace_metering_async.cli.input.formats import worded
from marketplace_metering_async.cli.output.advice import advice_on
from marketplace_metering_async.errors import (
    InvalidRecordError,
    MarketplaceMeteringException,
    MeteringError,
)


class Console(rich.console.Console):
    """The console on stderr. That its reader goes away must not end what is being metered."""

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    def complain(self, problem: object) -> None:
        """Tell of a problem; its text may come from anywhere, so it is only text."""
        self.print(printable(str(problem)), style="red", markup=False)

    @property
    def has_screen(self) -> bool:
        """Whether a person sees it on a screen: what forces colours does not make one."""
        return sys.stderr is not None and sys.stderr.isatty() and not self.is_dumb_terminal

    @property
    def shares_screen(self) -> bool:
        """Whether stdout and stderr are both a terminal, and so most likely the same."""
        return self.has_screen and sys.stdout is not None and sys.stdout.isatty()


def stderr_console() -> Console:
    """Return the console; rich honours NO_COLOR by itself, and would read `:100:` as a picture."""
    return Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def printable(text: str) -> str:
    """Show control characters instead of letting them control the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )


def json_line(members: dict[str, Any]) -> str:
    """Return a line of JSON, in ASCII, so that any locale and terminal can show it."""
    return json.dumps(members, default=_plain) + "\n"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_json_if_piped(members: dict[str, Any]) -> None:
    """Write a line of JSON to stdout, where nobody is shown the same on a terminal."""
    if sys.stdout is not None and not sys.stdout.isatty():
        print_json(members)


def print_json(members: dict[str, Any]) -> None:
    """Write a line of JSON to stdout."""
    sys.stdout.write(json_line(members))
    sys.stdout.flush()


def error_text(error: MeteringError) -> str:
    """Return what an error says, the service's own words included, and what to do about it."""
    if isinstance(error, InvalidRecordError):
        return worded(error)
    said = f": {error.message}" if isinstance(error, MarketplaceMeteringException) else ""
    return f"{error}{said}. {advice_on(error)}"
