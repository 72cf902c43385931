"""Which timestamps the service takes: by age, by month's end, and not of the future."""

import math
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from attrs import frozen

from marketplace_metering_async.sandbox.service.refusals import Cause, Refusal
from marketplace_metering_async.sandbox.service.rules import Rules

_HOUR: Final = 3600
_FUTURE: Final = Cause(
    "it is in the future", "Stamp usage when it has happened, and see that the clocks agree."
)
_CLOSED: Final = Cause(
    "its month is closed, since 06:00 UTC on the 1st",
    "Send the usage of a month by 06:00 UTC on the 1st.",
)


@frozen
class Window:
    """
    The timestamps taken at one moment, as seconds since 1970.

    Attributes:
        age: Up to which usage is taken.
        after: Only later ones are taken.
        since: Earlier ones belong to a month that is closed.
        until: Later ones are of the future.
        by_hour: Whether age counts from the start of a timestamp's hour.
    """

    age: timedelta
    after: float
    since: float
    until: float
    by_hour: bool = False

    @classmethod
    def of_batches(cls, rules: Rules, now: datetime) -> Self:
        """Return the window of BatchMeterUsage at *now*."""
        month = datetime(now.year, now.month, 1, tzinfo=UTC)
        closed = now >= month + rules.month_end
        return cls(
            age=rules.age,
            after=_edge(now - rules.age, taken=rules.age_edge == "taken"),
            since=month.timestamp() if closed else -math.inf,
            until=(now + rules.future).timestamp(),
            by_hour=rules.age_from == "hour",
        )

    @classmethod
    def of_workloads(cls, rules: Rules, now: datetime) -> Self:
        """Return the window of MeterUsage at *now*, which has no rule for the end of a month."""
        return cls(
            age=rules.workload_age,
            after=_edge(now - rules.workload_age, taken=True),  # only more than six hours is late
            since=-math.inf,
            until=(now + rules.future).timestamp(),
        )

    def check(self, timestamp: float, path: str) -> None:
        """Refuse a *timestamp* that stands at *path* and breaks a rule."""
        why = self._objection(timestamp)
        if why is not None:
            text = f"{path}: {why.rule}"
            raise Refusal("TimestampOutOfBoundsException", text, remedy=why.remedy)

    def _objection(self, timestamp: float) -> Cause | None:
        measured = timestamp - timestamp % _HOUR if self.by_hour else timestamp
        if timestamp > self.until:
            return _FUTURE
        if measured <= self.after:
            hours = self.age / timedelta(hours=1)
            return Cause("it is too old", f"Send usage within {hours:g} hours.")
        if timestamp < self.since:
            return _CLOSED
        return None


def _edge(moment: datetime, *, taken: bool) -> float:
    seconds = moment.timestamp()
    return math.nextafter(seconds, -math.inf) if taken else seconds
