"""
How many calls a second, and what a throttle changes: one controller for all that a client sends.

The service holds a token bucket of unknown depth. A throttle says that it is empty, so what it let
through between two throttles is what flowed in: the rate is measured and not guessed. After a
throttle the pacer rests until a token or two have gathered, sends at the measured rate, and goes
faster the longer no throttle comes: little at first, then ever more (a cube, as TCP CUBIC has it).
So the quota is used up and measured again and again, a quota that fell shows in throttles that come
early, and one that rose is found within a second or two.

A quota that is configured caps the rate and changes nothing else. Where it is right, hardly a
throttle comes; where it is too high, or others use it too, it is given up for what is measured.
Without one, calls in flight double from round trip to round trip, after a first burst and until the
first throttle.

A run of failures means that the service is unhealthy: then calls probe, one at a time and further
and further apart, until one is delivered. The pacer only ever delays; it imports no clock and
sleeps nowhere.
"""

import math
from collections import deque
from enum import Enum, auto
from random import Random
from typing import Final, Protocol

from marketplace_metering_async.rules import require_at_least_one, require_number

_USED_SHARE: Final = 0.96
"""The share of a configured quota that is used: calls that arrive bunched need some slack."""
_REST: Final = 1.5
"""Tokens that are left to gather after a throttle, so that other senders find some as well."""
_CYCLE: Final = 20
"""Calls delivered without a throttle by which the rate doubles; the next one comes before that."""
_FAST: Final = 10.0
"""Calls a second below which the cycle is shorter: so the slower of two senders catches up."""
_LAG: Final = 5
"""Calls by which each one in flight makes the cycle longer: throttles are known a trip late."""
_RISEN: Final = 2.5
"""Times the measured rate at which calls have to be delivered to show that the quota rose."""
_SLOWEST: Final = 0.4
"""Calls a second that are tried whatever is measured."""
_FIRST_WINDOW: Final = 4
"""Calls in flight after the first burst, where no quota is configured; each delivered adds one."""
_UNHEALTHY: Final = 8
"""Failures in a row after which the service is taken to be unhealthy."""
_FIRST_PAUSE: Final = 0.1
"""Seconds until the first probe then, at most; each failed one doubles them."""
_LONGEST_PAUSE: Final = 20.0
_LONGEST_HINT: Final = 5.0
"""Seconds of the service's Retry-After that are believed."""
_SHORTEST: Final = 0.001
"""Seconds between two throttles below which no rate is computed."""
_ROUNDING: Final = 1e-6
"""Tokens that may be missing for a call to start: so far are floating-point seconds trusted."""


class CallEnd(Enum):
    """How a call ended, as far as the quota and the service's health are concerned."""

    DELIVERED = auto()
    """The service dealt with it, be it with a refusal; it spent quota."""
    THROTTLED = auto()
    """Refused for the quota."""
    FAILED = auto()
    """A 5xx or no response; it may have spent quota."""
    CANCELLED = auto()
    """Its caller gave it up: it may have spent quota, and says nothing about the service."""
    ABANDONED = auto()
    """Never sent: it spent nothing."""


class Pacer(Protocol):
    """Says when calls may start. Times are monotonic seconds of one clock."""

    def start(self, now: float) -> float:
        """
        Ask to start a call.

        0.0: it may start now, and counts as in flight until `end`. Otherwise the seconds after
        which to ask again; `math.inf`: when a call has ended.
        """
        ...

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Say that a call which was let go has ended; *retry_after*: the service's, in seconds."""
        ...


