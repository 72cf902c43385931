"""A year in the life of a ledger: when usage comes, when the relay runs, and when it pauses."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from attrs import frozen

PAUSES: Final = (
    # from, before the month's end, until, after it
    (timedelta(hours=3), timedelta(hours=5)),
    (timedelta(minutes=50), timedelta(hours=5, minutes=59, seconds=59)),
    (timedelta(minutes=50), timedelta(hours=6)),
    (timedelta(hours=2), timedelta(hours=6, minutes=30)),
    (timedelta(hours=30), timedelta(hours=1)),
    (timedelta(minutes=1), timedelta(minutes=1)),
    (timedelta(0), timedelta(hours=7)),
)


def month_of(moment: datetime) -> tuple[int, int]:
    return moment.year, moment.month


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0)


def next_month(moment: datetime) -> datetime:
    return datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)


def closes(stamp: datetime) -> datetime:
    """Return when the service stops taking a record: reckoned here anew."""
    return min(stamp + timedelta(hours=24), next_month(stamp) + timedelta(hours=6))


@frozen
class Calendar:
    """What is to happen when, chosen once from a seed."""

    chance: Random
    start: datetime
    end: datetime

    @property
    def month_ends(self) -> list[datetime]:
        firsts = [next_month(self.start)]
        while len(firsts) < 12:
            firsts.append(next_month(firsts[-1]))
        return firsts

    def moments(self, seldom: tuple[int, int], often: tuple[int, int]) -> Iterator[datetime]:
        """Yield moments that many minutes apart: *often* around the ends of months."""
        now = self.start
        while now < self.end:
            near = any(abs(first - now) < timedelta(hours=8) for first in self.month_ends)
            now += timedelta(
                minutes=self.chance.randint(*(often if near else seldom)),
                seconds=self.chance.randrange(60),
            )
            yield now

    def pauses(self) -> list[tuple[datetime, datetime]]:
        found = []
        for first in self.month_ends:
            before, after = self.chance.choice(PAUSES)
            found.append((first - before, first + after))
        for hours in (7, 20, 23, 30, 50):
            begin = self.start + self.chance.random() * (self.end - self.start)
            begin = begin.replace(microsecond=0)
            found.append((begin, begin + timedelta(hours=hours)))
        return found

    def departure(self) -> datetime:
        """Return when a subscription ends: in some hour within a month."""
        return self.chance.choice(self.month_ends[1:9]) + timedelta(
            days=self.chance.randint(2, 20), minutes=self.chance.randrange(24 * 60)
        )
