"""Time limits of many things that are nearly always in time: one timer for all of them."""

import asyncio
from typing import Protocol


class Expiring(Protocol):
    """What may take too long."""

    def expire(self) -> None:
        """End; it is told once, and not after `Timeouts.end`."""
        ...


class Timeouts:
    """
    Tells what takes too long that it does.

    A timer of its own for each would cost more than all else that is done about its time.
    """

    def __init__(self) -> None:
        self._due: dict[Expiring, float] = {}  # to the event loop's time
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, what: Expiring, seconds: float) -> None:
        """Allow *what* so many seconds from now on."""
        loop = asyncio.get_running_loop()
        due = self._due[what] = loop.time() + seconds
        if self._timer is None or due < self._timer.when():
            self._set_timer(loop, due)

    def end(self, what: Expiring) -> None:
        """Forget *what*; the timer stays, for whatever comes next."""
        self._due.pop(what, None)

    def close(self) -> None:
        """Drop the timer, unless somebody has not ended yet."""
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._look)

    def _look(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        over = [what for what, due in self._due.items() if due <= loop.time()]
        for what in over:
            del self._due[what]
        if self._due:
            self._set_timer(loop, min(self._due.values()))
        for what in over:
            what.expire()
