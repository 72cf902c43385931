"""
How many calls a second, and what a throttle changes: one controller for all that a client sends.

The service holds a token bucket of unknown depth. Whenever it throttles, the bucket is empty; so
what it took between two throttles is what flowed in, whatever the depth, and the rate is measured
and not guessed. Before the first throttle, calls in flight double each round trip if no quota was
told; with a quota told, calls are spaced at it after a rested account's burst. After a throttle
calls are spaced at the measured rate, and now and then one goes after half the space: if it is
taken, there is more to be had, and the pace quickens until the next throttle measures again. A told
quota is never exceeded.

A run of failures means that the service is ill: then calls probe, one at a time and further and
further apart, until one is delivered. The pacer only ever delays; it imports no clock and sleeps
nowhere.
"""

import math
from collections import deque
from enum import Enum, auto
from random import Random
from typing import Final, Protocol

_TOLD_SHARE: Final = 0.98
"""The share of a told quota that is used, so that calls which bunch are not throttled."""
_LEAST_TOLD_SHARE: Final = 0.955
"""The share that it goes down to where they bunch so much that they are all the same."""
_TOLD_STEP: Final = 0.005
_TOLD_HOLDS: Final = 0.9
"""The share of the told quota that, if it was delivered, shows that nobody else uses it."""
_FEW: Final = 10
"""Deliveries from which a told quota is not doubted yet."""
_MEASURED_SHARE: Final = 0.985
_FIRST_WINDOW: Final = 4
_FIRST_GAP: Final = 0.004
"""Seconds until the first call after the first throttle, when nothing is measured yet."""
_LONGER: Final = 1.6
"""How much longer each next gap is while nothing is measured yet."""
_QUICKER: Final = 1.6
"""How much the pace quickens with each early call that is taken."""
_STREAK: Final = 2
"""Early calls in a row that must be taken: one may live on what earlier ones left over."""
_PROBE_EVERY: Final = 1.4
"""Seconds between early calls while they are throttled."""
_WINDOW: Final = 16
"""Deliveries over which the rate is measured, where there were so many."""
_LATENESS: Final = 1.5
"""The burst after a throttle: so much that a late timer costs no rate."""
_SLOWEST: Final = 0.2
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
            random: Where the jitter of pauses comes from.
        """
        self._told = math.inf if calls_per_second is None else calls_per_second
        self.rate = self._told * _TOLD_SHARE
        self._burst = burst
        self._random = random or Random()
        self._window = _FIRST_WINDOW if math.isinf(self._told) else math.inf
        self._next = -math.inf  # when the next call is due
        self._starts: deque[float] = deque()  # of the calls in flight, taken to end in order
        self._empties: deque[tuple[float, int]] = deque()  # when it throttled, and taken so far
        self._count = 0  # calls taken
        self._searching = False  # nothing was taken since the first throttle
        self._told_share = _TOLD_SHARE
        self._streak = 0  # early calls taken since the last throttle
        self._throttled_at = -math.inf
        self._probe_at = math.inf  # when the next early call is due
        self._probing = math.inf  # when the call started whose taking would quicken the pace
        self._failures = 0
        self._ill_until = -math.inf

    def start(self, now: float) -> float:
        """Let a call go, or say how long to wait; see Pacer."""
        if now < self._ill_until:
            return self._ill_until - now
        if len(self._starts) >= self._window or (self._failures >= _ILL and self._starts):
            return math.inf
        if math.isfinite(self.rate):
            gap = 1 / self.rate
            early = now >= self._probe_at and not math.isinf(self._throttled_at)
            due = self._next - (gap / 2 if early else 0.0)
            if due > now:
                return due - now
            if early:
                self._probe_at = now + _PROBE_EVERY
                self._probing = now
            # Lateness is made up for, but leave that was not used is kept for one burst at most.
            self._next = max(self._next, now - (self._burst - 1) * gap) + gap
        self._starts.append(now)
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Learn from how a call ended; see Pacer."""
        started = self._starts.popleft() if self._starts else now
        arrived = (started + now) / 2
        match how:
            case CallEnd.DELIVERED:
                self._heal()
                self._on_taken(now, started, arrived)
            case CallEnd.THROTTLED:
                self._heal()
                self._on_throttled(now, started, arrived)
                if retry_after:
                    self._next = max(self._next, now + min(retry_after, _MOST_HINT))
            case CallEnd.FAILED:
                self._failures += 1
                if self._failures >= _ILL:
                    bound = min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(self._failures - _ILL, 10))
                    self._ill_until = now + bound * (0.5 + self._random.random() / 2)
            case CallEnd.ABANDONED:
                if math.isfinite(self.rate):
                    self._next -= 1 / self.rate

    def _heal(self) -> None:
        self._failures = 0
        self._ill_until = -math.inf

    def _on_taken(self, now: float, started: float, arrived: float) -> None:
        self._count += 1
        if math.isinf(self.rate):
            self._window += 1  # doubles in a round trip
        elif self._searching:
            self._searching = False
            self._set(1 / max(_FIRST_GAP, arrived - self._empties[-1][0]))
            self._quicken_from(now)
        elif started >= self._probing:
            self._streak += 1
            if self._streak >= _STREAK:
                self._set(self.rate * _QUICKER)
            self._quicken_from(now)

    def _quicken_from(self, now: float) -> None:
        """Let the next call be an early one, and quicken again if that is taken."""
        if self.rate < self._told * self._told_share:
            self._probe_at = now
        self._probing = math.inf

    def _on_throttled(self, now: float, started: float, arrived: float) -> None:
        if started <= self._throttled_at:
            return  # it was on its way when the bucket was found empty
        first = math.isinf(self._throttled_at)
        self._throttled_at = now
        self._burst = _LATENESS
        self._window = math.inf
        self._probing = math.inf
        self._streak = 0
        self._probe_at = now + _PROBE_EVERY
        if self._searching or first:
            self._search(started, arrived)
            return
        self._empties.append((arrived, self._count))
        measured = self._measured()
        few = self._count - self._empties[0][1] < _FEW
        if math.isfinite(self._told) and (few or measured >= _TOLD_HOLDS * self._told):
            self._told_share = max(_LEAST_TOLD_SHARE, self._told_share - _TOLD_STEP)
            self._set(self._told)
            self._probe_at = math.inf
            return
        self._set(measured * _MEASURED_SHARE)
        self._next = max(now, started + 1 / self.rate)

    def _search(self, started: float, arrived: float) -> None:
        """The bucket is empty, its rate unknown: wait longer each time, until a call is taken."""
        if not self._empties:
            self._empties.append((arrived, self._count))
        if math.isfinite(self._told):
            self._set(self._told)
            return
        self._searching = True
        gap = max(_FIRST_GAP, (arrived - self._empties[0][0]) * (_LONGER - 1))
        self._set(1 / gap)
        self._probe_at = math.inf
        self._next = started + gap

    def _measured(self) -> float:
        """What flowed in between the latest throttle and one not long before, a second."""
        end, count = self._empties[-1]
        while len(self._empties) > 2 and count - self._empties[1][1] >= _WINDOW:
            self._empties.popleft()
        begin, before = self._empties[0]
        return max(1, count - before) / max(1e-3, end - begin)

    def _set(self, rate: float) -> None:
        self.rate = max(_SLOWEST, min(rate, self._told * self._told_share))
