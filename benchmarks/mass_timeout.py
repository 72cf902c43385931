"""
How late do many callers end whose timeouts end together? `python benchmarks/mass_timeout.py`

Thousands of callers share one client, each with a batch of one record and the same `timeout=`, and
the service answers none of them. Printed are how much later than its timeout the last of those ends
that have no call on the wire, the seconds of CPU from the timeout on, and the longest time for
which the event loop was held up: 8,000 end within 3 s, and twice as many in twice the time. Nothing
is sent; the clock is real, so the first figure needs a quiet machine.
"""

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime, timedelta

from marketplace_metering_async import MarketplaceMeteringClient, RecordStatus, UsageRecord
from marketplace_metering_async.aws.transport import Request, Response

CALLERS = (1000, 2000, 4000, 8000, 16_000)
TIMEOUT = 10.0


class Silent:
    """A service that lets everybody wait."""

    def __init__(self) -> None:
        self.in_flight = 0

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ARG002
        self.in_flight += 1
        await asyncio.sleep(timeout)
        raise AssertionError("the benchmark is over before")

    async def aclose(self) -> None:
        """Nothing to close."""


class Callers:
    """Those who wait, and how late they ended."""

    def __init__(self, client: MarketplaceMeteringClient) -> None:
        self._client = client
        self.ended = 0
        self.latest = 0.0
        self.held_up = 0.0

    async def meter(self, record: UsageRecord) -> None:
        began = time.monotonic()
        (result,) = await self._client.batch_meter_usage([record], timeout=TIMEOUT)
        assert result.status is RecordStatus.UNPROCESSED
        self.latest = max(self.latest, time.monotonic() - began - TIMEOUT)
        self.ended += 1

    async def watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            self.held_up, last = max(self.held_up, now - last), now


async def measure(number: int) -> tuple[float, float, float]:
    """Return how late the last caller ended, seconds of CPU, and of the longest hold-up."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    records = [
        UsageRecord(
            timestamp=hour,
            dimension="requests",
            quantity=1,
            product_code="p",
            customer_aws_account_id=f"{n:012d}",
        )
        for n in range(number)
    ]
    service = Silent()
    async with MarketplaceMeteringClient(
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="secret",  # noqa: S106 - nobody's
        transport=service,
        calls_per_second=None,
    ) as client:
        await client.endpoint()
        callers = Callers(client)
        began = time.monotonic()
        tasks = [asyncio.create_task(callers.meter(record)) for record in records]
        await asyncio.sleep(began + TIMEOUT - 0.1 - time.monotonic())
        tasks.append(asyncio.create_task(callers.watch()))
        used = time.process_time()
        while callers.ended + service.in_flight < number:  # noqa: ASYNC110 - two that count
            await asyncio.sleep(0.01)
        used = time.process_time() - used
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return callers.latest, used, callers.held_up


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    for number in [int(text) for text in sys.argv[1:]] or CALLERS:
        latest, used, held_up = asyncio.run(measure(number))
        print(
            f"{number:6,} callers: {latest:.2f} s late, {used:.2f} s CPU, {held_up:.3f} s held up"
        )


if __name__ == "__main__":
    main()
