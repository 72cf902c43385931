"""The batcher: what leaves when, who is told what, and that nobody is left behind."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from campaigns import load
from support.memory import MemoryService, client_of, metered, usage
from support.virtual import run_virtual

from marketplace_metering_async import (
    ClientClosedError,
    KeyAlreadySentError,
    MarketplaceMeteringClient,
    RecordStatus,
    RetryPolicy,
    UsageBatcher,
    UsageRecord,
)
from marketplace_metering_async.batcher import _PendingLimit
from marketplace_metering_async.errors import ConfigurationError, UnexpectedError
from marketplace_metering_async.events import BatchReleased, CallEnded, Event, Settled
from marketplace_metering_async.flow.pacing import AdaptivePacer
from marketplace_metering_async.records import Tag, UsageAllocation
from marketplace_metering_async.sandbox import FaultKind, Refusal

Results = list[Any]


@asynccontextmanager
async def batcher_of(
    service: MemoryService, *, client: MarketplaceMeteringClient | None = None, **settings: Any
) -> AsyncIterator[UsageBatcher]:
    """A batcher of an open client: opening looks into files in a thread, and virtual time jumps."""
    async with client or client_of(service) as opened:
        await opened.endpoint()
        async with UsageBatcher(opened, **settings) as batcher:
            yield batcher


async def metered_by(
    records: list[UsageRecord], service: MemoryService, **settings: Any
) -> Results:
    """Meter all *records* at once and return what their callers were told."""
    async with batcher_of(service, **settings) as batcher:
        return list(await asyncio.gather(*(batcher.meter(record) for record in records)))


async def metered_once_the_first_has_left(
    records: list[UsageRecord], service: MemoryService
) -> Results:
    """Meter the first of *records*, and the others while it is on the wire."""
    async with batcher_of(service) as batcher:
        first = asyncio.create_task(batcher.meter(records[0]))
        await asyncio.sleep(0.06)
        return list(await asyncio.gather(first, *map(batcher.meter, records[1:])))


def test_a_lone_record_waits_for_linger_and_no_longer() -> None:
    """
    It leaves then, whatever comes. Covers: B01
    """
    service = MemoryService()

    async def run() -> float:
        async with batcher_of(service, linger=0.5) as batcher:
            await batcher.meter(usage(1)[0])
            return asyncio.get_running_loop().time()

    assert run_virtual(run()) == pytest.approx(0.52)


def test_a_full_request_waits_for_nothing() -> None:
    """
    The linger is for what is not full.
    """
    service = MemoryService()

    async def run() -> float:
        async with batcher_of(service, linger=60) as batcher:
            await asyncio.gather(*(batcher.meter(record) for record in usage(25)))
            return asyncio.get_running_loop().time()

    assert run_virtual(run()) == pytest.approx(0.02)


def test_at_the_quota_requests_are_full() -> None:
    """
    250 records a second from 200 tasks over three products, ten calls a second: at least 95 %.
    """
    service = MemoryService()
    records = {p: usage(2_500, product_code=p) for p in ("a", "b", "c")}

    async def caller(batcher: UsageBatcher, group: asyncio.TaskGroup, number: int) -> None:
        await asyncio.sleep(0.004 * number)
        for turn in range(37):
            record = records["abc"[number % 3]][turn * 67 + number // 3]
            group.create_task(batcher.meter(record))
            await asyncio.sleep(0.8)

    async def run() -> None:
        client = client_of(service, calls_per_second=10.0)
        async with batcher_of(service, client=client) as batcher, asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(caller(batcher, group, number))

    run_virtual(run())

    steady = service.sizes[40:-20]  # once the burst of a rested account is over
    assert sum(steady) >= 0.95 * 25 * len(steady)
    assert 200 * 37 == len(service.book)


def test_only_so_many_are_pending() -> None:
    """
    Further callers wait; nothing is dropped. Covers: C23, B06
    """
    service = MemoryService()
    pending: list[int] = []

    async def run() -> None:
        async with batcher_of(
            service, client=client_of(service, calls_per_second=10.0), max_pending=60
        ) as batcher:
            callers = [asyncio.create_task(batcher.meter(r)) for r in usage(400)]
            while not all(task.done() for task in callers):
                pending.append(batcher.waiting + batcher.in_flight)
                await asyncio.sleep(0.05)

    run_virtual(run())

    assert 400 == len(service.book)
    assert 60 >= max(pending)


def test_a_flood_of_one_product_starves_no_other() -> None:
    """
    Covers: T09
    """
    service = MemoryService()

    async def run() -> float:
        async with batcher_of(
            service, client=client_of(service, calls_per_second=10.0), max_pending=2_000
        ) as batcher:
            flood = [
                asyncio.create_task(batcher.meter(r)) for r in usage(8_000, product_code="flood")
            ]
            await asyncio.sleep(1)
            begun = asyncio.get_running_loop().time()
            await batcher.meter(usage(1, product_code="other")[0])
            waited = asyncio.get_running_loop().time() - begun
            await asyncio.gather(*flood)
            return waited

    assert run_virtual(run()) < 6


def test_identical_records_share_a_verdict() -> None:
    """
    Also with one that has its verdict already; none is sent twice. Covers: B05
    """
    service = MemoryService()
    (record,) = usage(1)

    async def run() -> Results:
        async with batcher_of(service) as batcher:
            first = await asyncio.gather(*(batcher.meter(record) for _ in range(3)))
            return [*first, await batcher.meter(record)]

    results = run_virtual(run())

    assert [1] == service.sizes
    assert [None, 0, 0, 0] == [result.duplicate_of for result in results]
    assert all(result.metered for result in results)


def test_only_the_latest_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A batcher runs for months: an older record that comes again is the service's to know.
    """
    monkeypatch.setattr(f"{_PendingLimit.__module__}._KEYS_REMEMBERED", 2)
    service, records = MemoryService(), usage(3)

    async def run() -> None:
        async with batcher_of(service) as door:
            for record in (*records, *records[::-1]):
                await door.meter(record)

    run_virtual(run())

    assert [1] * 4 == service.sizes


