"""
How many calls a second, and what a throttle changes: one controller for all that a client sends.

With a quota told, calls are spaced at it, after a burst that a rested account may make. With none
told, the calls in flight double each round trip until the first throttle. From then on the rate is
learnt: a throttle cuts it below what was delivered lately, once for all calls that were on their
way, and deliveries raise it again, quickly while it is far below the last ceiling and slowly near
it. A run of failures means that the service is ill: then a few calls probe, further and further
apart, until one is delivered. The pacer only ever delays; it imports no clock and sleeps nowhere.
"""

import math
from collections import deque
from enum import Enum, auto
from random import Random
from typing import Final, Protocol

MARGIN: Final = 0.98
"""The share of a told quota that is used: calls that arrive bunched must not be throttled."""

_FIRST_WINDOW: Final = 4
_CUT: Final = 0.92
_SLOWEST: Final = 0.5
_NEAR: Final = 0.9
"""The share of the last ceiling from which on the rate creeps, where it climbed before."""
_CREEP: Final = 0.06
"""Growth a second, close to the last ceiling."""
_CLIMB: Final = 0.5
"""Growth a second, far below it."""
_LONGEST_STEP: Final = 0.5
"""Seconds of growth that one delivery brings at most: a rest proves nothing."""
_EPOCH: Final = 0.25
"""Seconds after a cut in which further throttles are of calls that were on their way."""
_MEASURED: Final = 2.0
"""Seconds over which deliveries are counted."""
_ILL: Final = 8
"""Failures in a row after which the service is taken to be ill."""
_LONGEST_PAUSE: Final = 20.0
_MOST_HINT: Final = 5.0
"""Seconds of a server's hint that are believed."""


class CallEnd(Enum):
    """How a call ended, as far as the quota and the service's health are concerned."""

    DELIVERED = auto()
    """The service dealt with it, be it with a refusal; it spent quota."""
    THROTTLED = auto()
    """Refused for the quota."""
    FAILED = auto()
    """A 5xx or no answer: it says nothing about the quota."""
    ABANDONED = auto()
    """Never sent: its leave is given back."""


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
        """Say that a call which was let go has ended; *retry_after* is the service's hint."""
        ...


class AdaptivePacer:
    """
    The pacer of every client; one may be shared by several, so that they share a quota.

    Attributes:
        rate: Calls a second that it lets go now; infinite before the first throttle if no quota
            was told.
    """

    def __init__(
        self,
        calls_per_second: float | None,
        *,
        burst: float = 10.0,
        random: Random | None = None,
    ) -> None:
        """
        Begin rested.

        Args:
            calls_per_second: The quota; None if it is to be found.
            burst: Calls that a rested account may make at once.
            random: Where the jitter of probes comes from.
        """
        told = calls_per_second is not None
        self._most = calls_per_second * MARGIN if calls_per_second is not None else math.inf
        self.rate = self._most
        self._burst = burst if told else 1.0
        self._random = random or Random()
        self._next = -math.inf  # when the next call is due if none is ever early
        self._window = math.inf if told else _FIRST_WINDOW  # most calls in flight
        self._in_flight = 0
        self._ceiling = math.inf  # the rate at the last throttle
        self._cut_at = -math.inf
        self._grown_at = -math.inf
        self._delivered: deque[float] = deque()
        self._failures = 0
        self._healthy_at = -math.inf  # no call before, while the service is ill

    def start(self, now: float) -> float:
        """Let a call go, or say how long to wait; see Pacer."""
        if now < self._healthy_at:
            return self._healthy_at - now
        if self._in_flight >= self._window or (self._failures >= _ILL and self._in_flight):
            return math.inf
        if math.isfinite(self.rate):
            rested = now - self._burst / self.rate  # as far back as unused leave is kept
            due = max(self._next, rested)
            if due > now:
                return due - now
            self._next = due + 1 / self.rate
        self._in_flight += 1
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Learn from how a call ended; see Pacer."""
        self._in_flight = max(0, self._in_flight - 1)
        match how:
            case CallEnd.DELIVERED:
                self._failures = 0
                self._healthy_at = -math.inf
                self._on_delivered(now)
            case CallEnd.THROTTLED:
                self._failures = 0
                self._on_throttled(now, retry_after)
            case CallEnd.FAILED:
                self._failures += 1
                if self._failures >= _ILL:
                    bound = min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(self._failures - _ILL, 10))
                    self._healthy_at = now + bound * (0.5 + self._random.random() / 2)
            case CallEnd.ABANDONED:
                if math.isfinite(self.rate):
                    self._next -= 1 / self.rate

    def _on_delivered(self, now: float) -> None:
        self._delivered.append(now)
        while self._delivered[0] < now - _MEASURED:
            self._delivered.popleft()
        if math.isinf(self.rate):
            self._window += 1  # doubles the window in a round trip
        elif self.rate < self._most:
            passed = min(now - self._grown_at, _LONGEST_STEP)
            near = self.rate > _NEAR * self._ceiling
            self.rate = min(self._most, self.rate * (1 + passed * (_CREEP if near else _CLIMB)))
        self._grown_at = now

    def _on_throttled(self, now: float, retry_after: float | None) -> None:
        if now - self._cut_at >= _EPOCH:
            measured = self._measured(now)
            self._ceiling = self.rate if math.isfinite(self.rate) else measured
            self.rate = max(_SLOWEST, min(self._ceiling * _CUT, self._most))
            if measured < self.rate / 2:
                self.rate = max(_SLOWEST, measured)
            self._cut_at = now
            self._window = math.inf
        pause = min(retry_after or 0.0, _MOST_HINT)
        self._next = max(self._next, now + max(pause, 1 / self.rate))

    def _measured(self, now: float) -> float:
        """Deliveries a second, lately; a burst at the very start counts as a second's."""
        recent = [moment for moment in self._delivered if moment >= now - _MEASURED]
        if not recent:
            return 1.0
        return max(1.0, len(recent) / max(1.0, now - recent[0]))
