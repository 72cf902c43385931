"""The sandbox's own time: real by default, and set, moved, frozen or sped up on demand."""

import time
from datetime import UTC, datetime, timedelta


class SandboxClock:
    """
    A wall clock that can be told what time it is.

    Only the service's rules go by it. Signatures and the quota go by real time.
    """

    def __init__(self, now: datetime | None = None, *, speed: float = 1.0) -> None:
        """Begin at *now*, or at the real time, and run at *speed* (0 stands still)."""
        self._base = now or datetime.now(UTC)
        self._since = time.monotonic()
        self._speed = speed

    @property
    def speed(self) -> float:
        """Seconds of the sandbox in a real second."""
        return self._speed

    def now(self) -> datetime:
        """Return the sandbox's time in UTC."""
        return self._base + timedelta(seconds=(time.monotonic() - self._since) * self._speed)

    def set(self, now: datetime) -> None:
        """Go on from *now*, which must have a time zone."""
        if now.tzinfo is None:
            raise ValueError("now: expected a datetime with a time zone, got a naive one")
        self._base = now.astimezone(UTC)
        self._since = time.monotonic()

    def step(self, difference: timedelta) -> None:
        """Move by *difference*, forward or back."""
        self.set(self.now() + difference)

    def run(self, speed: float) -> None:
        """Go on at *speed*; 0 freezes the clock where it is."""
        if not 0 <= speed < 1e6:
            raise ValueError(f"speed: expected 0 to 1000000, got {speed}")
        self.set(self.now())
        self._speed = speed
