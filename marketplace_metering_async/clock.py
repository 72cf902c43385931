"""Time as a seam: what the package asks of a clock, and the one that asks the system."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol, Self

from attrs import frozen


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


@frozen
class Span:
    """
    Between which times another clock is for certain.

    Attributes:
        earliest: Seconds since 1970.
        latest: Seconds since 1970.
    """

    earliest: float
    latest: float

    @classmethod
    def at(cls, now: datetime) -> Self:
        """Return the span of a clock that is known to show *now*."""
        return cls(now.timestamp(), now.timestamp())


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
