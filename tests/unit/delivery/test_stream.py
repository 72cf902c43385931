"""Stopping a stream: nothing new starts, and no verdict is lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from support.memory import MemoryService, client_of, untrue, usage
from support.virtual import run_virtual

from marketplace_metering_async.errors import DeliveryTimeoutError
from marketplace_metering_async.events import BatchEnded, Event
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind


async def stopped_after(
    seconds: float, service: MemoryService, records: int = 5000
) -> tuple[list[RecordResult], int, float]:
    """Stop a stream; return its results, how many records were read, and how long it took."""
    stop = asyncio.Event()
    taken = 0

    async def source() -> AsyncIterator[UsageRecord]:
        nonlocal taken
        asyncio.get_running_loop().call_later(seconds, stop.set)
        for record in usage(records):
            taken += 1
            yield record
        await asyncio.sleep(3600)

    async with client_of(service, calls_per_second=10.0, max_concurrency=8) as client:
        results = [result async for result in client.iter_batch_meter_usage(source(), stop=stop)]
    return results, taken, asyncio.get_running_loop().time()


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.015, 0.5, 3.0])
def test_every_record_that_was_read_has_its_result(seconds: float) -> None:
    """
    What was on the wire is awaited, what was not is Unprocessed, and the source is left alone.
    """
    service = MemoryService()

    results, taken, ended = run_virtual(stopped_after(seconds, service))

    assert list(range(taken)) == sorted(result.position for result in results)
    counts = Counter(result.status for result in results)
    assert len(service.book) == counts[RecordStatus.SUCCESS]
    assert {RecordStatus.SUCCESS, RecordStatus.UNPROCESSED} >= set(counts)
    assert ended < seconds + 0.1
    for result in results:
        if result.status is RecordStatus.UNPROCESSED:
            assert isinstance(result.error, DeliveryTimeoutError)


def test_an_attempt_without_an_answer_leaves_a_doubt() -> None:
    """
    Records that wait for another attempt when the stream is stopped are Unconfirmed.
    """
    service = MemoryService(lambda number, body: FaultKind.RESET_AFTER)

    results, taken, _ = run_virtual(stopped_after(2.0, service, records=50))

    assert 50 == taken
    assert {RecordStatus.UNCONFIRMED} == {result.status for result in results}
    assert [] == untrue(results, service.book)


def test_a_stop_after_the_end_changes_nothing() -> None:
    """
    The stream has ended by itself.
    """

    async def stream() -> int:
        stop = asyncio.Event()
        async with client_of(MemoryService()) as client:
            results = client.iter_batch_meter_usage(usage(30), stop=stop)
            number = len([result async for result in results])
        stop.set()
        return number

    assert 30 == run_virtual(stream())


@pytest.mark.parametrize("tasks", ["lazy", "eager"])
def test_a_stop_that_waits_on_another_event_loop_is_an_error(tasks: str) -> None:
    """
    Such as one for the whole program, of which each job has an event loop of its own: the stream
    of the second job ended at once, as if it had been stopped, and read nothing.
    """
    factory = getattr(asyncio, "eager_task_factory", None)
    if tasks == "eager" and factory is None:
        pytest.skip("tasks begin eagerly from Python 3.12 on")
    stop = asyncio.Event()

    async def stream() -> int:
        if tasks == "eager":
            asyncio.get_running_loop().set_task_factory(factory)
        async with client_of(MemoryService()) as client:
            results = client.iter_batch_meter_usage(usage(30), stop=stop)
            return len([result async for result in results])

    assert 30 == run_virtual(stream())
    with pytest.raises(RuntimeError, match="is bound to a different event loop"):
        run_virtual(stream())
    stop.set()  # which every event loop sees
    assert 0 == run_virtual(stream())


def test_a_stream_reports_what_became_of_its_records() -> None:
    """
    Once, at its end; those that could not be sent are counted too.
    """
    events: list[Event] = []

    async def run() -> None:
        async with client_of(MemoryService(), observer=events.append) as client:
            async for _ in client.iter_batch_meter_usage([*usage(30), {}]):
                pass

    run_virtual(run())

    (ended,) = (event for event in events if isinstance(event, BatchEnded))
    assert {RecordStatus.SUCCESS: 30, RecordStatus.REJECTED: 1} == ended.counts


@pytest.mark.parametrize("door", ["batch", "stream", "closed"])
def test_a_source_that_catches_its_cancelling_is_left_all_the_same(door: str) -> None:
    """
    As `asyncio.wait_for` may of Python 3.11: the end would have waited for that of the source.
    """
    service = MemoryService()
    ended: list[float] = []

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(5000):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
            yield record

    async def send() -> list[RecordResult]:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with client_of(service) as client:
            if door == "batch":
                return list(await client.batch_meter_usage(source(), timeout=0.5))
            results = client.iter_batch_meter_usage(source(), stop=stop)
            if door == "stream":
                loop.call_later(0.5, stop.set)
                return [result async for result in results]
            taken = await anext(results)
            await results.aclose()
            ended.append(loop.time())
            return [taken]

    results = run_virtual(send())

    assert not untrue(results, service.book)
    assert 51 >= len(results) == len({result.position for result in results})
    assert all(1.1 > moment for moment in ended)
