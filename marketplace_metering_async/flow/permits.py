"""
Who may start a call, and when: a place among the calls on the wire, and the pacer's consent.

First come, first served, for everything that one client sends.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from marketplace_metering_async.clock import Clock, sleep_or_wake
from marketplace_metering_async.flow.pacing import CallEnd, Pacer

_LONGEST_WAIT: Final = 1.0
"""Seconds after which a pacer is asked again, whatever it said and whether a call ended or not."""


class _Waiter(NamedTuple):
    """
    One in line.

    Attributes:
        still_needed: Says whether it still needs a permit.
        woken: Has it look again: it became the first, or a call has ended, or it needs none.
    """

    still_needed: Callable[[], bool]
    woken: asyncio.Event


class CallPermits:
    """
    Permits calls to start: at most *most* are on the wire, and the pacer agrees to each.

    Whoever got a permit by `acquire` gives it back by one `end`, whatever happens.

    Attributes:
        most: The most requests on the wire at once.
    """

    def __init__(self, pacer: Pacer, clock: Clock, most: int) -> None:
        self._pacer = pacer
        self._clock = clock
        self.most = most
        self._on_the_wire = 0
        self._line: OrderedDict[object, _Waiter] = OrderedDict()  # by owner; quick at both ends

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
        me = self._line[owner] = _Waiter(still_needed, asyncio.Event())
        try:
            if me is not self._first():
                await me.woken.wait()
            while still_needed():
                wait = self._ask()
                if wait <= 0:
                    return True
                me.woken.clear()
                if self._on_the_wire >= self.most:
                    await me.woken.wait()
                else:
                    await sleep_or_wake(self._clock, min(_LONGEST_WAIT, wait), me.woken)
            return False
        finally:
            was_first = me is self._first()
            if self._line.get(owner) is me:
                del self._line[owner]
            if was_first:
                self._wake_first()

    def recheck(self, owner: object) -> None:
        """Let *owner* leave the line at once if it does not need a permit any more."""
        waiter = self._line.get(owner)
        if waiter is not None and not waiter.still_needed():
            waiter.woken.set()

    def end(self, how: CallEnd, retry_after: float | None = None) -> None:
        """Give a permit back, and tell the pacer and whoever waits how the call ended."""
        self._on_the_wire -= 1
        self._wake_first()
        self._pacer.end(self._clock.monotonic(), how, retry_after=retry_after)

    def _ask(self) -> float:
        """Start a call if it may; otherwise return how long to wait, as the pacer does."""
        if self._on_the_wire >= self.most:
            return math.inf
        wait = self._pacer.start(self._clock.monotonic())
        if wait <= 0:
            self._on_the_wire += 1
        return wait

    def _wake_first(self) -> None:
        if (first := self._first()) is not None:
            first.woken.set()

    def _first(self) -> _Waiter | None:
        return next(iter(self._line.values()), None)
