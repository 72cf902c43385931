"""What the tests of the whole have in common: an open client, the three doors, odd services."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

from attrs import define

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import BatchMeterUsageResult, RecordResult
from marketplace_metering_async.sandbox import FaultKind, Refusal
from support.memory import FaultOf, client_of
from support.virtual import run_virtual

DOORS = ("batch", "stream", "batcher")

BEFORE = [
    FaultKind.THROTTLE,
    FaultKind.ERROR_500,
    FaultKind.ERROR_503,
    FaultKind.HTML,
    FaultKind.RESET_BEFORE,
]
AFTER = [
    FaultKind.ERROR_500_AFTER,
    FaultKind.RESET_AFTER,
    FaultKind.GARBAGE,
    FaultKind.EMPTY,
    FaultKind.STALL,
]
ODD = [
    FaultKind.SHUFFLE,
    FaultKind.DROP,
    FaultKind.ALTER,
    FaultKind.FOREIGN,
    FaultKind.DISAGREE,
    FaultKind.UNKNOWN_STATUS,
    FaultKind.UNPROCESSED,
]
"""Faults before a request is acted upon, after it, and responses that are odd."""


@asynccontextmanager
async def opened(
    service: Any, *, client: MarketplaceMeteringClient | None = None, **settings: Any
) -> AsyncIterator[MarketplaceMeteringClient]:
    """An open client: opening looks into files in a thread, and virtual time would jump."""
    async with client or client_of(service, **settings) as ready:
        await ready.endpoint()
        yield ready


def batch(
    service: Any,
    records: Any,
    *,
    product_code: str | None = None,
    timeout: float | None = None,
    **settings: Any,
) -> BatchMeterUsageResult:
    """Send *records* in one batch, in virtual time."""

    async def run() -> BatchMeterUsageResult:
        async with opened(service, **settings) as client:
            return await client.batch_meter_usage(
                records, product_code=product_code, timeout=timeout
            )

    return run_virtual(run())


async def through(
    door: str, client: MarketplaceMeteringClient, records: Iterable[UsageRecord | Any]
) -> list[RecordResult]:
    """Send *records* through one of the three doors; return the results in order."""
    match door:
        case "batch":
            return list(await client.batch_meter_usage(records))
        case "stream":
            found = [r async for r in client.iter_batch_meter_usage(records)]
            return sorted(found, key=lambda r: r.position)
        case _:
            async with UsageBatcher(client) as batcher:
                return list(await asyncio.gather(*map(batcher.meter, records)))


def send_through(
    door: str, service: Any, records: Iterable[UsageRecord | Any], **settings: Any
) -> list[RecordResult]:
    """Do the same in a client's life, in virtual time."""

    async def run() -> list[RecordResult]:
        async with opened(service, **settings) as client:
            return await through(door, client, records)

    return run_virtual(run())


def refusing(
    is_odd: Callable[[dict[str, Any]], bool],
    code: str = "ValidationException",
    *,
    message: Callable[[list[dict[str, Any]]], str] = lambda odd: "",
) -> FaultOf:
    """Return faults that refuse whole each request with an odd record in it."""

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | Refusal | None:
        odd = [record for record in body["UsageRecords"] if is_odd(record)]
        return Refusal(code, message(odd)) if odd else None

    return fault_of


@define
class Arrival:
    """When a record was read, and when its verdict came; loop time."""

    read: float
    done: float


class CountingLoop:
    """Counts the tasks that begin while it is entered."""

    def __init__(self) -> None:
        self.started = 0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._before = loop.get_task_factory()

        def make(on: Any, work: Any, **settings: Any) -> Any:
            self.started += 1
            return asyncio.Task(work, loop=on, **settings)

        loop.set_task_factory(make)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().set_task_factory(self._before)


def slow_quota(calls_per_second: float, burst: float = 10.0) -> FaultOf:
    """Return faults that throttle what a token bucket does not let through."""
    tokens, since = burst, 0.0

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | None:
        nonlocal tokens, since
        now = asyncio.get_running_loop().time()
        tokens, since = min(burst, tokens + (now - since) * calls_per_second), now
        if tokens < 1:
            return FaultKind.THROTTLE
        tokens -= 1
        return None

    return fault_of
