"""Time as a seam: what the package asks of a clock, and the one that asks the system."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

_Result = TypeVar("_Result")


class Clock(Protocol):
    """
    Where the package gets its time from.

    Tests hand in one that moves by order; nothing else in the package reads the time.
    """

    def now(self) -> datetime:
        """Return the wall time as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, whatever happens to the wall time."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of monotonic time."""
        ...


class ClockBounds(NamedTuple):
    """
    Bounds on the time that another clock shows now.

    Attributes:
        earliest: Seconds since 1970; -inf where nothing is known.
        latest: Seconds since 1970; inf where nothing is known.
    """

    earliest: float
    latest: float

    @classmethod
    def at(cls, now: datetime) -> Self:
        """Return the bounds of a clock that is known to show *now*."""
        return cls(now.timestamp(), now.timestamp())


ANY_TIME: Final = ClockBounds(-math.inf, math.inf)
"""The bounds of a clock of which nothing is known."""


@asynccontextmanager
async def running(work: Coroutine[Any, Any, _Result]) -> AsyncIterator["asyncio.Task[_Result]"]:
    """Yield a task that does *work*; where the block ends, so does it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def unless(stopped: "asyncio.Future[Any]", work: Coroutine[Any, Any, object]) -> bool:
    """
    Await *work*, which is cancelled once *stopped* is done; return whether it ended before.

    Raises: what *stopped* ends with, such as RuntimeError for an event of another event loop.
    """
    async with running(work) as working:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        if stopped.done() and not stopped.cancelled():
            stopped.result()
        return working.done()


def is_cancelled() -> bool:
    """Return whether somebody has cancelled the running task; a part of it may cancel itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def heed_cancelling() -> None:
    """Raise CancelledError in a task that was cancelled while what it awaited caught that."""
    if is_cancelled():
        raise asyncio.CancelledError


async def sleep_or_wake(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return after *seconds* of *clock*, or as soon as *event* is set."""
    async with running(event.wait()) as woken:
        await unless(woken, clock.sleep(seconds))


@asynccontextmanager
async def calling_after(
    clock: Clock, seconds: float | None, act: Callable[[], None]
) -> AsyncIterator[None]:
    """Call *act* after *seconds* of *clock* (None: never), unless the block ends before."""

    async def wait_and_act(seconds: float) -> None:
        await clock.sleep(seconds)
        act()

    timers = [] if seconds is None else [asyncio.create_task(wait_and_act(seconds))]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the machine's wall time in UTC."""
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)
    """Return the machine's monotonic time in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop for *seconds*."""
        await asyncio.sleep(seconds)


_COUNTS_ALWAYS: Final[int | None] = getattr(
    time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None)
)
"""Also while the machine is suspended. Windows has neither; its monotonic time counts then."""
_PROMPT: Final = 1.0
"""Seconds within which another clock has to be heard: by a later reply it would be behind."""


class FollowingClock(SystemClock):
    """
    The wall time of another machine, as it was last heard, and what has passed since.

    Whoever sets the clock of this machine changes nothing.
    """

    def __init__(self) -> None:
        """Show this machine's wall time until another one is heard."""
        self._ahead: float | None = None  # of what has passed

    def passed(self) -> float:
        """Return the seconds that have passed since some moment."""
        return time.monotonic() if _COUNTS_ALWAYS is None else time.clock_gettime(_COUNTS_ALWAYS)

    def hear(self, wall: float, *, asked: float) -> None:
        """Go by *wall*, in seconds since 1970, for which was asked when so much had *passed*."""
        passed = self.passed()
        if self._ahead is None or passed - asked < _PROMPT:
            self._ahead = wall - passed

    def now(self) -> datetime:
        """Return the other machine's wall time in UTC."""
        if self._ahead is None:
            return super().now()
        return datetime.fromtimestamp(self.passed() + self._ahead, UTC)  # noqa: TID251 - today
