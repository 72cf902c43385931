"""The sandbox's own time: real by default, and set, moved, frozen or sped up on demand."""

import time
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Final

from attrs import frozen

from marketplace_metering_async.sandbox.expected import require

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 12, 31, tzinfo=UTC)
"""Between them, every sum of a time of the clock and a duration of Rules is a date."""


def real_now() -> datetime:
    """Return the machine's time in UTC."""
    return datetime.now(UTC)


@frozen(kw_only=True)
class ClockSetting:
    """
    What a clock was set to.

    Attributes:
        now: The time that it shows.
        speed: How many seconds of it pass in a real one.
    """

    now: datetime
    speed: float


class SandboxClock:
    """
    A wall clock that can be set.

    Only the service's rules go by it. The quota goes by real time, and so do signatures, as the
    answer's Date header does; a client under test that goes by the sandbox's time is let in, too.
    """

    def __init__(self, now: datetime | None = None, *, speed: float = 1.0) -> None:
        """
        Begin at *now*, or at the real time, and run at *speed* (0 stands still).

        Raises:
            TypeError: for what is no datetime, or no number.
            ValueError: for a naive *now*, or a speed below 0 or not below 1,000,000.
        """
        self._speed = _speed(speed)
        self._is_real = now is None and speed == 1.0
        self._base, self._since = real_now(), time.monotonic()
        if now is not None:
            self.set(now)

    @property
    def speed(self) -> float:
        """Seconds of the sandbox in a real second."""
        return self._speed

    @property
    def is_real(self) -> bool:
        """Whether the clock shows the machine's time, because nobody has set it."""
        return self._is_real

    def now(self) -> datetime:
        """Return the sandbox's time in UTC."""
        if self._is_real:
            return real_now()
        passed = timedelta(seconds=(time.monotonic() - self._since) * self._speed)
        return self._base + min(passed, LATEST - self._base)

    def set(self, now: datetime) -> None:
        """
        Go on from *now*.

        Raises:
            TypeError: for what is no datetime.
            ValueError: without a time zone, or before 1970 or after 9000.
        """
        require("now", now, datetime)
        if now.tzinfo is None:
            raise ValueError("now: expected a datetime with a time zone, got a naive one")
        if not EARLIEST <= now <= LATEST:
            raise ValueError(
                f"now: expected a time of the years 1970 to 9000, got {now.isoformat()}"
            )
        self._base, self._since = now.astimezone(UTC), time.monotonic()
        self._is_real = False

    def step(self, difference: timedelta) -> None:
        """Move by *difference*, forward or back; ValueError or OverflowError beyond `set()`'s."""
        require("difference", difference, timedelta)
        self.set(self.now() + difference)

    def run(self, speed: float = 1.0) -> None:
        """Go on at *speed* from where the clock is; TypeError or ValueError for what is none."""
        speed = _speed(speed)
        self.set(self.now())
        self._speed = speed

    def freeze(self) -> None:
        """Stand still where the clock is."""
        self.run(0.0)

    def reset(self) -> None:
        """Show the machine's time again."""
        self._speed, self._is_real = 1.0, True

    @property
    def setting(self) -> ClockSetting | None:
        """What the clock was set to, for `restore()`; None where it shows the machine's time."""
        return None if self._is_real else ClockSetting(now=self.now(), speed=self._speed)

    def restore(self, setting: ClockSetting | None) -> None:
        """Go on where a clock stood that had this *setting*; TypeError for what is none."""
        require("setting", setting, ClockSetting, NoneType)
        if setting is not None:
            self._speed = _speed(setting.speed)
            self.set(setting.now)


def _speed(speed: float) -> float:
    require("speed", speed, float)
    if not 0 <= speed < 1e6:
        raise ValueError(f"speed: expected 0 to 1000000, got {speed}")
    return float(speed)
