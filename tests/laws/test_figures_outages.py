"""Figures of outages: when a delivery ends, and what starts after that."""

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from random import Random
from typing import Any

import pytest
from support.figures import batch, opened, slow_quota
from support.memory import MemoryService, usage
from support.virtual import run_virtual

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import BatchMeterUsageResult, RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind

S = RecordStatus
ROUND_TRIP = 1.0


def loop_time() -> float:
    return asyncio.get_running_loop().time()


OUTAGES = [FaultKind.ERROR_500, FaultKind.RESET_AFTER, FaultKind.THROTTLE]


def in_campaigns(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.campaign)


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        *product([25, 1000, 20_000], OUTAGES),
        *(in_campaigns(size, FaultKind.ERROR_500) for size in (100_000, 300_000)),
    ],
)
def test_an_outage_ends_a_batch_by_its_policy(size: int, kind: FaultKind) -> None:
    """
    Every call fails, or is throttled: all verdicts are there a minute after `timeout`. Core F13
    """
    took, result = _outage(size, kind)

    assert 900 <= took <= 960
    assert size == len(result)
    in_doubt = [r for r in result if r.attempts and kind is not FaultKind.THROTTLE]
    assert {S.UNCONFIRMED} >= {r.status for r in in_doubt}
    assert {S.UNPROCESSED} >= {r.status for r in result if not r.attempts}
    assert {S.UNPROCESSED: size} == result.counts or kind is not FaultKind.THROTTLE


def _outage(size: int, kind: FaultKind) -> tuple[float, BatchMeterUsageResult]:
    service = MemoryService(lambda number, _: kind)

    async def run() -> tuple[float, BatchMeterUsageResult]:
        policy = RetryPolicy(timeout=900)
        async with opened(service, retry=policy, calls_per_second=10) as client:
            began = loop_time()
            result = await client.batch_meter_usage(usage(size))
            return loop_time() - began, result

    return run_virtual(run())


def many(products: int, each: int) -> list[UsageRecord]:
    return [r for n in range(products) for r in usage(each, product_code=f"product-{n}")]


@pytest.mark.parametrize("kind", [FaultKind.ERROR_500, FaultKind.THROTTLE, None])
def test_a_timeout_ends_a_batch_of_many_products(kind: FaultKind | None) -> None:
    """
    `timeout=5` with 9,000 records over 40 products: over within 5 s and the attempt on the wire,
    and no call starts after that. Core F12, F13
    """
    service = MemoryService(lambda number, _: kind)
    service.round_trip = ROUND_TRIP

    async def run() -> tuple[float, BatchMeterUsageResult]:
        async with opened(service, calls_per_second=10) as client:
            began = loop_time()
            result = await client.batch_meter_usage(many(40, 225), timeout=5)
            return loop_time() - began, result

    took, result = run_virtual(run())

    assert took <= 5 + ROUND_TRIP + 0.1
    assert service.last_at <= 5.1
    assert 9000 == len(result)


