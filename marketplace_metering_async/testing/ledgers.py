"""A ledger in a test, and one clock for it, its client and the sandbox."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.ledger import LedgerStatus, UsageLedger
from marketplace_metering_async.sandbox import Book, Sandbox

_REAL: Final = SystemClock()
_LOOKS_EACH: Final = 0.01
"""Seconds between two looks of a sleeper at a clock that somebody else moves."""


class SandboxTime:
    """
    The sandbox's time as a clock of ledger and client: who moves one moves all.

    It runs with the real time at least, and jumps where the sandbox's clock is moved ahead, so that
    whatever waits for a moment wakes once that has come. Its monotonic time never goes back.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        """Go by the clock of *sandbox*, which may run in another thread."""
        self._sandbox = sandbox
        self._monotonic = 0.0
        self._seen = sandbox.clock.now(), _REAL.monotonic()

    def now(self) -> datetime:
        """Return the sandbox's time."""
        return self._sandbox.clock.now()

    def monotonic(self) -> float:
        """Return the seconds that have passed, by the sandbox's clock or really."""
        before, real_before = self._seen
        now, real = self._seen = self._sandbox.clock.now(), _REAL.monotonic()
        self._monotonic += max((now - before).total_seconds(), real - real_before)
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*, or as soon as the clock was moved so far."""
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:  # noqa: ASYNC110 - moved from any thread
            await asyncio.sleep(min(left, _LOOKS_EACH))


class LedgerInTest:
    """
    What `metering_ledger` gives: a ledger that meters into a sandbox, on the sandbox's clock.

    Attributes:
        url: Of the ledger, a file of this test.
        sandbox: Where its records go.
        clock: The sandbox's, for a ledger or client that the code under test makes itself.
    """

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        """Keep the ledger in *folder*."""
        self.url = f"sqlite:///{folder / 'usage.db'}"
        self.sandbox = sandbox
        self.clock = SandboxTime(sandbox)

    @property
    def book(self) -> Book:
        """What was metered."""
        return self.sandbox.book

    def open(self, **settings: Any) -> UsageLedger:  # noqa: ANN401 - those of UsageLedger.open()
        """Return the ledger, to be used with `async with`; *settings* as `UsageLedger.open()`."""
        return UsageLedger.open(self.url, clock=self.clock, **settings)

    def client(self, **settings: Any) -> MarketplaceMeteringClient:  # noqa: ANN401 - those of the client
        """Return a client of the sandbox; *settings* as MarketplaceMeteringClient takes them."""
        usual: dict[str, Any] = {**self.sandbox.client_arguments, "clock": self.clock}
        return MarketplaceMeteringClient(**(usual | settings))

    def advance(self, **difference: float) -> None:
        """Move the time of sandbox, ledger and client: `advance(hours=2)`, as timedelta has it."""
        self.sandbox.advance(**difference)

    async def settle(self, ledger: UsageLedger, client: MarketplaceMeteringClient) -> LedgerStatus:
        """Seal and send all that is due, as a relay does, and return the ledger's status."""
        await ledger.relay_once(client)
        return await ledger.status()
