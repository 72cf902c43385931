"""
Who may start a call, and when: a place among the calls on the wire, and the pacer's consent.

First come, first served, for everything that one client sends.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from attrs import define

from marketplace_metering_async.clock import Clock, sleep_or_wake
from marketplace_metering_async.flow.pacing import CallEnd, Pacer

_LONGEST_WAIT: Final = 1.0
"""Seconds after which a pacer is asked again, whatever it said and whether a call ended or not."""


@define(eq=False)
class _Waiter:
    """
    One in line.

    Attributes:
        still_needed: Says whether it still needs a permit.
        turn: Done once it is first, or needs none any more.
    """

    still_needed: Callable[[], bool]
    turn: "asyncio.Future[None]"

    def wake(self) -> None:
        if not self.turn.done():
            self.turn.set_result(None)


class CallPermits:
    """
    Permits calls to start: at most *most* are on the wire, and the pacer agrees to each.

    Whoever got a permit by `acquire` gives it back by one `end`, whatever happens.
    """

    def __init__(self, pacer: Pacer, clock: Clock, most: int) -> None:
        self._pacer = pacer
        self._clock = clock
        self._most = most
        self._on_the_wire = 0
        self._line: OrderedDict[object, _Waiter] = OrderedDict()  # by owner
        self._wake_first = asyncio.Event()  # has the first in line look again

    async def acquire(self, still_needed: Callable[[], bool], owner: object) -> bool:
        """
        Wait until a call may start; return False once the permit is not *still_needed*.

        Whoever changes what is needed calls `recheck` with the same *owner*, who has one place in
        line. Cancelling leaves the line.
        """
        if not still_needed():
            return False
        if not self._line and self._ask() <= 0:
            return True
        me = self._line[owner] = _Waiter(still_needed, asyncio.get_running_loop().create_future())
        try:
            if me is not self._first():
                await me.turn
            while still_needed():
                wait = self._ask()
                if wait <= 0:
                    return True
                await self._wait_as_first(wait)
            return False
        finally:
            was_first = me is self._first()
            if self._line.get(owner) is me:
                del self._line[owner]
            if was_first and (following := self._first()) is not None:
                following.wake()

    def recheck(self, owner: object) -> None:
        """Let *owner* leave the line at once if it does not need a permit any more."""
        waiter = self._line.get(owner)
        if waiter is not None and not waiter.still_needed():
            waiter.wake()
            if waiter is self._first():
                self._wake_first.set()

    def end(self, how: CallEnd, retry_after: float | None = None) -> None:
        """Give a permit back, and tell the pacer and whoever waits how the call ended."""
        self._on_the_wire -= 1
        self._wake_first.set()
        self._pacer.end(self._clock.monotonic(), how, retry_after=retry_after)

    def _ask(self) -> float:
        """Start a call if it may; otherwise return how long to wait, as the pacer does."""
        if self._on_the_wire >= self._most:
            return math.inf
        wait = self._pacer.start(self._clock.monotonic())
        if wait <= 0:
            self._on_the_wire += 1
        return wait

    async def _wait_as_first(self, wait: float) -> None:
        self._wake_first.clear()
        if self._on_the_wire >= self._most:
            await self._wake_first.wait()
        else:
            await sleep_or_wake(self._clock, min(wait, _LONGEST_WAIT), self._wake_first)

    def _first(self) -> _Waiter | None:
        return next(iter(self._line.values()), None)