class AdaptivePacer:
    """
    The pacer of every client; several on one event loop may share one, and so a quota.

    Attributes:
        rate: Calls a second that it lets go now; infinite before the first throttle if no quota
            is configured.
    """

    def __init__(
        self,
        calls_per_second: float | None,
        *,
        burst: float = 10.0,
        share: float = _USED_SHARE,
        random: Random | None = None,
    ) -> None:
        """
        Begin rested.

        Args:
            calls_per_second: The quota, never exceeded; None: it is to be found.
            burst: Calls that a rested account may make at once.
            share: Of a configured quota, how much is used: above 0, at most 1.
            random: Where the jitter of pauses comes from.

        Raises:
            TypeError, ValueError: for a quota, burst or share that is no number, a quota that is
                not above 0 or is infinite, a burst below 1, or a share that is none.
        """
        if calls_per_second is not None:
            require_number("calls_per_second", calls_per_second)
        if calls_per_second is not None and not 0 < calls_per_second < math.inf:
            raise ValueError(f"calls_per_second: expected above 0, or None, got {calls_per_second}")
        require_at_least_one("burst", burst)
        require_number("share", share)
        if not 0 < share <= 1:
            raise ValueError(f"share: expected above 0, at most 1, got {share}")
        self._quota = math.inf if calls_per_second is None else share * calls_per_second
        self.rate = self._quota
        self._burst = burst
        self._random = random or Random()
        self._tokens = burst  # of our own bucket; what is left of the first burst at first
        self._counted_at = -math.inf  # when they were counted last
        self._idle = 0.0  # seconds in which it was full: calls did not come at the pace then
        self._window = _FIRST_WINDOW  # calls in flight after it, while no rate is known
        self._in_flight = 0
        self._taken = 0  # calls that the service let through, or may have
        self._refill = RefillRate(0.0, 0)
        self._measured = math.inf  # calls a second, by the last throttle
        self._paced = 0  # calls delivered since the last throttle that had to wait for the pace
        self._waited = False  # whether one had to since the last was delivered
        self._failures = 0  # in a row
        self._paused_until = -math.inf

    def start(self, now: float) -> float:
        """Let a call go, or say how long to wait; see Pacer."""
        if now < self._paused_until:
            return self._paused_until - now
        if self._failures >= _UNHEALTHY and self._in_flight > 0:
            return math.inf
        self._count_tokens(now)
        if self._tokens < 1 - _ROUNDING:
            if math.isfinite(self.rate):
                self._waited = True
                return (1 - self._tokens) / self.rate
            if self._in_flight >= self._window:
                return math.inf
        self._tokens -= 1
        self._in_flight += 1
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Learn from how a call ended; see Pacer."""
        self._in_flight -= 1
        self._count_tokens(now)
        if how not in (CallEnd.THROTTLED, CallEnd.ABANDONED):
            self._taken += 1
        if how in (CallEnd.DELIVERED, CallEnd.THROTTLED):  # the service is healthy
            if self._failures >= _UNHEALTHY:
                self._paused_until = -math.inf
            self._failures = 0
        match how:
            case CallEnd.DELIVERED:
                self._go_faster(now)
            case CallEnd.THROTTLED:
                self._measure(now)
            case CallEnd.FAILED:
                self._failures += 1
                if self._failures >= _UNHEALTHY:
                    doublings = min(self._failures - _UNHEALTHY, 10)
                    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**doublings)
                    self._pause(now + pause * (0.5 + self._random.random() / 2))
            case CallEnd.ABANDONED:
                self._tokens += 1
        if retry_after is not None:
            self._pause(now + min(retry_after, _LONGEST_HINT))

    def _pause(self, until: float) -> None:
        self._paused_until = max(self._paused_until, until)

    def _count_tokens(self, now: float) -> None:
        """Add what flowed into our own bucket; what is more than a burst is lost."""
        if math.isinf(self._counted_at):
            self._refill = RefillRate(now, 0)
        elif math.isfinite(self.rate):
            self._tokens += (now - self._counted_at) * self.rate
            if self._tokens > self._burst:
                self._idle += (self._tokens - self._burst) / self.rate
                self._tokens = self._burst
        self._counted_at = now

    def _go_faster(self, now: float) -> None:
        """Raise the rate for a delivered call, if it is the pace that limits the calls."""
        if self._taken > self._burst:
            self._window += 1
        if not self._waited:
            return
        self._waited = False
        self._paced += 1
        before, outdated = self.rate, _RISEN * self._measured
        faster = 1 + (self._paced / self._cycle()) ** 3
        self.rate = min(self._quota, self._measured * faster)
        if before < outdated <= self.rate:
            self._refill = RefillRate(now - self._idle, self._taken)

    def _measure(self, now: float) -> None:
        """Learn what flows into the service's bucket, which is empty, and rest."""
        at, window = now - self._idle, self._cycle()
        flows_in = self._refill.bucket_was_empty(at, self._taken, window=window)
        self._measured = max(_SLOWEST, flows_in)
        self._paced = 0
        self.rate = min(self._quota, self._measured)
        self._tokens = 1 - _REST

    def _cycle(self) -> float:
        """Return by how many calls without a throttle the rate doubles."""
        share = min(1.0, math.sqrt(self._measured / _FAST))
        return _CYCLE * share + _LAG * self._in_flight


class RefillRate:
    """
    How fast the service's bucket refills, measured between the times when it was empty.

    What it gave since it was empty before is what flowed in, however deep it is. So this remembers
    when it was empty, and how many calls it had let through by then.
    """

    def __init__(self, at: float, calls: int) -> None:
        """
        Measure from *at* on, by which *calls* had been let through.

        Where there were any, it is unknown how full the bucket was then, so the first rate may come
        out too high.
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
