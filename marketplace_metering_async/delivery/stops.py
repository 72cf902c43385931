"""What starts nothing new, and for how long there has been no progress."""

import math
from collections import deque
from typing import Final, NamedTuple

from marketplace_metering_async.delivery.model import Lane
from marketplace_metering_async.errors import MeteringError, UnexpectedError

PROBED_AFTER: Final = 60.0
"""Seconds after which what was stopped is tried again, where records go on coming."""


class _Stop(NamedTuple):
    """
    Why nothing new of a lane, or of all, starts.

    Attributes:
        error: The reason.
        since: Monotonic time; what was on the wire then is not sent again.
        until: Monotonic time from which it may be tried again.
    """

    error: MeteringError
    since: float
    until: float


class Stops:
    """
    Lanes, with all their groups, that start nothing new; None stands for all lanes.

    Attributes:
        final: Why nothing at all starts any more, if so.
        given_up: Whose open records are to be settled, and because of what.
    """

    def __init__(self) -> None:
        self.final: MeteringError | None = None
        self.given_up: deque[tuple[Lane | None, MeteringError]] = deque()
        self._stops: dict[Lane | None, _Stop] = {}

    def __bool__(self) -> bool:
        """Return whether anything was stopped."""
        return self.final is not None or bool(self._stops)

    def add(self, lane: Lane | None, error: MeteringError, moment: float, *, lasts: float) -> bool:
        """End what is open of a lane, and what comes in the next seconds; return if that is new."""
        known = self._stops.get(lane)
        self._stops[lane] = _Stop(error, moment, moment + lasts)
        self.given_up.append((lane, error))
        return known is None or known.until <= moment

    def error_for(
        self, lane: Lane | None, moment: float, begun: float = math.inf
    ) -> MeteringError | None:
        """Return why nothing of a lane starts now, be it again what *begun* then, if so."""
        if self.final is not None or not self._stops:
            return self.final
        for key in (None, lane and lane.whole):
            stop = self._stops.get(key)
            if stop is not None and (moment < stop.until or begun <= stop.since):
                return stop.error
        return None

    def forget(self, moment: float, oldest: float) -> None:
        """Forget stops that are over; nothing on the wire began before *oldest*."""
        for key in [k for k, s in self._stops.items() if s.until <= moment and s.since < oldest]:
            del self._stops[key]


class _Stall(NamedTuple):
    """
    How long a lane has been without progress, its waits for a turn left out.

    Attributes:
        seconds: So long, since its first failed attempt began.
        ended: Monotonic time at which the latest failed attempt ended.
        rest: Seconds that its records were to rest then.
    """

    seconds: float
    ended: float
    rest: float


class Progress:
    """
    Measures the time without progress: of each lane, and of all together.

    Attributes:
        stalled_since: Monotonic time since which nothing of any lane has progressed.
        latest: The latest error.
    """

    def __init__(self, timeout: float) -> None:
        """Time is over after *timeout* seconds."""
        self.stalled_since: float | None = None
        self.latest: MeteringError = UnexpectedError("no progress")
        self._timeout = timeout
        self._stalls: dict[Lane, _Stall] = {}

    def reset(self) -> None:
        """Forget everything: nothing is open any more."""
        self.stalled_since = None
        self._stalls.clear()

    def made(self, lane: Lane) -> None:
        """Note that the service dealt with records of a lane."""
        self.stalled_since = None
        self._stalls.pop(lane.whole, None)

    def missing(self, begun: float, error: MeteringError | None) -> None:
        """Note a failed, or throttled, attempt that began at *begun*."""
        if self.stalled_since is None:
            self.stalled_since = begun
        self.latest = error or self.latest

    def failed(self, lane: Lane, begun: float, moment: float, rest: float) -> bool:
        """Note a failed attempt of a lane whose records *rest*; return whether its time is over."""
        before = self._stalls.pop(lane.whole, _Stall(0.0, begun, 0.0))
        seconds = before.seconds + min(moment - before.ended, moment - begun + before.rest)
        if seconds < self._timeout:
            self._stalls[lane.whole] = _Stall(seconds, moment, rest)
        return seconds >= self._timeout

    def seconds_left(self, moment: float) -> float | None:
        """Return after how many seconds the time of all is over; None while there is progress."""
        since = self.stalled_since
        return None if since is None else since + self._timeout - moment
