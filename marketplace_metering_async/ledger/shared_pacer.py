"""One quota for all relays of a ledger, wherever they run: the database spaces their calls."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Final

from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd

_AHEAD: Final = 0.3
"""Seconds for which turns last that are reserved at a time: if a relay stops, they are lost."""
_FEWEST: Final = 2
_ENOUGH: Final = 0.4
"""The share of them with which it is time to ask for more: the database takes its time, too."""
_SHARE: Final = 0.99
"""The share of the quota that is used, so that calls which bunch are not throttled."""
_KEPT: Final = 0.2
_KEPT_TURNS: Final = 2
"""For how long a turn that was not taken may be made up for: the service keeps few, too."""
_LOOK_AGAIN: Final = 0.02
_AFTER_ERROR: Final = 1.0
_EMPTY_AFTER_THROTTLE: Final = 1.0
"""Spaces that nobody uses after a throttle, for the service is that much behind."""
_BUNCHED: Final = 50
"""Calls delivered since the last throttle from which on the next one is put down to bunching."""

Reserve = Callable[[float], Awaitable[float]]
"""Reserves so many seconds of the quota, and returns in how many they end; see Store."""


class SharedPacer:
    """
    A pacer whose calls take their turns with those of all other relays of the ledger.

    Give it to the client: `MarketplaceMeteringClient(pacer=ledger.pacer())`.
    """

    def __init__(self, reserve: Reserve, calls_per_second: float) -> None:
        """
        Space calls at *calls_per_second* over all relays, who *reserve* them.

        Raises:
            ValueError: for a quota that is not above 0, or is infinite.
        """
        self._own = AdaptivePacer(calls_per_second, share=_SHARE)
        self._reserve_calls = reserve
        self._gap = 1 / (calls_per_second * _SHARE)
        self._most = max(_FEWEST, ceil(calls_per_second * _AHEAD))
        self._ahead = self._most  # turns that are reserved at a time
        self._reserved_at = 0.0
        self._kept = max(_KEPT, _KEPT_TURNS * self._gap)
        self._turns: deque[float] = deque()  # monotonic times at which calls may start
        self._taken = _BUNCHED  # calls delivered since the last throttle
        self._empty = 0.0  # spaces to leave out at the next reservation
        self._reserving: asyncio.Task[None] | None = None
        self._not_before = 0.0

    def start(self, now: float) -> float:
        """See Pacer; where no turn is reserved yet, ask again in a moment."""
        while self._turns and self._turns[0] < now - self._kept:
            self._turns.popleft()
        few = len(self._turns) <= max(1, self._ahead * _ENOUGH)
        if few and self._reserving is None and now >= self._not_before:
            self._reserving = asyncio.create_task(self._reserve(now, self._turns_to_reserve(now)))
            self._reserving.add_done_callback(self._reserved)
        if not self._turns:
            return _LOOK_AGAIN
        if (wait := self._turns[0] - now) > 0:
            return wait
        wait = self._own.start(now)
        if wait <= 0:
            self._turns.popleft()
        return wait

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """
        See Pacer.

        One throttle now and then says that calls of several relays met, and not that the quota is
        smaller: this relay sees a part of it alone, and would take that part for the whole.
        """
        bunched = how is CallEnd.THROTTLED and self._taken >= _BUNCHED
        self._own.end(now, CallEnd.ABANDONED if bunched else how, retry_after=retry_after)
        if how is CallEnd.DELIVERED:
            self._taken += 1
        elif how is CallEnd.THROTTLED:
            self._taken = 0
            self._empty += _EMPTY_AFTER_THROTTLE
        elif how is CallEnd.ABANDONED:
            self._turns.appendleft(now)

    def _turns_to_reserve(self, now: float) -> int:
        """Return how many turns to reserve, going by how long it took to use the last ones."""
        lasted, self._reserved_at = now - self._reserved_at, now
        if lasted < _AHEAD:
            self._ahead = min(self._most, self._ahead * 2)
        elif lasted > 2 * _AHEAD:
            self._ahead = max(_FEWEST, self._ahead // 2)
        return self._ahead

    async def _reserve(self, now: float, ahead: int) -> None:
        began = asyncio.get_running_loop().time()
        empty, self._empty = self._empty, 0.0
        seconds = (ahead + empty) * self._gap
        try:
            until = await self._reserve_calls(seconds)
        except LedgerError:
            self._not_before = now + _AFTER_ERROR  # the relay meets the same error, and tells of it
        else:
            last = now + (asyncio.get_running_loop().time() - began) + until
            self._turns.extend(last - self._gap * left for left in range(ahead, 0, -1))

    def _reserved(self, _: "asyncio.Task[None]") -> None:
        self._reserving = None  # also where it was cancelled before it began
