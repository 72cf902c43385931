"""
What flows into the token bucket of a service: measured between the times when it was empty.

A throttle says that the bucket is empty. What was taken since it was empty before is what flowed
in, so the rate is known without knowing how deep the bucket is.
"""

import math
from collections import deque
from typing import Final

_MEASURED: Final = 24
"""Calls over which the rate is measured, where there were so many."""
_MOST_TIMES: Final = 64
"""Throttles that are remembered, when none of many calls is taken."""
_SHARED: Final = 2
"""Tokens that two throttles leave open: what is left of one, and one that another sender took."""
_LEAST_SECONDS: Final = 1e-3


class Inflow:
    """Remembers when the bucket was found empty, and how many calls had been taken by then."""

    def __init__(self) -> None:
        self.ever = False
        self._times: deque[tuple[float, int]] = deque(maxlen=_MOST_TIMES)

    @property
    def known(self) -> bool:
        """Whether there is a time that still counts."""
        return bool(self._times)

    @property
    def at(self) -> float:
        """When it was found empty last, if that is known."""
        return self._times[-1][0]

    @property
    def count(self) -> int:
        """Calls that had been taken by then."""
        return self._times[-1][1]

    def found_empty(self, at: float, count: int) -> None:
        """Remember that it was empty at a time by which *count* calls had been taken."""
        self.ever = True
        self._times.append((at, count))
        while len(self._times) > 2 and count - self._times[1][1] >= _MEASURED:
            self._times.popleft()

    def forget(self) -> None:
        """Let nothing count that was found so far: the rate has changed."""
        self._times.clear()

    def rate(self) -> tuple[float, int]:
        """
        Return calls a second that flow in, and the calls by which that was measured.

        Infinite while the bucket was not found empty twice. Since any of the times no more flowed
        in than was taken, and a little: a rate that was measured from before a fall is above that,
        and what it was measured from is forgotten.
        """
        if len(self._times) < 2:
            return math.inf, 0
        at, count = self._times[-1]
        most = min(
            (count - before + _SHARED) / max(_LEAST_SECONDS, at - then)
            for then, before in self._times
        )
        while True:
            then, before = self._times[0]
            rate = (count - before + 0.5) / max(_LEAST_SECONDS, at - then)
            if rate <= most or len(self._times) == 2:
                return min(rate, most), count - before
            self._times.popleft()
