"""A service with a quota, in virtual time, and senders that go by pacers."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random

from attrs import define, frozen

from marketplace_metering_async.flow.pacing import CallEnd, Pacer


@define
class Bucket:
    """A token bucket with a rate that may change over time."""

    rate: Callable[[float], float]
    burst: float
    tokens: float = 0.0
    since: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.tokens = self.burst

    def spend(self, now: float) -> bool:
        steps = 8  # the rate may change in between
        width = (now - self.since) / steps
        for step in range(steps):
            gained = width * self.rate(self.since + (step + 0.5) * width)
            self.tokens = min(self.burst, self.tokens + gained)
        self.since = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


Rates = Sequence[tuple[float, float]]
"""From which second on the quota allows which rate."""


def stepping(rates: Rates) -> Callable[[float], float]:
    """Return the rate as a function of time."""
    return lambda now: [rate for start, rate in rates if start <= now][-1]


def ideal(rates: Rates, calls: int, burst: float) -> float:
    """Return the seconds in which a bucket lets so many calls through that is never full again."""
    left, ends = calls - burst, [start for start, _ in rates[1:]] + [float("inf")]
    for (start, rate), end in zip(rates, ends, strict=True):
        if left <= (end - start) * rate:
            return start + left / rate
        left -= (end - start) * rate
    raise AssertionError("the last rate holds on")


@define
class Sender:
    """
    One client: a pacer, a number of calls to deliver, and so many at once.

    Attributes:
        fails: The share of calls that fail though they spent quota.
        fails_as: How they end.
        counted_from: From when on the following are counted.
        delivered: Calls that the service let through.
        throttled: Calls that it throttled.
    """

    pacer: Pacer
    calls: int
    workers: int = 32
    rtt: float = 0.02
    fails: float = 0.0
    fails_as: CallEnd = CallEnd.FAILED
    counted_from: float = 0.0
    to_start: int = 0
    left: int = 0
    delivered: int = 0
    throttled: int = 0
    asking: bool = False
    asleep_for_end: bool = False
    free: int = 0

    def __attrs_post_init__(self) -> None:
        self.to_start = self.left = self.calls
        self.free = self.workers


def simulate(  # noqa: PLR0915 - a little world in one place
    senders: Sequence[Sender],
    bucket: Bucket,
    *,
    seed: int = 0,
    lateness: float = 0.001,
    until: float = 3600.0,
    outage: tuple[float, float] | None = None,
) -> float:
    """Let all *senders* deliver through *bucket*; return when the last one was done."""
    random = Random(seed)
    order = count()
    heap: list[tuple[float, int, Callable[[float], None]]] = []

    def at(when: float, what: Callable[[float], None]) -> None:
        heappush(heap, (when, next(order), what))

    def ask(sender: Sender, now: float) -> None:
        while sender.free and sender.to_start:
            wait = sender.pacer.start(now)
            if wait == float("inf"):
                sender.asleep_for_end = True
                return
            if wait > 0:
                sender.asking = True
                at(now + wait + random.random() * lateness, lambda t: wake(sender, t))
                return
            sender.free -= 1
            sender.to_start -= 1
            trip = sender.rtt * (0.8 + 0.4 * random.random())
            at(now + trip / 2, lambda t, trip=trip: arrive(sender, t, trip))  # type: ignore[misc]

    def wake(sender: Sender, now: float) -> None:
        sender.asking = False
        ask(sender, now)

    def arrive(sender: Sender, now: float, trip: float) -> None:
        if outage is not None and outage[0] <= now < outage[1]:
            how = CallEnd.FAILED
        elif not bucket.spend(now):
            how = CallEnd.THROTTLED
        elif random.random() < sender.fails:
            how = sender.fails_as
        else:
            how = CallEnd.DELIVERED
        at(now + trip / 2, lambda t: end(sender, t, how))

    def end(sender: Sender, now: float, how: CallEnd) -> None:
        sender.pacer.end(now, how)
        sender.free += 1
        if now >= sender.counted_from:
            sender.delivered += how is CallEnd.DELIVERED
            sender.throttled += how is CallEnd.THROTTLED
        if how is CallEnd.DELIVERED:
            sender.left -= 1
        else:
            sender.to_start += 1
        for each in senders:
            if each is sender or each.asleep_for_end:
                each.asleep_for_end = False
                if not each.asking:
                    ask(each, now)

    for sender in senders:
        at(0.0, lambda t, sender=sender: ask(sender, t))  # type: ignore[misc]
    now = 0.0
    while heap and now < until:
        now, _, what = heappop(heap)
        what(now)
        if not any(sender.left for sender in senders):
            break
    return now


@frozen
class Shares:
    """
    How some senders that never run dry got on with a quota.

    Attributes:
        used: The share of the quota that was used.
        throttled: Throttles for each call delivered.
        least: What the last of them got, of what would be fair.
    """

    used: float
    throttled: float
    least: float


def compete(
    pacers: Sequence[Pacer],
    rate: float,
    *,
    depth: float = 10.0,
    round_trip: float = 0.02,
    seed: int = 0,
    begin: float = 10.0,
    until: float = 70.0,
) -> Shares:
    """Let senders of *pacers* compete for *rate*, and look from *begin* seconds on."""
    senders = [Sender(pacer, 10**9, rtt=round_trip, counted_from=begin) for pacer in pacers]
    simulate(senders, Bucket(lambda now: rate, depth), seed=seed, until=until)
    delivered = sum(sender.delivered for sender in senders)
    throttled = sum(sender.throttled for sender in senders)
    least = min(sender.delivered for sender in senders)
    return Shares(
        used=delivered / (rate * (until - begin)),
        throttled=throttled / max(1, delivered),
        least=least * len(senders) / max(1, delivered),
    )
