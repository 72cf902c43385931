"""Figures of the rim: proxies, transports, clocks, credentials; nothing unproven is claimed."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.figures import DOORS, send_through
from support.memory import MemoryService, client_of, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.results import RecordResult, RecordStatus

S = RecordStatus


def ahead_of(minutes: int) -> MemoryService:
    """Return a service whose clock shows so many minutes less than ours."""
    return MemoryService(clock=VirtualClock(START - timedelta(minutes=minutes)))


@pytest.mark.parametrize("door", DOORS)
def test_records_just_ahead_of_the_services_clock_wait_for_it(door: str) -> None:
    """
    The clock is two minutes fast, 25 records are stamped now: all metered, in at most four calls.
    Core F6
    """
    service = ahead_of(2)

    results = send_through(door, service, usage(25, timestamp=START))

    assert [S.SUCCESS] * 25 == [r.status for r in results]
    assert len(service.requests) <= 4


def test_records_far_ahead_of_the_services_clock_are_rejected() -> None:
    """
    Twenty minutes ahead is no matter of clocks. Law 13
    """
    service = ahead_of(4)
    records = usage(2, timestamp=START + timedelta(minutes=4)) + usage(
        2, timestamp=START + timedelta(minutes=16), dimension="far"
    )

    results = send_through("batch", service, records)

    assert [S.SUCCESS] * 2 + [S.REJECTED] * 2 == [r.status for r in results]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("hangs", ["sign", "open"])
def test_hanging_credentials_hold_no_one_beyond_the_time(hangs: str, door: str) -> None:
    """
    Whether they are found or refreshed: `timeout=5`, `stop=` after 5 s, `drain(timeout=5)` are over
    within 5 s, nothing was sent. Core F14, F21
    """
    service = MemoryService()

    async def hang(*_: Any) -> None:
        await asyncio.sleep(3600)

    async def run() -> tuple[float, list[RecordResult]]:
        loop = asyncio.get_running_loop()
        async with client_of(service) as client:
            if hangs == "sign":
                await client.endpoint()
            setattr(shared_of(client).connection._signer, hangs, hang)
            began = loop.time()
            results = await _five_seconds(door, client)
            return loop.time() - began, results

    took, results = run_virtual(run())

    assert took <= 5.1
    assert {S.UNPROCESSED} >= {r.status for r in results}
    assert len(results) == 60 or hangs == "open"
    assert [] == service.requests


async def _five_seconds(door: str, client: Any) -> list[RecordResult]:
    match door:
        case "batch":
            return list(await client.batch_meter_usage(usage(60), timeout=5))
        case "stream":
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(5, stop.set)
            return [r async for r in client.iter_batch_meter_usage(usage(60), stop=stop)]
        case _:
            batcher = UsageBatcher(client)
            callers = [asyncio.create_task(batcher.meter(record)) for record in usage(60)]
            await asyncio.sleep(0.0)
            await batcher.drain(timeout=5)
            return list(await asyncio.gather(*callers))
