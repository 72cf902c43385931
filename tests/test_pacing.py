"""Pacing: a quota is held, an unknown one is found, and an ill service is not hammered."""

import math
from collections.abc import Callable
from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.quota import Bucket, Rates, Sender, ideal, simulate, stepping

from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd


def constant(rate: float) -> Callable[[float], float]:
    return lambda now: rate


@given(
    st.floats(0.1, 500),
    st.floats(1, 50),
    st.lists(st.tuples(st.floats(0, 2), st.sampled_from(CallEnd)), max_size=120),
)
def test_a_told_quota_is_never_exceeded(
    rate: float, burst: float, steps: list[tuple[float, CallEnd]]
) -> None:
    """
    In any window no more calls start than the burst and the rate allow, whatever the ends are.
    """
    pacer = AdaptivePacer(rate, burst=burst, random=Random(0))
    now, starts, in_flight = 0.0, [], 0
    for pause, how in steps:
        now += pause
        if pacer.start(now) <= 0:
            in_flight += 1
            if how is not CallEnd.ABANDONED:
                starts.append(now)
            pacer.end(now, how)

    for index, begin in enumerate(starts):
        for end_index in range(index, len(starts)):
            window = starts[end_index] - begin
            assert end_index - index + 1 <= burst + 1 + rate * window + 1e-6


@given(
    st.one_of(st.none(), st.floats(0.5, 100)),
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from(CallEnd)), max_size=60),
)
def test_nobody_waits_for_ever(rate: float | None, steps: list[tuple[float, CallEnd]]) -> None:
    """
    With nothing in flight a call may start after a bounded time, whatever went before.
    """
    pacer = AdaptivePacer(rate, random=Random(1))
    now = 0.0
    for pause, how in steps:
        now += pause
        if pacer.start(now) <= 0:
            pacer.end(now, how)

    waited = 0.0
    while (wait := pacer.start(now)) > 0:
        assert math.isfinite(wait)
        now += wait
        waited += wait
    assert waited <= 30


def test_leave_that_is_not_used_is_given_back() -> None:
    """
    An abandoned call costs nothing. Covers: C02
    """
    pacer = AdaptivePacer(10.0, burst=1.0)
    for _ in range(50):
        assert pacer.start(0.0) <= 0
        pacer.end(0.0, CallEnd.ABANDONED)

    assert pacer.start(0.0) <= 0
    assert pacer.start(0.0) > 0


SCENARIOS: list[tuple[str, float | None, Rates, int, float, float, int, float, float]] = [
    # name, told, rates, calls, depth, round trip, senders, then the most time to ideal and
    # throttles for each call: means of several seeds
    ("known, near", 10.0, [(0, 10)], 400, 10, 0.005, 1, 1.05, 0.05),
    ("known", 10.0, [(0, 10)], 400, 10, 0.02, 1, 1.05, 0.05),
    ("known, far", 10.0, [(0, 10)], 400, 10, 0.1, 1, 1.05, 0.05),
    ("known, shallow", 10.0, [(0, 10)], 400, 1, 0.02, 1, 1.05, 0.05),
    ("known, shallow, far", 10.0, [(0, 10)], 400, 1, 0.1, 1, 1.7, 0.18),
    ("unknown 10, near", None, [(0, 10)], 400, 10, 0.005, 1, 1.08, 0.15),
    ("unknown 10", None, [(0, 10)], 400, 10, 0.02, 1, 1.08, 0.15),
    ("unknown 10, far", None, [(0, 10)], 400, 10, 0.1, 1, 1.08, 0.15),
    ("unknown 10, shallow", None, [(0, 10)], 400, 1, 0.02, 1, 1.4, 0.15),
    ("unknown 50, near", None, [(0, 50)], 400, 10, 0.005, 1, 1.08, 0.12),
    ("unknown 50", None, [(0, 50)], 400, 10, 0.02, 1, 1.08, 0.12),
    ("unknown 200, near", None, [(0, 200)], 400, 10, 0.005, 1, 1.08, 0.12),
    ("unknown 200", None, [(0, 200)], 400, 10, 0.02, 1, 1.08, 0.12),
    ("unknown 200, long", None, [(0, 200)], 2000, 10, 0.02, 1, 1.08, 0.12),
    ("falls", None, [(0, 50), (3, 10)], 300, 10, 0.02, 1, 1.08, 0.15),
    ("rises", None, [(0, 10), (10, 50)], 400, 10, 0.02, 1, 1.08, 0.15),
    ("falls, rises", None, [(0, 50), (3, 10), (9, 50)], 400, 10, 0.02, 1, 1.08, 0.12),
    ("falls, rises, near", None, [(0, 50), (3, 10), (9, 50)], 400, 10, 0.005, 1, 1.08, 0.12),
    ("rises, falls", None, [(0, 50), (3, 200), (6, 50)], 1000, 10, 0.02, 1, 1.1, 0.12),
    ("two, known", 10.0, [(0, 10)], 400, 10, 0.02, 2, 1.08, 0.15),
    ("four, known", 10.0, [(0, 10)], 400, 10, 0.02, 4, 1.08, 0.42),
    ("two, unknown 10", None, [(0, 10)], 400, 10, 0.02, 2, 1.08, 0.16),
    ("two, unknown 50", None, [(0, 50)], 800, 10, 0.02, 2, 1.15, 0.12),
]


