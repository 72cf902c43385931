"""Clock hours and the ends of their windows; all moments in seconds since 1970."""

from calendar import monthrange
from functools import lru_cache

from marketplace_metering_async import limits
from marketplace_metering_async.records import SECONDS_PER_HOUR, utc_of


def hour_of(at: int) -> int:
    """Return the start of the clock hour (UTC) of *at*."""
    return at - at % SECONDS_PER_HOUR


@lru_cache(maxsize=10_000)  # usage comes in seconds that are like each other
def deadline_of(at: int) -> int:
    """Return when the service stops taking a record stamped *at*."""
    return int(limits.deadline(utc_of(at)).timestamp())


@lru_cache(maxsize=1_000)
def latest_lost_at(moment: int) -> int:
    """Return the latest stamp whose deadline is *moment* or earlier."""
    return int(limits.oldest_open(utc_of(moment + 1)).timestamp()) - 1


@lru_cache(maxsize=1_000)
def last_hour_of_month(hour: int) -> int:
    """Return the start of the last clock hour (UTC) of the month of *hour*."""
    start = utc_of(hour)
    days = monthrange(start.year, start.month)[1]
    return int(start.replace(day=days, hour=23, minute=0, second=0).timestamp())