def test_a_place_that_comes_at_the_moment_of_cancelling_is_given_on() -> None:
    """
    Or the batcher would take one record fewer at a time from then on.
    """

    async def run() -> None:
        limit = _PendingLimit(1)
        await limit.enter("p")
        waiting = asyncio.create_task(limit.enter("p"))
        await asyncio.sleep(0)
        limit.leave()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1):
            await limit.enter("p")

    run_virtual(run())


def test_records_that_differ_in_the_writing_alone_share_a_verdict() -> None:
    """
    17 = 17.0 = 17.00, also once it has its verdict; 17.000001 is another record.
    """
    service = MemoryService()
    same = [usage(1, quantity=quantity)[0] for quantity in (17, "17.0", Decimal("17.00"))]
    (other,) = usage(1, quantity="17.000001")

    results = run_virtual(metered_once_the_first_has_left([*same, other], service))

    assert [1] == service.sizes
    assert [None, 0, 0, None] == [result.duplicate_of for result in results]
    assert isinstance(results[3].error, KeyAlreadySentError)


def test_a_different_record_of_a_key_is_rejected_once_the_first_is_metered() -> None:
    """
    Its quantity is never added silently.
    """
    service = MemoryService()
    (record,) = usage(1)
    (other,) = usage(1, quantity=77)

    first, second = run_virtual(metered_once_the_first_has_left([record, other], service))

    assert RecordStatus.SUCCESS is first.status
    assert RecordStatus.REJECTED is second.status
    assert isinstance(second.error, KeyAlreadySentError)
    assert "coalesce" in second.advice
    assert [1] == service.sizes


