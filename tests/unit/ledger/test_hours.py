"""Clock hours and the ends of their windows."""

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from marketplace_metering_async.ledger.hours import (
    deadline_of,
    hour_of,
    last_hour_of_month,
    latest_lost_at,
)

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
MONTH = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())


def test_an_hour_begins_on_the_hour() -> None:
    """
    Of UTC.
    """
    assert [NOON, NOON, NOON + 3600] == [hour_of(NOON + n) for n in (0, 3599, 3600)]


def test_a_window_closes_after_a_day_or_with_the_month() -> None:
    """
    At six on the first.
    """
    assert NOON + 24 * 3600 == deadline_of(NOON)
    assert MONTH + 6 * 3600 == deadline_of(MONTH - 1)


def test_months_are_those_of_utc() -> None:
    """
    Whatever the machine's zone.
    """
    assert MONTH - 3600 == last_hour_of_month(MONTH - 3600)
    assert MONTH + 31 * 24 * 3600 - 3600 == last_hour_of_month(MONTH)


@given(st.integers(NOON, NOON + 40 * 24 * 3600))
@example(MONTH + 6 * 3600 - 1)
@example(MONTH + 6 * 3600)
@example(MONTH + 6 * 3600 + 1)
def test_what_is_lost_at_a_moment_is_all_up_to_one_stamp(moment: int) -> None:
    """
    The deadlines of it and of all before have come, and the next one's has not.
    """
    lost = latest_lost_at(moment)

    assert deadline_of(lost) <= moment < deadline_of(lost + 1)
