"""What ends a command early: a time limit; Ctrl-C, the first one well, the second one at once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, TypeAlias

from marketplace_metering_async.cli.output.console import Console

_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""The last one comes where a terminal is closed, unless `nohup` has the command ignore it."""
_ABORTED: Final = (
    "Aborted. Records on their way to the service may be metered or not: send the same input "
    "again; what is metered is refused as a duplicate, and nothing is billed twice."
)

_Handlers: TypeAlias = dict[signal.Signals, Any]


def _heard() -> list[signal.Signals]:
    """Return the signals that end a command, but for those that it was started to ignore."""
    return [
        number
        for number in _SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]


def _restore(handlers: _Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal end at once what waits for a person, and with it the event loop."""
    before: _Handlers = {number: signal.signal(number, signal.SIG_DFL) for number in _heard()}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        _restore(before)


class Interrupts:
    """
    Listens while a command works.

    Attributes:
        stopped: Set by the first signal, at the end of the time, or by whoever sees no sense in
            going on: nothing new is to start.
        is_late: Whether the time was over.
        happened: Whether there was a signal.
        is_of_service: Whether it was the one by which services are ended, SIGTERM.
        says: What the first signal brings about, as text.
    """

    def __init__(self, console: Console, says: str, *, timeout: float | None = None) -> None:
        """*timeout* is for how many seconds anything new may start."""
        self.is_late = False
        self.stopped = asyncio.Event()
        self.happened = False
        self.is_of_service = False
        self.says = says
        self._console = console
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._before: _Handlers = {}
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()

        def tell(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self._interrupt, number)

        self._before = {number: signal.signal(number, tell) for number in _heard()}
        if self._timeout is not None:
            self._timer = loop.call_later(self._timeout, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        _restore(self._before)
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.is_late = True
        self.stopped.set()
        self._console.print(f"[yellow]The time allowed is over: {self.says}")

    def _interrupt(self, number: int) -> None:
        if self.happened and self._task is not None:
            self._console.complain(_ABORTED)
            self._task.cancel()
            return
        self.happened = True
        self.is_of_service = number == signal.SIGTERM
        self.stopped.set()
        self._console.print(f"[yellow]Interrupted: {self.says} Ctrl-C again aborts at once.")
