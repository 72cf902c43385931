"""
Turns of the event loop, which others want to run as well: no long work at a stretch.

The program awaits us among a thousand other things, and each of them waits while we compute.
"""

import asyncio
from collections import deque
from typing import Final

from marketplace_metering_async.clock import Clock

_LONGEST_STRETCH: Final = 0.0005
"""Seconds of work after which the event loop gets its turn."""
RECORDS_PER_STEP: Final = 128
"""Records between two looks at the clock."""

_TURN: Final = 0.003
"""Seconds of a turn of the event loop in which responses are handled."""
_SHARE: Final = 0.001
"""Seconds of a turn reserved for responses that had to wait, whatever came before them."""
_PIECES: Final = 12
"""Waiting responses that are woken together: each mostly takes tenths of a millisecond."""


class WorkStretch:
    """Gives the event loop its turn in long work."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._since = self._monotonic()

    async def yield_if_due(self) -> bool:
        """Yield to the event loop if its last turn is long ago; return whether it was."""
        if self._monotonic() - self._since <= _LONGEST_STRETCH:
            return False
        await asyncio.sleep(0)
        self._since = self._monotonic()
        return True


class LoopBudget:
    """
    Spreads the responses of one client over turns of the event loop.

    They come in crowds; without this, all of a crowd would be dealt with in one turn.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._ends: float | None = None  # monotonic time at which this turn's work should end
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._again: deque[asyncio.Future[None]] = deque()  # before all of those

    async def wait(self) -> None:
        """
        Wait before some work for a turn that has time left.

        Nobody lines up behind those who wait while there is time, or each response would cost one
        more wake-up. Those that are let go together may need more than their turn has. They keep
        their place before all others, and the first of them always goes on.
        """
        line = self._waiting
        while self._ends is not None and self._monotonic() > self._ends:
            waiter = asyncio.get_running_loop().create_future()
            line.append(waiter)
            await waiter
            line = self._again
        if self._ends is None:
            self._begin()

    def _begin(self) -> None:
        self._ends = self._monotonic() + _TURN
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._ends = None
        if not (self._again or self._waiting):
            return
        asyncio.get_running_loop().call_soon(self._begin_share)
        for _ in range(_PIECES):
            if line := self._again or self._waiting:
                waiter = line.popleft()
                if not waiter.done():
                    waiter.set_result(None)
        self._begin()

    def _begin_share(self) -> None:
        """Give those that are let go, which come next, time that nobody before them has used."""
        self._ends = self._monotonic() + _SHARE
