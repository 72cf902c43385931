"""RefillRate: what flows into a bucket, from the times when it was empty."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.flow.pacing import RefillRate

WINDOW = 20.0


def measured(rate: float, tokens: float, seed: int, calls: int = 400) -> list[float]:
    """
    Return the rate after each throttle by a bucket that refills at *rate* and holds *tokens* first.

    It never overflows; calls come at random, somewhat faster than it refills.
    """
    random = Random(seed)
    refill, now, taken, found = RefillRate(0.0, 0), 0.0, 0, list[float]()
    for _ in range(calls):
        pause = random.expovariate(1.3 * rate)
        now, tokens = now + pause, tokens + pause * rate
        if tokens >= 1:
            tokens, taken = tokens - 1, taken + 1
        else:
            found.append(refill.bucket_was_empty(now, taken, window=WINDOW))
    return found


@given(st.floats(0.5, 200), st.floats(0, 50), st.integers(0, 2**16))
def test_no_less_than_flows_in(rate: float, tokens: float, seed: int) -> None:
    """
    Since a time when it was empty, a bucket cannot have got more than it let through and one token.
    """
    assert all(found >= rate * (1 - 1e-9) for found in measured(rate, tokens, seed))


@given(st.floats(0.5, 200), st.floats(0, 50), st.integers(0, 2**16))
def test_hardly_more_once_it_was_empty_for_a_while(rate: float, tokens: float, seed: int) -> None:
    """
    Over the calls of a window, a token at each end is all that is not known.
    """
    most = rate * (WINDOW + 1) / (WINDOW - 1) * (1 + 1e-9)
    assert all(found <= most for found in measured(rate, tokens, seed)[40:])


@given(st.floats(2, 20), st.integers(0, 2**16))
def test_a_fall_shows_at_once(factor: float, seed: int) -> None:
    """
    What was measured before it is above what flowed in since, and does not count.
    """
    random = Random(seed)
    refill, now, taken = RefillRate(0.0, 0), 0.0, 0
    for rate in (10.0, 10.0 / factor):
        for _ in range(30):
            for _ in range(random.randint(1, 3)):
                now, taken = now + 1 / rate, taken + 1
            found = refill.bucket_was_empty(now, taken, window=WINDOW)

    assert 10 / factor <= found <= 1.1 * 10 / factor

    assert found > refill.bucket_was_empty(now + 2 * factor / 10, taken, window=WINDOW)


def test_what_is_older_than_a_window_is_forgotten() -> None:
    """
    So a rise shows by then.
    """
    refill, now, taken = RefillRate(0.0, 0), 0.0, 0
    rates = list[float]()
    for rate in (1.0, 10.0):
        for _ in range(30):
            now, taken = now + 1 / rate, taken + 1
            rates.append(refill.bucket_was_empty(now, taken, window=WINDOW))

    assert rates[29] == pytest.approx((WINDOW + 1) / WINDOW, rel=0.01)
    assert rates[30 + 20] == pytest.approx(10 * (WINDOW + 1) / WINDOW, rel=0.01)


def test_throttles_without_a_call_between_bound_the_rate() -> None:
    """
    Not one token flowed in: the longer that lasts, the less it can be, to no end.
    """
    refill = RefillRate(0.0, 0)

    rates = [refill.bucket_was_empty(float(now), 0, window=WINDOW) for now in range(1, 1000)]

    assert [1 / now for now in range(1, 1000)] == rates
    assert 1 == len(refill._times)  # nor does memory grow


def test_calls_are_counted_from_the_first_time() -> None:
    """
    Whatever was let through before.
    """
    refill = RefillRate(100.0, 50)

    assert 11 / 2 == refill.bucket_was_empty(102.0, 60, window=WINDOW)


def test_two_throttles_at_one_time_are_no_rate() -> None:
    """
    Times are told apart to a millisecond.
    """
    refill = RefillRate(5.0, 0)

    assert 1000.0 == refill.bucket_was_empty(5.0, 0, window=WINDOW)
    assert 3000.0 == refill.bucket_was_empty(4.9, 2, window=WINDOW)