def test_a_different_record_of_a_key_is_sent_where_the_first_was_not_metered() -> None:
    """
    A refusal leaves the key free.
    """
    refusal = Refusal("InvalidTagException", "no such tag")
    service = MemoryService(lambda number, body: refusal if number == 1 else None)
    (record,) = usage(1)
    (other,) = usage(1, quantity=77)

    first, second = run_virtual(metered_once_the_first_has_left([record, other], service))

    assert (RecordStatus.REJECTED, RecordStatus.SUCCESS) == (first.status, second.status)


def test_an_unconfirmed_record_may_be_sent_again_and_no_other_of_its_key() -> None:
    """
    Only the identical one is harmless.
    """
    service = MemoryService(lambda number, body: FaultKind.RESET_AFTER if number == 1 else None)
    (record,) = usage(1)
    (other,) = usage(1, quantity=77)

    async def run() -> Results:
        client = client_of(service, retry=RetryPolicy(max_attempts=1))
        async with batcher_of(service, client=client) as batcher:
            return [
                await batcher.meter(record),
                await batcher.meter(other),
                await batcher.meter(record),
            ]

    first, second, third = run_virtual(run())

    assert (RecordStatus.UNCONFIRMED, RecordStatus.REJECTED) == (first.status, second.status)
    assert RecordStatus.DUPLICATE_RECORD is third.status
    assert 2 == len(service.requests)


def test_a_cancelled_caller_takes_its_record_back_before_it_goes() -> None:
    """
    And afterwards nobody else's. Covers: C01, C07, C08
    """
    service = MemoryService()
    early, late, other = usage(3)

    async def run() -> Results:
        async with batcher_of(service, linger=1) as batcher:
            withdrawn = asyncio.create_task(batcher.meter(early))
            await asyncio.sleep(0.5)
            withdrawn.cancel()
            gone = asyncio.create_task(batcher.meter(late))
            kept = asyncio.create_task(batcher.meter(other))
            await asyncio.sleep(1.005)
            gone.cancel()
            return list(await asyncio.gather(withdrawn, gone, kept, return_exceptions=True))

    withdrawn, gone, kept = run_virtual(run())

    assert isinstance(withdrawn, asyncio.CancelledError)
    assert isinstance(gone, asyncio.CancelledError)
    assert kept.metered
    assert [2] == service.sizes


@pytest.mark.parametrize(("quantity", "at"), [(1, 0.5), (99, 1.5)])
def test_a_cancelled_caller_of_another_record_of_a_key_makes_room(quantity: int, at: float) -> None:
    """
    Of an identical one that shares the verdict, or of a different one that waits for it.
    """
    service = MemoryService()
    service.round_trip = 2.0
    (first, last), (other,) = usage(2, quantity=1), usage(1, quantity=quantity)

    async def run() -> tuple[Results, float]:
        async with batcher_of(service, linger=1, max_pending=2) as batcher:
            kept = asyncio.create_task(batcher.meter(first))
            await asyncio.sleep(at)
            gone = asyncio.create_task(batcher.meter(other))
            waiting = asyncio.create_task(batcher.meter(last))
            await asyncio.sleep(0.1)
            before = batcher.waiting
            gone.cancel()
            await asyncio.sleep(0.1)
            entered = batcher.waiting - before
            results = await asyncio.gather(kept, gone, waiting, return_exceptions=True)
            return list(results), entered

    (kept, gone, waiting), entered = run_virtual(run())

    assert isinstance(gone, asyncio.CancelledError)
    assert 1 == entered
    assert kept.metered
    assert waiting.metered


def test_each_caller_gets_an_exception_of_its_own() -> None:
    """
    Raised by several, one object would grow a traceback of all.
    """
    refusal = Refusal("InvalidProductCodeException", "no such product")
    service = MemoryService(lambda number, body: refusal)

    results = run_virtual(metered_by(usage(5), service))

    assert 5 == len({id(result.error) for result in results})
    assert {RecordStatus.UNPROCESSED} == {result.status for result in results}


