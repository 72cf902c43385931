"""A ledger, a sandbox and a client that go by one clock."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Any, Final
from uuid import uuid4

from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.ledger import LedgerStatus, UsageLedger
from marketplace_metering_async.ledger.stores.watermark_folder import watermark_of
from marketplace_metering_async.sandbox import Book, Sandbox
from marketplace_metering_async.sandbox.expected import duration, require

_SPEED: Final = 100.0
"""Seconds of waiting in a real second."""
_RETRY: Final = RetryPolicy(timeout=30.0, attempt_timeout=5.0)
"""Of which the attempt's limit alone is of real seconds."""


class SandboxTime:
    """
    The time of a sandbox as the clock of ledgers and clients.

    It is moved with the sandbox's. Who waits on it, as for another attempt, waits a hundredth as
    long as the seconds say, and does not move it.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        """Show the time of *sandbox*."""
        self._sandbox = sandbox
        self._real = SystemClock()

    def now(self) -> datetime:
        """Return the sandbox's time in UTC."""
        return self._sandbox.clock.now()

    def monotonic(self) -> float:
        """Return seconds of waiting since some moment."""
        return self._real.monotonic() * _SPEED

    async def sleep(self, seconds: float) -> None:
        """Return after a hundredth of *seconds*."""
        await self._real.sleep(seconds / _SPEED)


class LedgerSandbox:
    """
    A ledger and the service that it meters to, with one clock, which stands until it is moved.

    Attributes:
        url: The ledger's, for the program under test to open; with `clock=` of this one.
        sandbox: The service.
        clock: For every ledger and client of the test.
    """

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        """Stop the clock of *sandbox*, which listens, and meter to it what is in the ledger."""
        self.url = url
        self.sandbox = sandbox
        self.clock = SandboxTime(sandbox)
        sandbox.clock.freeze()

    @property
    def book(self) -> Book:
        """What the service has metered."""
        return self.sandbox.book

    def open(self, **settings: Any) -> UsageLedger:  # noqa: ANN401 - those of UsageLedger.open
        """
        Return the ledger, to be used with `async with`.

        Args:
            settings: Those of `UsageLedger.open`.
        """
        return UsageLedger.open(self.url, **{"clock": self.clock, **settings})

    def client(self, **settings: Any) -> MarketplaceMeteringClient:  # noqa: ANN401 - the client's
        """
        Return a client of the sandbox, to be used with `async with`.

        Args:
            settings: Those of `MarketplaceMeteringClient`. By default it gives a record up for now
                after half a minute of its clock, which is 0.3 s; the ledger sends it again.
        """
        ours = {**self.sandbox.client_arguments, "clock": self.clock, "retry": _RETRY}
        ours["calls_per_second"] = self.sandbox.calls_per_second
        return MarketplaceMeteringClient(**{**ours, **settings})

    async def advance(self, **difference: float) -> LedgerStatus:
        """
        Move the time, and on the way seal and send all that falls due, at its moment.

        Args:
            difference: In the words of timedelta: `advance(hours=2)`; `advance()` sends what is due
                now.

        Returns: where all usage is then.

        Raises:
            TypeError: for other words, or what is no number.
            ValueError, OverflowError: for a time before now, or after the year 9000.
            LedgerError, ConfigurationError: as `UsageLedger.relay_once`.

        Cancelling leaves the clock at some moment in between.
        """
        end = self.clock.now() + duration(difference)
        if end < self.clock.now():
            raise ValueError(f"expected no time before now, got {difference}")
        async with self.open() as ledger, self.client() as client:
            idle = 0
            while True:
                report = await ledger.relay_once(client)
                idle = 0 if report.sealed or report.metered or report.ended else idle + 1
                status = await ledger.status()
                due = _next_due(status)
                if due is None or due > end or (self.clock.now() == end and idle):
                    break
                # What was due and is not done, as where access is denied, is tried ever less often.
                later = self.clock.now() + timedelta(seconds=2.0 ** min(idle, 20))
                self.sandbox.clock.set(min(end, max(due, later)))
            self.sandbox.clock.set(end)
            return await ledger.status()


def _next_due(status: LedgerStatus) -> datetime | None:
    moments = (status.next_seal_at, status.next_send_at)
    return min((moment for moment in moments if moment is not None), default=None)


@contextmanager
def place_in(url: str) -> Iterator[str]:
    """
    Yield the URL of a new ledger at *url*: in PostgreSQL, in a schema that is dropped then.

    Raises:
        ConfigurationError: PostgreSQL cannot be reached without its extra.
    """
    require("metering_ledger_url", url, str)
    if not url.startswith(("postgresql:", "postgres:")):
        yield url
        return
    if find_spec("asyncpg") is None:
        raise ConfigurationError(
            "metering_ledger_url: PostgreSQL needs asyncpg: "
            "pip install 'marketplace-metering-async[postgres]'"
        )
    schema = f"metering_test_{uuid4().hex}"
    try:
        yield f"{url}{'&' if '?' in url else '?'}schema={schema}"
    finally:
        with ThreadPoolExecutor(1) as aside:  # the test's event loop stays as it is
            aside.submit(asyncio.run, _drop(watermark_of(url)[0], schema)).result()


async def _drop(url: str, schema: str) -> None:
    import asyncpg  # noqa: PLC0415 - the extra `postgres` brings it

    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    finally:
        await connection.close()
