"""A relay that works says so: every minute, with what it did since the last time."""

from collections import Counter
from typing import Final

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.events import Observer, RelayWorking, emit
from marketplace_metering_async.ledger.relay_report import RelayReport
from marketplace_metering_async.quantities import millionths, of_millionths

_EACH: Final = 60.0


class Pulse:
    """What a relay has done, and when it says so."""

    def __init__(self, clock: Clock, observer: Observer) -> None:
        """Report to *observer*, by *clock*."""
        self._clock = clock
        self._observer = observer
        self._next_at = clock.monotonic()
        self._said: Counter[str] = Counter()  # of the round; below 0: of earlier ones and unsaid

    def is_due(self) -> bool:
        """Whether it is time to say so; once, until it is time again."""
        now = self._clock.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + _EACH
        return True

    def beat(self, report: RelayReport) -> None:
        """Say what was done since the last time; *report* has what this round did so far."""
        done = _counts(report)
        unsaid = done.copy()
        unsaid.subtract(self._said)
        self._said = done
        units = of_millionths(unsaid.pop("millionths"))
        emit(self._observer, RelayWorking(**unsaid, units=units))

    def end_round(self, report: RelayReport) -> None:
        """Keep what is still to be said of a round that is over."""
        self._said.subtract(_counts(report))


def _counts(report: RelayReport) -> Counter[str]:
    return Counter(
        sealed=report.sealed,
        metered=report.metered,
        ended=report.ended.total(),
        returned=report.returned,
        millionths=millionths(report.units),
    )