def test_flush_returns_when_all_have_their_verdict() -> None:
    """
    Without waiting for the linger.
    """
    service = MemoryService()

    async def run() -> tuple[float, int]:
        async with batcher_of(service, linger=60) as batcher:
            callers = [asyncio.create_task(batcher.meter(r)) for r in usage(7)]
            await asyncio.sleep(0)
            await batcher.flush()
            await asyncio.gather(*callers)
            return asyncio.get_running_loop().time(), len(service.book)

    time, on_file = run_virtual(run())

    assert 7 == on_file
    assert time == pytest.approx(0.02)


def test_drain_returns_what_is_not_metered_for_certain() -> None:
    """
    In time, with a dead service; every caller is told, and nothing is sent afterwards. Covers: C11
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_503)

    async def run() -> tuple[list[Any], list[Any], int]:
        async with client_of(service) as client:
            await client.endpoint()
            batcher = UsageBatcher(client)
            callers = [asyncio.create_task(batcher.meter(r)) for r in usage(30)]
            await asyncio.sleep(0)
            left = await batcher.drain(timeout=3)
            sent = len(service.requests)
            await asyncio.sleep(100)
            assert sent == len(service.requests)
            with pytest.raises(ClientClosedError):
                await batcher.meter(usage(1)[0])
            return left, list(await asyncio.gather(*callers)), sent

    left, told, sent = run_virtual(run())

    assert 30 == len(left) == len(told)
    assert {True} == {result.retryable for result in told}
    assert 2 <= sent


def test_drain_names_what_had_left_when_its_caller_went_away() -> None:
    """Its verdict is lost to the caller, not to the one who shuts down."""
    service = MemoryService(lambda number, body: FaultKind.RESET_AFTER)

    async def run() -> list[Any]:
        async with client_of(service) as client:
            await client.endpoint()
            batcher = UsageBatcher(client, linger=0)
            caller = asyncio.create_task(batcher.meter(usage(1)[0]))
            await asyncio.sleep(1)
            caller.cancel()
            return await batcher.drain(timeout=3)

    (left,) = run_virtual(run())

    assert left.status is RecordStatus.UNCONFIRMED


def test_callers_that_wait_for_room_are_told_of_the_end() -> None:
    """
    Nobody is left waiting. Covers: C12
    """
    service = MemoryService()

    async def run() -> Results:
        async with client_of(service) as client:
            batcher = UsageBatcher(client, max_pending=5)
            callers = [asyncio.create_task(batcher.meter(r)) for r in usage(8)]
            await asyncio.sleep(0)
            await asyncio.gather(batcher.aclose(), batcher.aclose())
            return list(await asyncio.gather(*callers, return_exceptions=True))

    results = run_virtual(run())

    assert 3 == sum(isinstance(result, ClientClosedError) for result in results)
    assert 5 == len(service.book)


@pytest.mark.parametrize("closing", [CallEnded, Settled])
def test_who_is_let_in_at_the_moment_of_closing_is_not_left_waiting(closing: type[Event]) -> None:
    """
    The place of the one that has its verdict is given on before the batcher knows that it closes.
    """
    service, draining = MemoryService(), list[asyncio.Task[Any]]()

    async def run() -> Results:
        def drain_then(event: Event) -> None:
            if isinstance(event, closing) and not draining:
                draining.append(asyncio.create_task(batcher.drain()))

        async with client_of(service, observer=drain_then) as client:
            await client.endpoint()
            batcher = UsageBatcher(client, linger=0.01, max_pending=2)
            callers = [asyncio.create_task(batcher.meter(r)) for r in usage(4)]
            ended, _ = await asyncio.wait(callers, timeout=60)
            await draining[0]
            assert len(callers) == len(ended)
            return list(await asyncio.gather(*callers, return_exceptions=True))

    results = run_virtual(run())

    assert [RecordStatus.SUCCESS] * 2 == [result.status for result in results[:2]]
    assert [ClientClosedError] * 2 == [type(result) for result in results[2:]]
    assert 2 == len(service.book)


def test_a_client_that_is_closed_first_leaves_nobody_waiting() -> None:
    """
    What was not sent says so.
    """
    service = MemoryService()

    async def run() -> Results:
        client = client_of(service)
        batcher = UsageBatcher(client, linger=5)
        callers = [asyncio.create_task(batcher.meter(r)) for r in usage(3)]
        await asyncio.sleep(0)
        await client.aclose()
        results = await asyncio.gather(*callers)
        with pytest.raises(ClientClosedError):
            await batcher.meter(usage(1)[0])
        await batcher.aclose()
        return list(results)

    results = run_virtual(run())

    assert {RecordStatus.UNPROCESSED} == {result.status for result in results}


def test_a_sender_that_dies_of_a_bug_is_told_and_replaced() -> None:
    """
    Nobody is left waiting, and what comes next is sent. Covers: C19
    """

    class BrokenOnce(AdaptivePacer):
        broken = True

        def start(self, now: float) -> float:
            if self.broken:
                self.broken = False
                raise KeyError("a bug")
            return super().start(now)

    service = MemoryService()

    async def run() -> Results:
        client = client_of(service, pacer=BrokenOnce(None), max_concurrency=1)
        async with batcher_of(service, client=client) as batcher:
            return [await batcher.meter(record) for record in usage(2)]

    first, second = run_virtual(run())

    assert (RecordStatus.UNPROCESSED, RecordStatus.SUCCESS) == (first.status, second.status)
    assert isinstance(first.error, UnexpectedError)


def test_a_bad_record_is_rejected_without_a_call() -> None:
    """
    The place is named.
    """
    service = MemoryService()

    async def run() -> Any:
        async with batcher_of(service) as batcher:
            return await batcher.meter({"Dimension": "d"})

    result = run_virtual(run())

    assert RecordStatus.REJECTED is result.status
    assert "timestamp" in str(result.error)
    assert [] == service.requests


def test_large_records_go_as_soon_as_they_fill_a_request() -> None:
    """
    The byte limit lets records go as their number does. Covers: W18
    """
    service = MemoryService()
    parts = tuple(
        UsageAllocation(1, tuple(Tag(f"{n}-{t}".rjust(100, "k"), "v" * 256) for t in range(5)))
        for n in range(200)
    )
    records = usage(4, quantity=200, usage_allocations=parts)

    async def run() -> float:
        async with batcher_of(service, linger=60) as batcher:
            callers = [asyncio.create_task(batcher.meter(r)) for r in records]
            await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
            return asyncio.get_running_loop().time()

    assert run_virtual(run()) < 1
    assert 4 == len(service.book)


def test_whoever_observes_is_told_of_queue_wait_and_flight() -> None:
    """
    In values, as they change.
    """
    told: list[BatchReleased] = []
    service = MemoryService()

    async def run() -> None:
        client = client_of(
            service, observer=lambda e: told.append(e) if isinstance(e, BatchReleased) else None
        )
        async with batcher_of(service, client=client, linger=0.5) as batcher:
            await asyncio.gather(*(batcher.meter(r) for r in usage(30)))

    run_virtual(run())

    assert [(25, 5, 25), (5, 0, 5)] == [(t.records, t.waiting, t.in_flight) for t in told]
    assert [0.0, pytest.approx(0.5)] == [t.waited for t in told]


@pytest.mark.parametrize(("name", "value"), [("linger", -1), ("max_pending", 0)])
def test_settings_are_looked_at(name: str, value: float) -> None:
    """
    Before anything is sent.
    """
    with pytest.raises(ValueError, match=name):
        UsageBatcher(client_of(MemoryService()), **{name: value})  # type: ignore[arg-type]


def test_the_book_equals_what_callers_were_told() -> None:
    """
    Under faults, to the unit.
    """
    kinds = [
        FaultKind.THROTTLE,
        FaultKind.RESET_AFTER,
        FaultKind.UNPROCESSED,
        FaultKind.ERROR_500_AFTER,
        FaultKind.DROP,
    ]
    service = MemoryService(lambda number, body: kinds[number % 17] if number % 17 < 5 else None)
    records = usage(3_000)

    results = run_virtual(metered_by(records, service))

    on_file = metered(service.book)
    assert sum(r.quantity for r in records) == sum(on_file.values())
    assert all(result.metered is not False for result in results)


async def test_a_sandbox_with_faults_equals_what_callers_were_told() -> None:
    """
    Over real sockets; many more records are one command (load.py).
    """
    told, sandbox = await load.load(2_000, 100, seed=1)

    assert [] == load.differences(told, sandbox)
    assert 2_000 == len(told)


async def test_a_client_that_cannot_open_leaves_nobody_waiting() -> None:
    """
    Also where more records wait than may be in flight: each caller is told why.
    """
    client = MarketplaceMeteringClient(
        region_name="us-east-1",
        endpoint_url="http://example.com",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    records = usage(2500, timestamp=datetime.now(UTC))
    async with asyncio.timeout(60), UsageBatcher(client, linger=0.01) as batcher:
        results = await asyncio.gather(*map(batcher.meter, records))

    assert {RecordStatus.UNPROCESSED} == {result.status for result in results}
    assert all(isinstance(result.error, ConfigurationError) for result in results)


def test_callers_who_gave_up_waiting_for_a_place_leave_nothing_behind() -> None:
    """
    In an outage each caller with a time limit of its own would have left something in the line.
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_500)

    def futures() -> int:
        return sum(type(one) is asyncio.Future for one in gc.get_objects())

    async def run() -> tuple[int, Results]:
        async with client_of(service) as client:
            batcher = UsageBatcher(client, max_pending=2)
            pending = [asyncio.create_task(batcher.meter(record)) for record in usage(2)]
            await asyncio.sleep(1)
            before = futures()
            for record in usage(200, dimension="later"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await batcher.meter(record)
            left = futures() - before
            await batcher.drain(timeout=1)
            return left, await asyncio.gather(*pending)

    left, results = run_virtual(run())

    assert left < 100
    assert 2 == len(results)


class Held:
    """What a request keeps in its context, such as a session of a database."""


REQUEST: ContextVar[Held | None] = ContextVar("request", default=None)


@pytest.mark.parametrize("begun_by", ["meter", "leave", "flush", "drain"])
def test_what_a_batcher_does_is_in_no_callers_context(begun_by: str) -> None:
    """
    Nor is that held: while records kept coming, all calls and lines of the log named the request
    that had brought the first of them, and what that request had used could not be let go.
    """
    seen: set[Held | None] = set()
    service = MemoryService()

    async def request(batcher: UsageBatcher, record: UsageRecord) -> "weakref.ref[Held]":
        held = Held()
        REQUEST.set(held)
        metering = asyncio.create_task(batcher.meter(record))
        await asyncio.sleep(0)
        if begun_by == "leave":
            metering.cancel()
        elif begun_by != "meter":
            await getattr(batcher, begun_by)()
        await asyncio.gather(metering, return_exceptions=True)
        assert held is REQUEST.get()
        return weakref.ref(held)

    async def run() -> None:
        client = client_of(service, observer=lambda event: seen.add(REQUEST.get()))
        async with batcher_of(service, client=client, linger=0.2) as batcher:
            first, *others = usage(40)
            coming = asyncio.create_task(meter_one_by_one(batcher, others))
            held = await asyncio.create_task(request(batcher, first))
            await asyncio.sleep(1)
            gc.collect()
            assert None is held()
            await asyncio.gather(coming, return_exceptions=True)

    async def meter_one_by_one(batcher: UsageBatcher, records: list[UsageRecord]) -> None:
        async with asyncio.TaskGroup() as group:
            for record in records:
                await asyncio.sleep(0.05)
                group.create_task(batcher.meter(record))

    run_virtual(run())

    assert {None} == seen