@pytest.mark.parametrize(
    ("told", "rates", "calls", "depth", "trip", "count", "time", "throttles"),
    [pytest.param(*row[1:], id=row[0]) for row in SCENARIOS],
)
def test_a_quota_is_used_up_with_few_throttles(  # noqa: PLR0917 - a row of the table
    told: float | None,
    rates: Rates,
    calls: int,
    depth: float,
    trip: float,
    count: int,
    time: float,
    throttles: float,
) -> None:
    """
    Known or not, steady or not, alone or not: close to the ideal time. Covers: T06
    """
    seconds, throttled = [], []
    for seed in range(6):
        senders = [
            Sender(AdaptivePacer(told, random=Random(seed * 10 + n)), calls // count, rtt=trip)
            for n in range(count)
        ]
        seconds.append(simulate(senders, Bucket(stepping(rates), depth), seed=seed))
        throttled.append(sum(sender.throttled for sender in senders))
        assert calls == sum(sender.delivered for sender in senders)

    assert mean(seconds) <= time * ideal(rates, calls, depth)
    assert mean(throttled) <= throttles * calls


@settings(max_examples=examples(30))
@given(
    st.floats(3, 300),
    st.floats(5, 100),
    st.floats(0.002, 0.05),
    st.integers(0, 2**16),
)
def test_any_unknown_quota_is_found(rate: float, depth: float, trip: float, seed: int) -> None:
    """
    Whatever the rate, the depth and the round trip: within the time, and a budget of throttles.
    """
    sender = Sender(AdaptivePacer(None, random=Random(seed)), 400, rtt=trip)

    took = simulate([sender], Bucket(constant(rate), depth), seed=seed)

    assert 400 == sender.delivered
    assert took <= 1.15 * max(0, 400 - depth) / rate + 20 * trip + 1
    assert sender.throttled <= 0.13 * 400 + 2.5 * rate * trip + 25


def test_a_told_quota_that_others_use_up_is_doubted_soon() -> None:
    """
    Who gets hardly anything through of a told quota asks for less within a second or two.
    """
    pacer = AdaptivePacer(10.0, random=Random(0))
    now, throttled = 0.0, 0
    while now < 3:
        now += max(0.0, pacer.start(now))
        if pacer.start(now) <= 0:
            pacer.end(now + 0.005, CallEnd.THROTTLED)
            throttled += 1

    assert pacer.rate < 5
    assert throttled <= 10 + 10 + 4  # the burst, a second at the told rate, and then hardly any


def test_a_pace_that_is_not_used_does_not_grow() -> None:
    """
    Calls that come more slowly than they may say nothing about what more there would be.
    """
    pacer = AdaptivePacer(None, random=Random(0))
    sender = Sender(pacer, 400)
    end = simulate([sender], Bucket(constant(10), 10))
    before = pacer.rate

    for second in range(600):
        assert pacer.start(end + 10 + second) <= 0
        pacer.end(end + 10 + second + 0.02, CallEnd.DELIVERED)

    assert pacer.rate <= 1.5 * before


def test_no_quota_is_no_brake() -> None:
    """
    Nothing is throttled, and only the number of workers limits.
    """
    sender = Sender(AdaptivePacer(None), 4000)

    took = simulate([sender], Bucket(constant(1e9), 1e9))

    assert 0 == sender.throttled
    assert took <= 1.05 * 4000 / 32 * 0.02


def test_one_pacer_for_two_clients_keeps_the_quota() -> None:
    """
    Shared, it lets no more go than one would. Covers: T06
    """
    shared = AdaptivePacer(10.0)
    senders = [Sender(shared, 200), Sender(shared, 200)]

    took = simulate(senders, Bucket(constant(10), 10))

    assert took <= 1.05 * 39
    assert sum(sender.throttled for sender in senders) <= 0.05 * 400


def test_scattered_failures_do_not_slow_down() -> None:
    """
    One call in ten fails: the time grows by little more than the calls do.
    """
    sender = Sender(AdaptivePacer(10.0), 400, fails=0.1)

    took = simulate([sender], Bucket(constant(10), 10))

    assert took <= 1.05 * 39 / 0.9 * 1.05


def test_an_outage_is_probed_and_not_hammered() -> None:
    """
    A minute without answers costs few calls, and sending goes on soon after. Covers: S21, T03
    """
    pacer = AdaptivePacer(50.0, random=Random(4))
    failed = 0
    end = pacer.end

    def counting(now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        nonlocal failed
        failed += how is CallEnd.FAILED
        end(now, how, retry_after=retry_after)

    pacer.end = counting  # type: ignore[method-assign]
    sender = Sender(pacer, 2000)

    took = simulate([sender], Bucket(constant(50), 10), outage=(5, 65))

    assert took <= 2000 / 50 + 60 + 22
    assert failed <= 40
    assert 2000 == sender.delivered


@pytest.mark.parametrize(("hint", "pause"), [(2.0, 2.0), (900.0, 5.0), (0.0, 0.0)])
def test_hints_of_the_service_are_honoured(hint: float, pause: float) -> None:
    """
    Within five seconds. Covers: T02
    """
    pacer = AdaptivePacer(10.0)
    pacer.start(0.0)
    pacer.end(0.1, CallEnd.THROTTLED, retry_after=hint)

    assert pacer.start(0.1) >= pause - 1e-9
    assert pacer.start(0.1 + pause + 0.2) <= 0
