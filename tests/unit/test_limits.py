"""Limits: the service's windows."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import limits

MONTHS = st.integers(2024 * 12, 2028 * 12).map(
    lambda n: datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC)
)


@given(MONTHS, st.integers(-3 * 86400, 2 * 86400))
def test_deadline_and_oldest_open_agree(month: datetime, offset: int) -> None:
    """
    Over every month's end, leap years too. Covers: H06, H07
    """
    stamp = month + timedelta(seconds=offset)
    closes = limits.deadline(stamp)

    assert closes <= stamp + timedelta(hours=24)
    assert limits.oldest_open(closes) <= stamp
    assert limits.oldest_open(closes + timedelta(seconds=1)) > stamp
    if stamp < month and stamp + timedelta(hours=24) > month + timedelta(hours=6):
        assert month + timedelta(hours=6) == closes
