"""
How fast a token bucket of the service refills: measured between the times when it was empty.

A throttle says that the bucket is empty. What it gave since it was empty before is what flowed in,
so the rate is known without knowing how deep the bucket is.
"""

from collections import deque
from typing import Final

_SHORTEST: Final = 0.001
"""Seconds between two throttles below which no rate is computed."""


class RefillRate:
    """Remembers when the bucket was empty, and how many calls it had let through by then."""

    def __init__(self, at: float) -> None:
        """Measure from *at* on, when no call was made yet."""
        self._times = deque([(at, 0)])

    def restart(self, at: float, calls: int) -> None:
        """
        Measure from *at* on, by which *calls* had been let through: what was measured is outdated.

        How full the bucket is then is unknown, so the first rate may come out too high.
        """
        self._times = deque([(at, calls)])

    def bucket_was_empty(self, at: float, calls: int, *, window: float) -> float:
        """
        Return the most calls a second that flow in, now that it was empty once more.

        Since each time that it was empty, at most one token more flowed in than calls were let
        through. Times are forgotten once a later one lies at least *window* calls back.
        """
        rate = min((calls - before + 1) / max(_SHORTEST, at - then) for then, before in self._times)
        if calls > self._times[-1][1]:  # otherwise the earlier of the two says more
            self._times.append((at, calls))
        while len(self._times) > 1 and calls - self._times[1][1] >= window:
            self._times.popleft()
        return rate
