"""
Holds the pacer to its figures, over many more seeds, quotas and minutes than the tests do.

    python tests/campaigns/pacing.py --seeds 200

All of it is virtual time: a token bucket, and senders that never run out of calls. Besides the
cases below, each seed draws one of its own; where several share a quota, they do so for ten minutes
too, and each gets at least a tenth of its fair share. A figure that is missed ends it, with case
and seed.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from attrs import evolve, frozen
from support.quota import Bucket, Sender, Shares, compete, ideal, simulate

from marketplace_metering_async.flow.pacing import AdaptivePacer


@frozen
class Case:
    """
    A quota and those who send.

    Attributes:
        configured: What each sender believes of it, in calls a second; None: nothing.
        rate: What it is.
        most: Throttles a delivered call, at most.
        senders: How many there are, each of which knows of no other.
        round_trip: Seconds.
        depth: Tokens in the full bucket.
        calls: Calls to deliver; 0: without an end.
    """

    name: str
    configured: float | None
    rate: float
    most: float
    senders: int = 1
    round_trip: float = 0.02
    depth: float = 10.0
    calls: int = 0

    def pacers(self, seed: int) -> list[AdaptivePacer]:
        """Return one for each sender."""
        randoms = [Random(seed * 100 + number) for number in range(self.senders)]
        return [AdaptivePacer(self.configured, random=each) for each in randoms]


WRONG_OR_SHARED: Final = (
    Case("ten times too high", 100.0, 10.0, 0.2),
    Case("ten times too high, near", 100.0, 10.0, 0.2, round_trip=0.005),
    Case("ten times too high, far", 100.0, 10.0, 0.2, round_trip=0.1),
    Case("ten times too high, deep", 100.0, 10.0, 0.2, depth=50),
    Case("ten times too high, 50", 500.0, 50.0, 0.2),
    Case("a hundred times too high", 1000.0, 10.0, 0.2),
    Case("a hundred times too high, far", 1000.0, 10.0, 0.2, round_trip=0.1),
    Case("five, right for one", 10.0, 10.0, 0.2, senders=5),
    Case("five, right for one, far", 10.0, 10.0, 0.2, senders=5, round_trip=0.1),
    Case("five, right for one, 50", 50.0, 50.0, 0.2, senders=5),
    Case("five, not configured", None, 10.0, 0.2, senders=5),
    Case("ten, right for one", 10.0, 10.0, 0.5, senders=10),
    Case("twenty, right for one", 10.0, 10.0, 0.5, senders=20),
    Case("twenty, right for one, far", 10.0, 10.0, 0.5, senders=20, round_trip=0.1),
    Case("twenty, right for one, 50", 50.0, 50.0, 0.5, senders=20),
    Case("twenty, ten times too high", 100.0, 10.0, 0.5, senders=20),
)
"""A quota that is configured too high, or of which each of several senders wants all."""

NOT_CONFIGURED: Final = (
    Case("10", None, 10.0, 0.15, calls=150),
    Case("10, far", None, 10.0, 0.15, calls=150, round_trip=0.1),
    Case("50", None, 50.0, 0.12, calls=500),
    Case("50, far", None, 50.0, 0.12, calls=500, round_trip=0.05),
)
"""A quota that has to be found."""


def check_given_up(case: Case, seed: int, *, minutes: float = 1) -> Shares:
    """
    Require that, from ten seconds on, nine tenths of the quota are used with few throttles.

    Raises:
        AssertionError: if not.
    """
    shares = compete(
        case.pacers(seed),
        case.rate,
        depth=case.depth,
        round_trip=case.round_trip,
        seed=seed,
        until=10 + 60 * minutes,
    )
    assert shares.used >= 0.9, (case, seed, shares)
    assert shares.throttled <= case.most, (case, seed, shares)
    return shares


def check_found(case: Case, seed: int) -> tuple[float, float]:
    """
    Require that it is found soon and with few throttles; return the time to ideal, and those.

    Raises:
        AssertionError: if not.
    """
    sender = Sender(case.pacers(seed)[0], case.calls, rtt=case.round_trip)
    seconds = simulate([sender], Bucket(lambda now: case.rate, case.depth), seed=seed)
    time = seconds / ideal([(0, case.rate)], case.calls, case.depth)
    throttled = sender.throttled / case.calls
    assert case.calls == sender.delivered, (case, seed)
    assert time <= 1.08, (case, seed, time)
    assert throttled <= case.most, (case, seed, throttled)
    return time, throttled


def drawn(seed: int) -> Case:
    """Return a case that nobody thought of."""
    draw = Random(seed)
    senders = draw.choice([1, 1, 2, 3, 5, 10, 20])
    rate = max(10.0, senders / 2) * 2 ** draw.uniform(0, 4)
    trip = min(draw.choice([0.002, 0.01, 0.03, 0.1]), 5 / rate)
    configured = draw.choice([None, rate, 3 * rate, 10 * rate, 100 * rate])
    return Case(
        "drawn",
        configured,
        rate,
        0.2 if senders <= 5 else 0.5,
        senders=senders,
        round_trip=trip,
        depth=draw.uniform(5, 30),
    )


def rounds(seed: int) -> Iterator[str]:
    """Check all cases with *seed*, and yield a line for each."""
    for case in NOT_CONFIGURED:
        time, throttled = check_found(case, seed)
        yield f"{case.name}: {time:.3f} of the ideal time, {throttled:.3f} throttles a call"
    for case in (*WRONG_OR_SHARED, drawn(seed)):
        shares = check_given_up(case, seed)
        yield f"{case.name}: {shares}"
        if case.senders > 1:
            shares = check_given_up(evolve(case, name=f"{case.name}, long"), seed, minutes=10)
            assert shares.least >= 0.1, (case, seed, shares)
            yield f"{case.name}, ten minutes: {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold the pacer to its figures.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    for seed in range(given.seed, given.seed + given.seeds):
        sys.stdout.write(f"seed {seed}\n")
        for line in rounds(seed):
            sys.stdout.write(f"  {line}\n")


if __name__ == "__main__":
    main()
