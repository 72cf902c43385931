"""Feeds: what records that come one by one have to do with those that came before them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import Context, ContextVar
from typing import Any

import pytest
from attrs import evolve
from support.memory import MemoryService, client_of, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.delivery.batch import UNCLEAR_SCHEMES
from marketplace_metering_async.errors import KeyAlreadySentError
from marketplace_metering_async.events import BatchEnded, CallEnded, Event, Settled, WarningIssued
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import Book, FaultKind, Refusal, Rules

LICENSE = "arn:aws:license-manager::111122223333:license:l-" + "0" * 32
NAME: ContextVar[str] = ContextVar("name")


def licensed(record: UsageRecord, product_code: str | None) -> UsageRecord:
    """Return the same usage by a license."""
    return evolve(record, license_arn=LICENSE, product_code=product_code)


def test_the_time_goes_on_while_records_come() -> None:
    """
    What is of the present hour is admitted hours after the batcher was made, and nothing that is of
    the future now.
    """
    clock = VirtualClock()
    service = MemoryService()

    async def run() -> list[RecordResult]:
        async with client_of(service, clock=clock) as client:
            await client.batch_meter_usage(usage(1))  # from now on the service's time is known
            async with UsageBatcher(client) as batcher:
                await clock.sleep(5 * 3600)
                results = []
                for ahead in (0, 2 * 3600):
                    moment = START.timestamp() + 5 * 3600 + ahead
                    when = clock.now().fromtimestamp(moment, START.tzinfo)
                    results.append(await batcher.meter(usage(1, timestamp=when)[0]))
                return results

    results = run_virtual(run())

    assert [RecordStatus.SUCCESS, RecordStatus.REJECTED] == [r.status for r in results]
    assert 2 == len(service.requests)


@pytest.mark.parametrize("door", ["stream", "batcher"])
def test_events_count_every_record_once(door: str) -> None:
    """
    Copies of what is on its way, what is remembered, and what is refused without a call.
    """
    events: list[Event] = []
    (first,), (rival,) = usage(1), usage(1, quantity=99)
    together: list[Any] = [first, first, {}, *usage(3)[1:]]
    later: list[Any] = [first, rival]

    async def run() -> list[RecordResult]:
        async with client_of(MemoryService(), observer=events.append) as client:
            if door == "stream":
                stream = client.iter_batch_meter_usage(together, linger=0.1)
                return [result async for result in stream]
            async with UsageBatcher(client, linger=0.1) as batcher:
                results = list(await asyncio.gather(*map(batcher.meter, together)))
                return [*results, *[await batcher.meter(record) for record in later]]

    results = run_virtual(run())

    expected = Counter(result.status for result in results)
    assert (5 if door == "stream" else 7) == expected.total()
    for kind in (Settled, BatchEnded):
        counted = Counter[RecordStatus]()
        for event in events:
            if isinstance(event, kind):
                counted.update(event.counts)
        assert expected == counted


@pytest.mark.parametrize("streamed", [True, False])
def test_schemes_that_may_be_of_one_product_are_warned_of_once(*, streamed: bool) -> None:
    """
    The service bills both, and nobody but the seller can know.
    """
    events: list[Event] = []
    records = usage(3)
    both = [*records, *(licensed(record, None) for record in records)]

    async def run() -> list[RecordResult]:
        async with client_of(MemoryService(), observer=events.append) as client:
            if not streamed:
                return list(await client.batch_meter_usage(both))
            return [result async for result in client.iter_batch_meter_usage(both, linger=0.1)]

    assert 6 == len(run_virtual(run()))
    warnings = [event for event in events if isinstance(event, WarningIssued)]
    assert [WarningIssued(text=UNCLEAR_SCHEMES)] == warnings


def test_schemes_are_compared_while_both_are_open() -> None:
    """
    One that has its verdict is no rival any more; the service's own word counts then.
    """
    (record,) = usage(1)

    async def run() -> list[RecordResult]:
        async with client_of(MemoryService()) as client, UsageBatcher(client) as batcher:
            by_license = licensed(record, record.product_code)
            one = await batcher.meter(by_license)
            other = await batcher.meter(record)
            together = await asyncio.gather(*map(batcher.meter, twice(record, by_license)))
            return [one, other, *together]

    def twice(*records: UsageRecord) -> list[UsageRecord]:
        return [evolve(one, dimension="seats") for one in records]

    success, rejected = RecordStatus.SUCCESS, RecordStatus.REJECTED
    results = run_virtual(run())
    assert [success, success, rejected, rejected] == [r.status for r in results]


class Callers:
    """An observer that notes whose records each call carried."""

    def __init__(self) -> None:
        self.of_calls: list[list[str]] = []

    def __call__(self, event: Event, /) -> None:
        """Calls come the other way."""

    def observe_call(
        self, call: CallEnded, records: Sequence[UsageRecord], callers: Sequence[Context] | None
    ) -> None:
        assert callers is not None
        self.of_calls.append(sorted(caller[NAME] for caller in callers))


def test_a_call_is_of_all_who_share_its_records() -> None:
    """
    Of those who gave an identical record too, and not of a rival's, who waits for the verdict, nor
    of one who has left.
    """
    service = MemoryService(lambda number, _: FaultKind.ERROR_503 if number == 1 else None)
    callers = Callers()
    (record,), (rival,) = usage(1), usage(1, quantity=99)

    async def meter(batcher: UsageBatcher, name: str, one: UsageRecord) -> RecordResult:
        NAME.set(name)
        return await batcher.meter(one)

    async def run() -> None:
        async with (
            client_of(service, observer=callers) as client,
            UsageBatcher(client) as batcher,
            asyncio.TaskGroup() as group,
        ):
            first = group.create_task(meter(batcher, "first", record))
            group.create_task(meter(batcher, "copy", record))
            await asyncio.sleep(0.06)  # it is on the wire
            group.create_task(meter(batcher, "rival", rival))
            group.create_task(meter(batcher, "late copy", record))
            await asyncio.sleep(0)
            first.cancel()

    run_virtual(run())

    assert [["copy", "first"], ["copy", "late copy"]] == callers.of_calls


@pytest.mark.parametrize("refused", [False, True])
def test_who_leaves_as_the_verdict_comes_is_gone(refused: bool) -> None:  # noqa: FBT001
    """
    The cancellation is raised, and the place is free again, once.
    """
    first, second, third = usage(3)
    metering: list[asyncio.Task[Any]] = []

    def cancel(event: Event) -> None:
        if isinstance(event, Settled) and metering:
            metering.pop().cancel()

    def fault(number: int, _: object) -> Refusal | None:
        return Refusal("InvalidTagException") if refused and number == 1 else None

    async def run() -> int:
        service = MemoryService(fault)
        async with client_of(service, observer=cancel) as client:
            await client.endpoint()
            async with UsageBatcher(client, max_pending=1) as batcher:
                task = asyncio.create_task(batcher.meter(first))
                metering.append(task)
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.gather(batcher.meter(second), batcher.meter(third))
        return max(service.sizes)

    assert 1 == run_virtual(run())


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("code_first", [False, True])
def test_the_second_scheme_of_an_hour_waits_for_the_verdict_on_the_first(
    is_refused: bool,  # noqa: FBT001
    code_first: bool,  # noqa: FBT001
) -> None:
    """
    One is on the wire when the other comes: to say that none was sent, and to advise to send the
    license's once, would bill the customer twice. Where the first is not metered, it is sent.
    """

    def of_first(number: int, _: Any) -> Refusal | None:
        return Refusal("InvalidTagException") if is_refused and number == 1 else None

    service = MemoryService(of_first)
    service.round_trip = 1.0
    (by_code,) = usage(1)
    pair = [by_code, licensed(by_code, "product")]

    async def run() -> list[RecordResult]:
        async with client_of(service) as client, UsageBatcher(client, linger=0) as batcher:
            await client.endpoint()
            first = asyncio.create_task(batcher.meter(pair[not code_first]))
            await asyncio.sleep(0.5)
            second = asyncio.create_task(batcher.meter(pair[code_first]))
            return [await first, await second]

    first, second = run_virtual(run())

    if is_refused:
        assert [RecordStatus.REJECTED, RecordStatus.SUCCESS] == [first.status, second.status]
    else:
        assert [RecordStatus.SUCCESS, RecordStatus.REJECTED] == [first.status, second.status]
        assert isinstance(second.error, KeyAlreadySentError)
    assert 1 == len(service.book)


def test_who_leaves_while_the_other_scheme_is_on_the_wire_is_not_sent() -> None:
    """
    Its caller gave up before anything of it had left: nobody knows of it any more.
    """
    service = MemoryService(
        lambda number, _: Refusal("InvalidTagException") if number == 1 else None
    )
    service.round_trip = 1.0
    (by_code,) = usage(1)

    async def run() -> RecordResult:
        async with client_of(service) as client, UsageBatcher(client, linger=0) as batcher:
            await client.endpoint()
            first = asyncio.create_task(batcher.meter(by_code))
            await asyncio.sleep(0.5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await batcher.meter(licensed(by_code, "product"))
            return await first

    assert RecordStatus.REJECTED == run_virtual(run()).status
    assert [1] == service.sizes


@pytest.mark.parametrize("is_later", [False, True])
def test_what_differs_from_a_record_that_is_not_metered_is_sent(
    is_later: bool,  # noqa: FBT001
) -> None:
    """
    The service had another quantity on file before the first came: which one, it does not say.
    """
    service = MemoryService(book=Book(rules=Rules(identical_resend="success")))
    service.round_trip = 1.0
    (on_file,) = usage(1)

    async def run() -> list[RecordResult]:
        async with client_of(service) as client:
            await client.batch_meter_usage([on_file])
            async with UsageBatcher(client, linger=0) as batcher:
                first = asyncio.create_task(batcher.meter(evolve(on_file, quantity=7)))
                await asyncio.sleep(2.0 if is_later else 0.5)
                second = asyncio.create_task(batcher.meter(on_file))
                return [await first, await second]

    first, second = run_virtual(run())

    assert [RecordStatus.DUPLICATE_RECORD, RecordStatus.SUCCESS] == [first.status, second.status]
    assert first.metered is False


def test_what_the_service_refuses_as_a_duplicate_is_not_sent_again() -> None:
    """
    Whoever tries again, as in a loop, learns the same without a call; only another record is sent.
    """
    service = MemoryService()
    (on_file,) = usage(1)
    other = evolve(on_file, quantity=7)

    async def run() -> list[RecordResult]:
        async with client_of(service) as client:
            await client.batch_meter_usage([on_file])
            async with UsageBatcher(client, linger=0) as batcher:
                return [await batcher.meter(other) for _ in range(3)]

    results = run_virtual(run())

    assert 3 * [RecordStatus.DUPLICATE_RECORD] == [result.status for result in results]
    assert [None, 0, 0] == [result.duplicate_of for result in results]
    assert 2 == len(service.sizes)
