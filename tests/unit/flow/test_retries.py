"""Retries: delays within their bounds, and policies that are checked."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.flow.retries import RetryPolicy, backoff
from marketplace_metering_async.service_errors import ThrottlingException


@given(st.integers(1, 200), st.integers())
def test_delays_are_jittered_within_bounds(failures: int, seed: int) -> None:
    """
    Between nothing and a bound that doubles up to the longest delay. Covers: T01
    """
    policy = RetryPolicy(base_delay=0.1, max_delay=20.0)

    delay = backoff(policy, failures, Random(seed).random())

    assert 0 <= delay <= min(20.0, 0.1 * 2.0 ** min(failures - 1, 30))
    assert math.isfinite(delay)


def test_the_bound_of_delays_doubles() -> None:
    """
    From the base delay after the first failure to the longest. Covers: T01
    """
    policy = RetryPolicy(base_delay=0.1, max_delay=2.0)

    assert [0.1, 0.2, 0.4, 0.8, 1.6, 2.0] == [backoff(policy, n, 1.0) for n in range(1, 7)]
    assert 1.0 == backoff(policy, 10**6, 0.5)


@pytest.mark.parametrize(
    ("base", "hint", "delay"),
    [(0.1, 0, 0.1), (0.1, 3, 3), (0.1, 900, 5.1), (10, 3, 10), (10, 12, 12), (10, 900, 15)],
)
def test_hints_of_the_service_are_honoured_within_bounds(
    base: float, hint: float, delay: float
) -> None:
    """
    Never sooner than asked, and no more than five seconds later than our own. Covers: T02
    """
    error = ThrottlingException("ThrottlingException", retry_after=hint)

    assert delay == backoff(RetryPolicy(base_delay=base), 1, 1.0, error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"base_delay": -1},
        {"max_attempts": 0},
        {"max_delay": 0},
        {"attempt_timeout": math.inf},
    ],
)
def test_policies_are_checked(wrong: dict[str, float]) -> None:
    """
    Times are above zero, attempts at least one.

    For an attempt without an end no request left, and each was taken for one that had.
    """
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
