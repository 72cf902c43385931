"""Before something live: ask, since metering cannot be taken back."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from marketplace_metering_async.cli.exits import MisuseError
from marketplace_metering_async.cli.output import People


def somebody_is_there() -> bool:
    """Whether a person started this, and not a machine."""
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def approved(people: People) -> bool:
    """
    Ask on the terminal itself, since stdin may be the usage, and return the answer.

    Raises:
        MisuseError: if there is no terminal to ask on.
        KeyboardInterrupt: at once, whatever listens to Ctrl-C meanwhile.
    """
    people.print("[bold]What is metered is billed; it can be neither changed nor taken back.")
    try:
        handle = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise MisuseError("no terminal to ask on: --yes sends without asking") from None
    with os.fdopen(handle, encoding="utf-8", errors="replace") as terminal, _interruptible():
        os.write(handle, b"Send? [y/N] ")
        answer = terminal.readline().strip().lower()
    if answer not in ("y", "yes"):
        people.print("Nothing was sent.")
        return False
    return True


@contextmanager
def _interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
