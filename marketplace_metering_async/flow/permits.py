"""
Who may start a call, and when: a place among the calls on the wire, and the pacer's leave.

First come, first served, for everything that one client sends.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from marketplace_metering_async.clock import Clock, sleep
from marketplace_metering_async.flow.pacing import CallEnd, Pacer

_WITHOUT_NEWS: Final = 1.0
"""Seconds after which a pacer that waits for a call to end is asked again all the same."""
_AT_ONCE: Final = 1e-9
"""What whoever should look for itself is told to wait."""


class _Waiting(NamedTuple):
    """One in line: whether it still wants to start, and how long it is told to wait."""

    wanted: Callable[[], bool]
    told: asyncio.Future[float]
    """0: it may start, which counts. Otherwise as Pacer.start; whoever is first waits so long."""


class Starts:
    """Lets calls start: at most *most* are on the wire, and each has the pacer's leave."""

    def __init__(self, pacer: Pacer, clock: Clock, most: int) -> None:
        self._pacer = pacer
        self._clock = clock
        self._most = most
        self._on_the_wire = 0
        self._line: deque[_Waiting] = deque()
        self._call_ended = asyncio.Event()  # since the first in line looked last
        self._told_to_look = asyncio.Event()  # the same

    async def admit(self, wanted: Callable[[], bool]) -> "Ticket | None":
        """
        Wait until a call may start; None once it is not *wanted* any more.

        Whoever changes what is wanted says `look_again()`. Cancelling leaves the line, and gives a
        start back that was granted by then.
        """
        if not wanted():
            return None
        wait = math.inf if self._line else self._ask()
        if wait > 0:
            me = _Waiting(wanted, asyncio.get_running_loop().create_future())
            if not await self._line_up(me, wait):
                return None
        return Ticket(self)

    def look_again(self) -> None:
        """Let those leave the line at once who do not want to start any more."""
        self._call_ended.set()
        self._told_to_look.set()
        for wanted, told in self._line:
            if not told.done() and not wanted():
                told.set_result(_AT_ONCE)

    def end(self, how: CallEnd, retry_after: float | None = None) -> None:
        """Give a place back, and tell whoever waits, and the pacer, how the call ended."""
        self._on_the_wire -= 1
        self._call_ended.set()
        self._pacer.end(self._clock.monotonic(), how, retry_after=retry_after)

    def _ask(self) -> float:
        """Start a call if it may; otherwise return how long to wait, as the pacer does."""
        if self._on_the_wire >= self._most:
            return math.inf
        wait = self._pacer.start(self._clock.monotonic())
        if wait <= 0:
            self._on_the_wire += 1
        return wait

    async def _line_up(self, me: _Waiting, wait: float) -> bool:
        """Wait in line; return whether a call may start. The first of all is to *wait* so long."""
        self._line.append(me)
        if self._line[0] is me:
            me.told.set_result(wait)
        try:
            wait = await me.told
            while me.wanted():
                if wait <= 0:
                    return True
                await self._wait_first_in_line(wait)
                wait = self._ask()
            if wait <= 0:
                self.end(CallEnd.ABANDONED)
        except asyncio.CancelledError:
            if not me.told.cancelled() and me.told.result() <= 0:
                self.end(CallEnd.ABANDONED)
            raise
        else:
            return False
        finally:
            self._leave_line(me)

    async def _wait_first_in_line(self, wait: float) -> None:
        self._call_ended.clear()
        self._told_to_look.clear()
        if math.isfinite(wait):
            await sleep(self._clock, wait, self._told_to_look)
        elif self._on_the_wire >= self._most:
            await self._call_ended.wait()
        else:
            await sleep(self._clock, _WITHOUT_NEWS, self._call_ended)

    def _leave_line(self, me: _Waiting) -> None:
        if self._line and self._line[0] is me:
            self._line.popleft()
            self._call_the_next()
        elif me in self._line:
            self._line.remove(me)

    def _call_the_next(self) -> None:
        """Let as many in line start as may; whoever is first after them waits for the rest."""
        while self._line:
            wanted, told = self._line[0]
            if not told.done():  # and not cancelled, that is
                is_wanted = wanted()
                wait = self._ask_for_another() if is_wanted else _AT_ONCE
                told.set_result(wait)
                if is_wanted and wait > 0:
                    return
            self._line.popleft()

    def _ask_for_another(self) -> float:
        try:
            return self._ask()
        except Exception:  # noqa: BLE001 - the other asks again at once, and meets the error itself
            return _AT_ONCE


class Ticket:
    """
    The right to make one call.

    Whoever makes it says `end(how)`, and `give_back()` when done with it, come what may.
    """

    __slots__ = ("_ended", "_starts", "spent")

    def __init__(self, starts: Starts) -> None:
        self._starts = starts
        self._ended = False
        self.spent = False  # set when the call goes out

    def end(self, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Say how the call ended."""
        self._ended = True
        self._starts.end(how, retry_after)

    def give_back(self) -> None:
        """Give back place and leave if nobody said how the call ended, or none was made."""
        if not self._ended:
            self.end(CallEnd.FAILED if self.spent else CallEnd.ABANDONED)
