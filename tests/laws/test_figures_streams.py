"""Figures of streams: how long a record waits, whatever the source and the service do."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from support.figures import Arrival, opened, refusing
from support.memory import MemoryService, usage
from support.virtual import START, run_virtual

from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind

S = RecordStatus
LINGER = 1.0
ARN = "arn:aws:license-manager::123456789012:license:l-a"


def a_record(number: int, product: str) -> UsageRecord:
    """A record of a key of its own, two hours old when it is read."""
    moment = START + timedelta(seconds=asyncio.get_running_loop().time())
    return usage(
        1,
        product_code=product,
        customer_aws_account_id=f"{number:012d}",
        timestamp=moment.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2),
    )[0]


async def stream(
    service: MemoryService, products: Iterable[str | None], every: float, **settings: Any
) -> tuple[list[RecordResult], list[Arrival]]:
    """Read a record of each of *products* (None: nothing) every so many seconds."""
    loop = asyncio.get_running_loop()
    read: list[float] = []

    async def source() -> AsyncIterator[UsageRecord]:
        for number, product in enumerate(products):
            if product is not None:
                read.append(loop.time())
                yield a_record(number, product)
            await asyncio.sleep(every)

    results, arrivals = [], []
    async with opened(service, **settings) as client:
        async for result in client.iter_batch_meter_usage(source(), linger=LINGER):
            results.append(result)
            arrivals.append(Arrival(read[result.position], loop.time()))
    return results, arrivals


def longest(arrivals: Iterable[Arrival]) -> float:
    return max(arrival.done - arrival.read for arrival in arrivals)


@pytest.mark.parametrize("minutes", [15, pytest.param(60, marks=pytest.mark.campaign)])
def test_two_records_a_second_over_200_products(minutes: int) -> None:
    """
    No lane ever fills a request; every verdict comes within `linger` and 2 s of being read. Core F3
    """
    products = [f"product-{n % 200}" for n in range(minutes * 120)]

    results, arrivals = run_virtual(stream(MemoryService(), products, 0.5, calls_per_second=10))

    assert {S.SUCCESS} == {r.status for r in results}
    assert minutes * 120 == len(results)
    assert longest(arrivals) <= LINGER + 2


@pytest.mark.parametrize("minutes", [15, pytest.param(60, marks=pytest.mark.campaign)])
def test_a_rare_product_beside_a_busy_one(minutes: int) -> None:
    """
    One record of it at the start, one in the middle: neither waits for company. Core F3
    """
    busy = ["busy"] * (minutes * 60)
    products = ["rare", *busy, "rare", *busy]

    results, arrivals = run_virtual(stream(MemoryService(), products, 0.5))

    assert len(products) == len(results)
    assert longest(arrivals) <= LINGER + 2


def test_what_a_full_request_leaves_open_goes_on_at_once() -> None:
    """
    The service leaves some of a full request open, and no other of its product comes. Core F3
    """
    service = MemoryService(lambda number, _: FaultKind.UNPROCESSED if number == 1 else None)
    products: list[str | None] = [*["first"] * 25, *[None, "second"] * 1800]

    async def run() -> tuple[list[RecordResult], list[Arrival]]:
        return await stream(service, products, 0.01)

    results, arrivals = run_virtual(run())

    assert {S.SUCCESS} == {r.status for r in results}
    assert any(r.attempts > 1 for r in results)
    assert longest(arrivals) <= LINGER + 2


def test_a_license_is_metered_within_a_minute_of_becoming_valid() -> None:
    """
    Refused in the first ten minutes of a stream, valid afterwards. Core F4
    """

    def loop_time() -> float:
        return asyncio.get_running_loop().time()

    valid_from = 600.0

    service = MemoryService(
        refusing(
            lambda r: "LicenseArn" in r and loop_time() < valid_from, "InvalidLicenseException"
        )
    )

    async def run() -> list[tuple[float, RecordResult]]:
        numbers = count()

        async def source() -> AsyncIterator[UsageRecord]:
            while loop_time() < 1200:
                yield usage(
                    1,
                    license_arn=ARN,
                    customer_aws_account_id="000000000001",
                    dimension=f"d-{next(numbers)}",
                )[0]
                await asyncio.sleep(5)

        found = []
        async with opened(service) as client:
            async for result in client.iter_batch_meter_usage(source(), linger=LINGER):
                found.append((loop_time(), result))
        return found

    late = [result for when, result in run_virtual(run()) if when > valid_from + 60]

    assert len(late) >= 100
    assert {S.SUCCESS} == {r.status for r in late}


@pytest.mark.parametrize("code", ["InvalidProductCodeException", "AccessDeniedException"])
def test_what_was_stopped_is_tried_again_within_a_minute(code: str) -> None:
    """
    A product that is unknown, or access that is denied, for ten minutes. Core F4
    """
    refused: set[float] = set()

    def refuse(record: dict[str, Any]) -> bool:
        moment = asyncio.get_running_loop().time()
        if moment < 600:
            refused.add(moment)
        return moment < 600

    service = MemoryService(refusing(refuse, code))

    async def run() -> tuple[list[RecordResult], list[Arrival]]:
        return await stream(service, ["product"] * 1200, 1.0)

    results, arrivals = run_virtual(run())

    late = [r for r, a in zip(results, arrivals, strict=True) if a.done > 661]
    assert len(late) >= 500
    assert {S.SUCCESS} == {r.status for r in late}
    early = [r for r, a in zip(results, arrivals, strict=True) if a.done < 600]
    assert {S.UNPROCESSED} == {r.status for r in early}
    assert len(refused) <= 11


def test_an_earlier_deadline_goes_before_a_full_request() -> None:
    """
    One record near the end of its window, read after hundreds of others: it goes first. Law 12
    """
    service = MemoryService()
    old = usage(1, product_code="old", timestamp=START - timedelta(hours=23, minutes=40))

    async def run() -> list[RecordResult]:
        async with opened(service, max_concurrency=4, calls_per_second=1) as client:
            results = client.iter_batch_meter_usage(usage(300) + old, linger=0)
            return [r async for r in results]

    results = run_virtual(run())

    assert 301 == len(results)
    assert "old" == service.requests[0]["ProductCode"]


def test_a_different_record_of_a_key_on_the_wire_is_refused_as_such() -> None:
    """
    Record 0 is on the wire; 1 differs, 2 is identical: 1 is refused since 0 was sent, 2 shares the
    verdict of 0. Core F10
    """
    service = MemoryService()
    service.round_trip = 2.0
    (first,), (other,) = usage(1), usage(1, quantity=99)

    async def source() -> AsyncIterator[UsageRecord]:
        yield first
        await asyncio.sleep(1.5)
        yield other
        yield first

    async def run() -> list[RecordResult]:
        async with opened(service) as client:
            found = [r async for r in client.iter_batch_meter_usage(source(), linger=0.5)]
            return sorted(found, key=lambda r: r.position)

    results = run_virtual(run())

    assert [S.SUCCESS, S.REJECTED, S.SUCCESS] == [r.status for r in results]
    assert ["NoneType", "KeyAlreadySentError", "NoneType"] == [
        type(r.error).__name__ for r in results
    ]
    assert [None, None, 0] == [r.duplicate_of for r in results]
    assert [1] == service.sizes
