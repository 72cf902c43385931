"""Pacing: a quota is held, an unknown one is found, and an ill service is not hammered."""

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.quota import Bucket, Sender, simulate

from marketplace_metering_async.pacing import AdaptivePacer, CallEnd


def constant(rate: float) -> Callable[[float], float]:
    return lambda now: rate


@given(
    st.floats(0.5, 500),
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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rtt", [0.005, 0.02, 0.1])
def test_a_known_quota_is_used_and_not_exceeded(rtt: float, seed: int) -> None:
    """
    Ten calls a second: at most 1.05 of the ideal time, at most 0.05 throttles a call. Covers: T06
    """
    sender = Sender(AdaptivePacer(10.0, random=Random(seed)), 400, rtt=rtt)

    took = simulate([sender], Bucket(constant(10), 10), seed=seed)

    assert took <= 1.05 * 39
    assert sender.throttled <= 0.05 * 400
    assert 400 == sender.delivered


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rate", "calls"), [(10.0, 400), (50.0, 400), (200.0, 4000)])
def test_an_unknown_quota_is_found(rate: float, calls: int, seed: int) -> None:
    """
    Close to the ideal time, with few throttles, and nothing is lost.
    """
    sender = Sender(AdaptivePacer(None, random=Random(seed)), calls)

    took = simulate([sender], Bucket(constant(rate), 10), seed=seed)

    assert took <= 1.08 * (calls - 10) / rate
    assert sender.throttled <= 0.17 * calls
    assert calls == sender.delivered


@pytest.mark.parametrize("seed", range(3))
def test_a_quota_that_falls_and_rises_is_followed(seed: int) -> None:
    """
    50, then 10, then 50 calls a second: everything is delivered, not far from the ideal time.
    """
    sender = Sender(AdaptivePacer(None, random=Random(seed)), 600)

    took = simulate([sender], Bucket(lambda now: 10.0 if 4 <= now <= 14 else 50.0, 10), seed=seed)

    assert took <= 1.2 * 19.8
    assert 600 == sender.delivered


def test_no_quota_is_no_brake() -> None:
    """
    Nothing is throttled, and only the number of workers limits.
    """
    sender = Sender(AdaptivePacer(None), 4000)

    took = simulate([sender], Bucket(constant(1e9), 1e9))

    assert 0 == sender.throttled
    assert took <= 1.05 * 4000 / 32 * 0.02


def test_two_senders_share_a_quota() -> None:
    """
    Each told the whole of it: both end, and together they use it. Covers: T06
    """
    senders = [Sender(AdaptivePacer(10.0, random=Random(n)), 200) for n in range(2)]

    took = simulate(senders, Bucket(constant(10), 10))

    assert took <= 1.15 * 39
    assert [200, 200] == [sender.delivered for sender in senders]


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
