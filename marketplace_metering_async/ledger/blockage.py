"""What keeps a relay from its work: reported at once and then every minute, and waited for."""

from typing import Final

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.events import Observer, RelayBlocked, emit
from marketplace_metering_async.ledger.status import LedgerStatus

_FIRST_WAIT: Final = 1.0
_SAID_EACH: Final = 60.0


class Blockage:
    """
    The time from a relay's first failed try to the next one that succeeds.

    Attributes:
        error: What the latest try ended with; None where it succeeded.
    """

    def __init__(self, clock: Clock, observer: Observer, *, longest: float) -> None:
        """Report to *observer*, and wait for *longest* seconds at the most."""
        self._clock = clock
        self._observer = observer
        self._longest = longest
        self.error: MeteringError | None = None
        self._tries = 0
        self._since = 0.0  # monotonic time of the first failed try
        self._said_at = 0.0  # monotonic time

    def wait(self, error: MeteringError, seen: LedgerStatus | None) -> float:
        """
        Note a try that ended with *error*; return the seconds until the next one.

        *seen* is the latest look at what is unsent, where there was one.
        """
        self.error = error
        now = self._clock.monotonic()
        if not self._tries:
            self._since = now
        if not self._tries or now >= self._said_at + _SAID_EACH:
            self._said_at = now
            blocked = RelayBlocked(
                error=error,
                seconds=now - self._since,
                units=None if seen is None else seen.open + seen.frozen,
                first_loss_at=None if seen is None else seen.first_loss_at,
            )
            emit(self._observer, blocked)
        wait = min(self._longest, _FIRST_WAIT * 2.0 ** min(self._tries, 10))
        self._tries += 1
        return wait

    def end(self) -> None:
        """Note a try that succeeded."""
        self.error = None
        self._tries = 0