@pytest.mark.parametrize("kind", [FaultKind.ERROR_500, FaultKind.THROTTLE, None])
@pytest.mark.parametrize("pending", [500, 2000, 9000])
def test_a_drain_ends_in_time(pending: int, kind: FaultKind | None) -> None:
    """
    `drain(timeout=5)` in an outage: over within 5 s and the attempt on the wire; no call starts
    after that, and every caller has its verdict. Core F12
    """
    service = MemoryService(lambda number, _: kind)
    service.round_trip = ROUND_TRIP

    async def run() -> tuple[float, float, list[RecordResult], list[RecordResult]]:
        async with opened(service, calls_per_second=10) as client:
            batcher = UsageBatcher(client)
            callers = [
                asyncio.create_task(batcher.meter(record)) for record in many(40, pending // 40)
            ]
            await asyncio.sleep(2)
            began = loop_time()
            unsure = await batcher.drain(timeout=5)
            took = loop_time() - began
            results = await asyncio.gather(*callers)
            return began, took, unsure, list(results)

    began, took, unsure, results = run_virtual(run())

    assert took <= 5 + ROUND_TRIP + 0.1
    assert service.last_at <= began + 5.1
    assert len(unsure) == sum(r.metered is not True for r in results)


def test_a_timeout_counts_the_reading_of_the_source() -> None:
    """
    A source that takes 500 s: over after 5 s, with results for what was read. Core F21
    """
    service = MemoryService()

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(500):
            yield record
            await asyncio.sleep(1)

    async def run() -> tuple[float, BatchMeterUsageResult]:
        async with opened(service) as client:
            began = loop_time()
            result = await client.batch_meter_usage(source(), timeout=5)
            return loop_time() - began, result

    took, result = run_virtual(run())

    assert took <= 5.1
    assert {S.UNPROCESSED: len(result)} == result.counts
    assert 5 <= len(result) <= 6
    assert [] == service.requests


def test_a_stream_that_is_stopped_while_its_source_is_slow() -> None:
    """
    `stop=` ends it at once; what was read has its result. Core F21
    """
    service = MemoryService()
    stop = asyncio.Event()

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(500):
            yield record
            await asyncio.sleep(100)

    async def run() -> tuple[float, list[RecordResult]]:
        async with opened(service) as client:
            began = loop_time()
            asyncio.get_running_loop().call_later(250, stop.set)
            found = [r async for r in client.iter_batch_meter_usage(source(), stop=stop)]
            return loop_time() - began, found

    took, found = run_virtual(run())

    assert took <= 250.1
    assert [S.SUCCESS] * 3 == [r.status for r in found]


def trouble(share: float, seed: int) -> Any:
    """Throttle or fail so many of all calls, at random."""
    random = Random(seed)
    kinds = [FaultKind.THROTTLE, FaultKind.ERROR_500, FaultKind.ERROR_503, FaultKind.RESET_AFTER]

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | None:
        return random.choice(kinds) if random.random() < share else None

    return fault_of


SIZES = [10_000, in_campaigns(30_000)]


@pytest.mark.parametrize("size", [*SIZES, in_campaigns(300_000)])
@pytest.mark.parametrize("calls_per_second", [10.0, None])
def test_nothing_is_given_up_while_the_service_is_well(
    calls_per_second: float | None, size: int
) -> None:
    """
    2 % of the calls throttled or failing, the quota configured or found: all are metered. Core F11
    """
    faults, quota = trouble(0.02, 7), slow_quota(10)
    service = MemoryService(lambda n, body: quota(n, body) or faults(n, body))

    result = batch(service, usage(size), calls_per_second=calls_per_second)

    assert {S.SUCCESS, S.DUPLICATE_RECORD} >= set(result.counts)
    assert size == len(service.book)


@pytest.mark.parametrize("size", SIZES)
def test_after_an_outage_nothing_is_given_up(size: int) -> None:
    """
    Ten minutes of outage half-way, then well but for throttles: all is metered. Core F11, F13
    """
    random = Random(3)
    half_way = size / 25 / 10 / 2

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | None:
        if half_way < loop_time() < half_way + 600:
            return FaultKind.ERROR_500
        return FaultKind.THROTTLE if random.random() < 0.1 else None

    service = MemoryService(fault_of)

    result = batch(service, usage(size), calls_per_second=10)

    assert {S.SUCCESS: size} == result.counts


def test_a_lane_that_fails_ends_while_another_progresses() -> None:
    """
    One product always fails; its records end after `timeout`, and the other's are metered. Core F13
    """
    service = MemoryService(
        lambda n, body: FaultKind.ERROR_500 if body["ProductCode"] == "bad" else None
    )

    async def run() -> tuple[float, BatchMeterUsageResult]:
        policy = RetryPolicy(timeout=60)
        async with opened(service, retry=policy, calls_per_second=10) as client:
            records = usage(2000, product_code="bad") + usage(20_000, product_code="good")
            began = loop_time()
            return loop_time() - began, await client.batch_meter_usage(records)

    _, result = run_virtual(run())

    assert 20_000 == result.counts[S.SUCCESS]
    assert 2000 == len(result) - 20_000
    assert not any(r.metered for r in result if getattr(r.record, "product_code", "") == "bad")
