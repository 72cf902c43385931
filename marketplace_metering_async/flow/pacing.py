"""
How many calls a second, and what a throttle changes: one controller for all that a client sends.

The service holds a token bucket of unknown depth. Whenever it throttles, the bucket is empty; so
what it took between two throttles is what flowed in, whatever the depth, and the rate is measured
and not guessed. Before the first throttle, calls in flight double each round trip if no quota was
told; with a quota told, calls are spaced at it after a rested account's burst.

After a throttle the bucket is left alone until a few tokens are in it, and then calls are sent so
much faster than they flow in that it is empty again after a number of calls: the cycle. So the
quota is used up and measured over and over, and the length of the cycle is the price of that: it is
chosen to keep to a budget of throttles for each call delivered. A quota that falls shows in
throttles that follow too soon, one that rises in a throttle that fails to come; then the pace
quickens with each call taken, until one does. A told quota is never exceeded.

A run of failures means that the service is ill: then calls probe, one at a time and further and
further apart, until one is delivered. The pacer only ever delays; it imports no clock and sleeps
nowhere.
"""

import math
from collections import deque
from enum import Enum, auto
from random import Random
from typing import Final, Protocol

from marketplace_metering_async.flow.refill_rate import Inflow

_TOLD_SHARE: Final = 0.98
"""The share of a told quota that is used, so that calls which bunch are not throttled."""
_SHALLOW_SHARE: Final = 0.96
"""The share that it goes down to where they are throttled all the same: the bucket is shallow."""
_TOLD_STEP: Final = 0.005
_TOLD_HOLDS: Final = 0.88
"""The share of the told quota that, if it was delivered, shows that nobody else uses it."""
_DOUBT: Final = 5
"""Deliveries after the first throttle, or twice their time, from which a told quota is doubted."""
_WELL: Final = 6
"""Deliveries by which a rate is known well."""
_WELL_TRIPS: Final = 2
"""Round trips that they take: what was on the wire when the bucket ran dry tells nothing."""
_FIRST_WINDOW: Final = 4
_FIRST_GAP: Final = 0.004
"""Seconds between calls that the first throttle is taken to mean, when nothing is measured yet."""
_BUDGET: Final = 0.09
"""Throttles for each call delivered."""
_REPAY: Final = 0.25
"""How much a cycle is longer for each throttle above the budget."""
_LONGEST: Final = 18
"""Calls of the longest cycle: a rise of the quota shows no sooner."""
_LONGEST_TRIPS: Final = 7
"""Or so often those on the wire, where that is more: then more are throttled at once."""
_DEPTH: Final = 3.5
"""Tokens to gather after a throttle; fewer where the bucket turns out to be shallow."""
_LEAST_DEPTH: Final = 0.5
_LONGEST_REST: Final = 1.0
"""Seconds that the bucket is left alone at most: one of several may have hardly any rate."""
_SHALLOW_CYCLE: Final = 0.15
"""The share of a cycle that shows the bucket to be shallow if it was empty again by then."""
_SHALLOWER: Final = 0.7
_DEEPER: Final = 0.5
_OVERDUE: Final = 1.5
"""Cycles without a throttle after which the quota is taken to have risen."""
_OVERDUE_SECONDS: Final = 2.0
"""Or so long, for one of several senders that gets too few calls through to wait for cycles."""
_OVERDUE_CALLS: Final = 35
"""Or as long as so many calls took at the rate that was had, where that is shorter."""
_OVERDUE_LEAST: Final = 0.3
_POOR: Final = 0.75
"""The share of the rate that was had, below which a sender does not wait for cycles."""
_QUICKEN: Final = 0.2
"""The share of the rate that each call taken adds, once a throttle is overdue."""
_QUICKEN_TRIP: Final = 0.6
"""The share that is added in a round trip at most, for a throttle is known only after one."""
_QUICKEN_CALLS: Final = 1.0
"""Calls a second that are added at least, so that a sender which has least comes back soon."""
_REGAIN: Final = 0.4
"""The share of a rate that was had not long ago, from which it is regained."""
_FOOTHOLD: Final = 0.15
"""The share of it that a sender keeps trying, whatever the others leave it."""
_FORGET: Final = 0.96
"""How much of such a rate is still believed after one more throttle."""
_TOLD_SURPLUS: Final = 0.1
"""The share of a told quota by which senders that share it try for more, whatever each has."""
_LATENESS: Final = 1.5
"""The burst after a throttle: so much that a late timer costs no rate."""
_LATE_SECONDS: Final = 0.05
"""Or what is due in so long, where that is more."""
_SLOWEST: Final = 0.5
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
        self._known = 0.0 if calls_per_second is None else calls_per_second
        self._told_share = _TOLD_SHARE
        self.rate = self._told * self._told_share
        self._burst = burst
        self._random = random or Random()
        self._window = _FIRST_WINDOW if math.isinf(self._told) else math.inf
        self._next = -math.inf  # when the next call is due
        self._starts: deque[float] = deque()  # of the calls in flight, taken to end in order
        self._taken = 0
        self._inflow = Inflow()
        self._debt = 0.0  # throttles above the budget
        self._cycle = 1 / _BUDGET
        self._depth = _DEPTH
        self._had = self._known  # the highest rate that was had not long ago
        self._quicken_by = 0.0
        self._held = False  # a call had to wait since one was taken: the pace is what limits
        self._doubt_from = (0, 0.0)  # a told quota is not doubted until so many calls, or so late
        self._failures = 0
        self._ill_until = -math.inf

    def start(self, now: float) -> float:
        """Let a call go, or say how long to wait; see Pacer."""
        if now < self._ill_until:
            return self._ill_until - now
        if len(self._starts) >= self._window or (self._failures >= _ILL and self._starts):
            return math.inf
        if math.isfinite(self.rate):
            if self._next > now:
                self._held = True
                return self._next - now
            gap = 1 / self.rate
            # Lateness is made up for, but leave that was not used is kept for one burst at most.
            self._next = max(self._next, now - (self._burst - 1) * gap) + gap
        self._starts.append(now)
        return 0.0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        """Learn from how a call ended; see Pacer."""
        started = self._starts.popleft() if self._starts else now
        match how:
            case CallEnd.DELIVERED:
                self._heal()
                self._on_taken(now)
            case CallEnd.THROTTLED:
                self._heal()
                self._on_throttled(now, (started + now) / 2)
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

    def _on_taken(self, now: float) -> None:
        self._taken += 1
        self._debt = max(-1.0, self._debt - _BUDGET)
        if math.isinf(self.rate):
            self._window += 1  # doubles in a round trip
        elif self._held and self._inflow.ever and self._overdue(now):
            self._held = False
            trip = _QUICKEN_TRIP / (1 + len(self._starts))
            step = self._quicken_by * min(_QUICKEN, trip)
            self._set(self.rate + max(step, min(self.rate, _QUICKEN_CALLS)))

    def _overdue(self, now: float) -> bool:
        """Tell whether the bucket should have been found empty by now, if its rate were the old."""
        if not self._inflow.known:
            return True
        calls = _OVERDUE * self._cycle
        seconds = 2 * calls / max(self._had, _SLOWEST)
        if self.rate < _POOR * self._had or not self._had:
            soon = max(_OVERDUE_LEAST, _OVERDUE_CALLS / max(self._had, _SLOWEST))
            seconds = min(seconds, _OVERDUE_SECONDS, soon)
        if self._taken - self._inflow.count <= calls and now - self._inflow.at <= seconds:
            return False
        self._inflow.forget()
        self._quicken_by = max(self.rate, _REGAIN * self._had)
        return True

    def _on_throttled(self, now: float, arrived: float) -> None:
        if not self._inflow.ever:
            self._doubt_from = (self._taken + _DOUBT, now + 2 * _DOUBT / max(self._known, _SLOWEST))
        self._window = math.inf
        self._debt += 1
        if self._inflow.known:
            self._sound(self._taken - self._inflow.count)
        self._inflow.found_empty(arrived, self._taken)
        rate, calls = self._inflow.rate()
        if math.isinf(rate):
            rate = 1 / _FIRST_GAP if math.isinf(self.rate) else self.rate
        else:
            trip = 2 * (now - arrived)
            well = calls >= _WELL and calls > _WELL_TRIPS * trip * rate
            had = rate if well else 0.0
            self._had = max(self._known, self._had * _FORGET, had)
        rate = max(rate, _SLOWEST, _FOOTHOLD * self._had)
        early = self._taken < self._doubt_from[0] and now < self._doubt_from[1]
        holds = early or rate >= _TOLD_HOLDS * self._told
        if self._known and holds:
            self._told_share = max(_SHALLOW_SHARE, self._told_share - _TOLD_STEP)
            self._set(self._told)
            self._burst = _LATENESS
            return
        paid = (1 + _REPAY * max(0.0, self._debt - 1)) / _BUDGET
        self._cycle = min(paid, max(_LONGEST, _LONGEST_TRIPS * len(self._starts)))
        surplus = max(rate * self._depth / (self._cycle - self._depth), _TOLD_SURPLUS * self._known)
        self._set(rate + surplus)
        pause = min(_LONGEST_REST, (_LEAST_DEPTH + self._depth) / rate)
        self._next = max(self._next, now, arrived + pause)
        self._burst = max(_LATENESS, _LATE_SECONDS * self.rate)

    def _sound(self, calls: int) -> None:
        """Learn how deep the bucket is from the *calls* that it took since it was empty."""
        if 0 < calls < _SHALLOW_CYCLE * self._cycle:
            self._depth *= _SHALLOWER
        elif calls:
            self._depth = min(_DEPTH, self._depth + _DEEPER)

    def _set(self, rate: float) -> None:
        self.rate = min(max(rate, _SLOWEST), self._told * self._told_share)
