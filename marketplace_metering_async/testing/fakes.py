"""A clock that moves by order, and a transport that answers from a script."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Final

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.errors import MeteringError

_TURNS: Final = 50
"""Rounds of the event loop in which everything woken has surely run on to its next wait."""


class FakeClock:
    """
    A clock that stands still until it is moved.

    `sleep()` waits until somebody moves the time that far with `advance()`.
    """

    def __init__(self, now: datetime = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)) -> None:
        """Stand at *now*."""
        self._now = now
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> datetime:
        """Return the wall time that the clock stands at."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which the clock was moved."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved by *seconds*."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self._monotonic + seconds, next(self._order), waiter))
        await waiter

    def step(self, difference: timedelta) -> None:
        """Move the wall time alone, as a correction of the system's clock does."""
        self._now += difference

    async def advance(self, seconds: float = 0.0, *, hours: float = 0.0) -> None:
        """Move the time, waking each sleeper at its moment and letting it run on."""
        end = self._monotonic + seconds + hours * 3600
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, waiter = heappop(self._sleepers)
            self._move_to(due)
            if not waiter.done():
                waiter.set_result(None)
            await _settle()
        self._move_to(end)
        await _settle()

    def _move_to(self, moment: float) -> None:
        self._now += timedelta(seconds=moment - self._monotonic)
        self._monotonic = moment


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


Step = Response | MeteringError | Callable[[Request], Response]
"""What a scripted transport does with a request: answer, raise, or ask a function."""


class ScriptedTransport:
    """
    A transport that answers from a script, and remembers what it carried.

    Attributes:
        requests: What was sent, in order.
        closed: Whether it was closed.
    """

    def __init__(self, *script: Step, default: Callable[[Request], Response] | None = None) -> None:
        """Play *script*, then ask *default* if there is one."""
        self._script = deque(script)
        self._default = default
        self.requests: list[Request] = []
        self.closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:
        """
        Take the next step of the script.

        Raises:
            MeteringError: where the script says so.
            AssertionError: if the script is over.
        """
        del timeout  # nothing here takes time
        self.requests.append(request)
        await asyncio.sleep(0)
        step: Step | None = self._script.popleft() if self._script else self._default
        if step is None:
            raise AssertionError(f"request {len(self.requests)} is not in the script")
        if isinstance(step, MeteringError):
            raise step
        return step if isinstance(step, Response) else step(request)

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.closed = True
