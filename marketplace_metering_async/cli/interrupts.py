"""Ctrl-C: the first one ends well, the second one at once."""

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from typing import Final, Self

from marketplace_metering_async.cli.output.console import Console

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """
    Listens while a command works.

    Attributes:
        stopped: Set by the first signal, or by `fail()`: nothing new is to start.
        happened: Whether there was a signal.
        is_of_service: Whether it was the one by which services are ended, SIGTERM.
        failure: Why there was no sense in going on, if so.
        says: What the first signal brings about, as text.
    """

    def __init__(self, console: Console, says: str) -> None:
        self.stopped = asyncio.Event()
        self.happened = False
        self.is_of_service = False
        self.failure: OSError | None = None
        self.says = says
        self._console = console
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            _listen(loop, number, partial(self._interrupt, number))
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            _ignore(loop, number)

    def fail(self, error: OSError) -> None:
        """Ask for the end as the first signal does: results cannot be written."""
        self.failure = error
        self.stopped.set()

    def _interrupt(self, number: signal.Signals) -> None:
        if self.happened and self._task is not None:
            self._task.cancel()
            return
        self.happened = True
        self.is_of_service = number is signal.SIGTERM
        self.stopped.set()
        self._console.print(f"[yellow]Interrupted: {self.says} Ctrl-C again aborts at once.")


def _listen(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, act: Callable[[], None]
) -> None:
    try:
        loop.add_signal_handler(number, act)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


def _ignore(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    try:
        loop.remove_signal_handler(number)
    except NotImplementedError:
        default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
