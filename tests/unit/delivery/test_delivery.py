"""Where calls, stops, searches and cancellations meet in the delivery: nothing is lost."""

import asyncio
import importlib
import sys
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from support.figures import DOORS, CountingLoop, batch, opened, refusing, send_through, through
from support.memory import MemoryService, client_of, metered, usage
from support.virtual import START, run_virtual

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.errors import (
    DeliveryTimeoutError,
    OutOfWindowError,
    UnexpectedError,
)
from marketplace_metering_async.events import Event, Retrying
from marketplace_metering_async.flow.pacing import AdaptivePacer, CallEnd
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind, Refusal

S = RecordStatus


class Longest(Random):
    """Makes every delay as long as it may be."""

    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize("code", ["ValidationException", "InvalidUsageDimensionException"])
def test_a_refusal_that_comes_after_the_stop_leaves_no_doubt(code: str) -> None:
    """
    The time is over while a request is on the wire that is then refused: no search begins, and none
    of its records is in doubt. Core F21
    """
    service = MemoryService(refusing(lambda r: True, code))
    service.round_trip = 4.0

    result = batch(service, usage(25), timeout=1.0)

    assert [25] == service.sizes
    assert {S.UNPROCESSED: 25} == result.counts
    assert {False} == {r.metered for r in result}
    assert {DeliveryTimeoutError} == {type(r.error) for r in result}


def test_what_failed_together_backs_off_as_the_one_that_failed_most_often() -> None:
    """
    A record that joins one which has failed before waits as long as that one.
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_503 if number < 3 else None)
    events: list[Event] = []

    async def run() -> None:
        async with (
            opened(service, observer=events.append, random=Longest()) as client,
            UsageBatcher(client, linger=0.2) as batcher,
            asyncio.TaskGroup() as group,
        ):
            one, other = usage(2)
            group.create_task(batcher.meter(one))
            await asyncio.sleep(0.25)  # it is on the wire, or rests
            group.create_task(batcher.meter(other))

    run_virtual(run())

    assert [1, 2, 2] == service.sizes
    assert [(1, 0.1), (2, 0.2)] == [(e.attempt, e.delay) for e in events if type(e) is Retrying]


def test_what_backs_off_is_tried_again_before_its_window_closes() -> None:
    """
    Its next delay would end after that: it comes again within half the time that is left.
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_503 if is_down() else None)

    def is_down() -> bool:
        return asyncio.get_running_loop().time() < 20

    closing = START - timedelta(hours=24) + timedelta(seconds=21)

    result = batch(service, usage(1, timestamp=closing), random=Longest())

    assert {S.SUCCESS: 1} == result.counts
    assert len(service.requests) < 15


def test_what_fails_backs_off_when_its_window_should_have_closed_as_well() -> None:
    """
    Within five minutes of the edge it is tried, since the clocks may differ, but at no other pace:
    it would take every other call from those that wait.
    """
    closed = START - timedelta(hours=24, minutes=1)
    late = usage(1, timestamp=closed)[0]
    service = MemoryService(
        lambda number, body: FaultKind.ERROR_503 if len(body["UsageRecords"]) == 1 else None
    )

    result = batch(service, [late, *usage(2500)], calls_per_second=10.0, random=Longest())

    assert {S.SUCCESS: 2500, S.UNCONFIRMED: 1} == result.counts
    assert isinstance(result[0].error, OutOfWindowError)
    assert 10 < result[0].attempts < 24


def test_the_end_of_the_time_says_what_was_wrong_until_then() -> None:
    """
    A wrong address, an outage: who limits the time would otherwise never learn of it. A record that
    was never tried has nothing to say.
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_503 if number else None)

    result = batch(service, usage(50), timeout=5.0, max_concurrency=1)

    tried = [r for r in result if r.attempts and not r.metered]
    untried = [r for r in result if not r.attempts]
    assert tried
    assert {DeliveryTimeoutError} == {type(r.error) for r in (*tried, *untried)}
    for one in tried:
        assert "the time allowed for the call is over; before that: HTTP 503" in str(one.error)
        assert "HTTP 503" in one.advice
    assert {"the time allowed for the call is over"} >= {str(one.error) for one in untried}


def test_a_part_that_needs_no_call_any_more_loses_nobody() -> None:
    """
    The part of a search is settled otherwise before its turn, while other chunks wait for the
    search: they are searched next. Core F18
    """
    bad = {f"{n:012d}" for n in range(0, 100, 10)}
    refused = refusing(
        lambda r: r["CustomerAWSAccountId"] in bad, "InvalidCustomerIdentifierException"
    )
    service = MemoryService(refused)
    service.round_trip = 1.0
    hours = [
        usage(100, dimension=f"dimension-{n}") for n in range(4)
    ]  # each bad customer is in four chunks, which are refused at once

    result = batch(service, [r for hour in hours for r in hour])

    assert {S.SUCCESS: 360, S.REJECTED: 40} == result.counts


class _EndsBadly(AdaptivePacer):
    """A pacer with a bug when the third call ends."""

    ended = 0

    def end(self, now: float, how: CallEnd, *, retry_after: float | None = None) -> None:
        self.ended += 1
        super().end(now, how, retry_after=retry_after)
        if self.ended == 3:
            raise KeyError("a bug")


@pytest.mark.parametrize("door", DOORS)
def test_a_bug_of_the_pacer_when_a_call_ends_costs_no_verdict(door: str) -> None:
    """
    The response has come: what it says is true, whatever the pacer makes of it. Core F18
    """
    service = MemoryService()

    results = send_through(door, service, usage(200), pacer=_EndsBadly(None), max_concurrency=2)

    assert 200 == len(results)
    assert [True] * 200 == [r.metered for r in results]


class _StartsBadly(AdaptivePacer):
    """A pacer with a bug at its third call."""

    asked = 0

    def start(self, now: float) -> float:
        self.asked += 1
        if self.asked == 3:
            raise KeyError("a bug")
        return super().start(now)


@pytest.mark.parametrize("door", DOORS)
def test_a_bug_of_the_pacer_before_a_call_leaves_nobody_waiting(door: str) -> None:
    """
    What was on the wire has the service's verdict; what was not sent says so. Core F18
    """
    service = MemoryService()

    results = send_through(door, service, usage(200), pacer=_StartsBadly(None), max_concurrency=2)

    assert 200 == len(results)
    assert {S.SUCCESS, S.UNPROCESSED} >= {r.status for r in results}
    assert len(service.book) == sum(r.metered is True for r in results) > 0
    assert all(isinstance(r.error, UnexpectedError) for r in results if not r.metered)


def break_once(
    place: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, at: int = 2
) -> None:
    """Let the function at *place* raise *error*, once: when it is called for the n-th time."""
    parts = place.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        break
    for name in parts[size:-1]:
        owner = getattr(owner, name)
    real, calls = getattr(owner, parts[-1]), 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, parts[-1], broken)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "place",
    [
        "marketplace_metering_async.delivery.decisions.on_reply",
        "marketplace_metering_async.delivery.verdicts.answered",
        "marketplace_metering_async.aws.wire.read_reply",
        "marketplace_metering_async.aws.wire.encode_batch",
        "marketplace_metering_async.delivery.stops.Progress.made",
        "marketplace_metering_async.delivery.delivery.screen",
        "marketplace_metering_async.delivery.feed.Feed._forget",
        "marketplace_metering_async.delivery.feed.Feed._remember",
        "marketplace_metering_async.delivery.feed.RecordResult",
        "marketplace_metering_async.batcher._PendingLimit.leave",
    ],
)
def test_a_bug_anywhere_ends_the_records_that_it_touched_and_no_others(
    place: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One verdict for each record; the chunk that met the bug says so, with its true doubt. Core F18
    """
    break_once(place, KeyError("a bug"), monkeypatch)
    service = MemoryService()

    results = send_through(door, service, usage(200), max_concurrency=2)

    touched = [r for r in results if r.status is not S.SUCCESS]
    assert 200 == len(results)
    assert 25 >= len(touched)
    assert all(isinstance(r.error, UnexpectedError) for r in touched)
    assert not [r for r in touched if r.metered is False and _is_on_file(service, r)]
    assert not [r for r in results if r.metered and not _is_on_file(service, r)]


@pytest.mark.parametrize("door", DOORS)
def test_a_bug_in_giving_up_is_not_met_for_all_time(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is left then ends by the net below it: nobody waits.
    """

    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Backlog, "drop", broken)
    service = MemoryService(lambda number, body: Refusal("AccessDeniedException", "no"))

    results = send_through(door, service, usage(200), max_concurrency=2)

    assert list(range(200)) == sorted(r.position for r in results)
    assert not any(r.metered for r in results)


class _TimeLimit(BaseException):
    """What a worker raises wherever its job happens to be, and what asyncio's callbacks survive."""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "place",
    [
        "marketplace_metering_async.delivery.stops.Progress.made",
        "marketplace_metering_async.delivery.batch.Batch.settle",
        "marketplace_metering_async.delivery.feed.Feed.settle",
        "marketplace_metering_async.delivery.feed.Feed._remember",
        "marketplace_metering_async.batcher._PendingLimit.leave",
    ],
)
@pytest.mark.parametrize("records", [200, 25])
def test_what_is_raised_in_the_midst_of_a_job_leaves_nobody_waiting(
    place: str,
    door: str,
    records: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    Dramatiq's time limit, for one: the calls went on, and the job never ended. Whoever runs the
    event loop hears of it. Core F18
    """
    break_once(place, _TimeLimit(), monkeypatch, at=2 if records > 25 else 1)
    service = MemoryService()

    results = send_through(door, service, usage(records), max_concurrency=2)

    touched = [r for r in results if r.status is not S.SUCCESS]
    assert list(range(records)) == sorted(r.position for r in results)
    assert 25 >= len(touched)
    assert not [r for r in touched if r.metered is False and _is_on_file(service, r)]
    assert not touched or "_TimeLimit" in caplog.text


def _is_on_file(service: MemoryService, result: RecordResult) -> bool:
    account = getattr(result.record, "customer_aws_account_id", None)
    return any(key[1] == account for key in metered(service.book))


def test_a_caller_that_left_after_its_rival_was_settled_is_not_sent() -> None:
    """
    A different record of a key waits for the first; the first is not metered, the other one joins
    in its place, and its caller leaves before it goes. Core F10
    """
    service = MemoryService(lambda n, _: Refusal("InvalidTagException"))
    (first,), (rival,) = usage(1), usage(1, quantity=99)

    async def run() -> RecordResult:
        async with opened(service) as client, UsageBatcher(client, linger=1.0) as batcher:
            one = asyncio.create_task(batcher.meter(first))
            await asyncio.sleep(1.005)  # it is on the wire
            other = asyncio.create_task(batcher.meter(rival))
            result = await one
            await asyncio.sleep(0.1)
            other.cancel()
            await asyncio.sleep(2)
            return result

    assert S.REJECTED is run_virtual(run()).status
    assert [1] == service.sizes


@pytest.mark.parametrize("turns", range(10))
def test_a_record_that_differs_is_not_metered_with_one_that_leaves(turns: int) -> None:
    """
    It comes in the very turn between the last look at the first record and its leaving, or in any
    other: where the first goes out, what was never sent is refused. Law 3
    """
    service = MemoryService()
    (first,), (rival,) = usage(1), usage(1, quantity=99)

    async def run() -> tuple[RecordResult, RecordResult, RecordResult]:
        async with opened(service) as client, UsageBatcher(client, linger=0) as batcher:
            one = asyncio.create_task(batcher.meter(first))
            for _ in range(turns):
                await asyncio.sleep(0)
            return await asyncio.gather(one, batcher.meter(rival), batcher.meter(first))

    one, other, same = run_virtual(run())

    is_sent = one.status is S.SUCCESS
    assert ([1] if is_sent else []) == service.sizes
    assert S.REJECTED is other.status
    assert ("KeyAlreadySentError" if is_sent else "ConflictingRecordsError") == (
        type(other.error).__name__
    )
    assert one.status is same.status
    assert (0 if is_sent else None) == same.duplicate_of


def test_five_calls_one_after_the_other_start_few_tasks() -> None:
    """
    At most three a call, whatever `max_concurrency` is. Law 16
    """
    service = MemoryService()

    async def run() -> int:
        async with opened(service, max_concurrency=500) as client, UsageBatcher(client) as batcher:
            with CountingLoop() as counting:
                for record in usage(5):
                    await batcher.meter(record)
            return counting.started

    assert run_virtual(run()) <= 15


@pytest.mark.parametrize("door", DOORS)
def test_no_door_starts_more_tasks_than_three_a_call(door: str) -> None:
    """
    A thousand records in forty calls. Law 16
    """
    service = MemoryService()

    async def run() -> int:
        async with opened(service, max_concurrency=500) as client:
            with CountingLoop() as counting:
                await through(door, client, usage(1000))
            return counting.started - (1000 if door == "batcher" else 0)

    assert run_virtual(run()) <= 3 * 40 + 6


@pytest.mark.parametrize("door", DOORS)
def test_an_event_loop_that_cancels_everything_leaves_nobody_waiting(door: str) -> None:
    """
    All tasks but the caller's are cancelled at each moment of a delivery: it ends all the same,
    with a verdict for each record, none of them a lie. Core F18
    """
    for moment in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07):
        service = MemoryService()

        async def run(moment: float = moment, service: MemoryService = service) -> Any:
            async with opened(service, max_concurrency=1) as client:
                sending = asyncio.create_task(through(door, client, usage(60)))
                await asyncio.sleep(moment)
                spared = {asyncio.current_task(), sending}
                for task in asyncio.all_tasks() - spared:
                    task.cancel()
                async with asyncio.timeout(100):
                    return (await asyncio.gather(sending, return_exceptions=True))[0]

        results = run_virtual(run())
        if isinstance(results, asyncio.CancelledError):
            continue
        assert 60 == len(results)
        for r in results:
            if isinstance(r, asyncio.CancelledError):
                continue
            on_file = _is_on_file(service, r)
            assert r.metered is None or r.metered == on_file, (moment, r)


@pytest.mark.parametrize(("sent", "status"), [(False, S.UNPROCESSED), (True, S.UNCONFIRMED)])
def test_one_whose_dispatcher_was_cancelled_while_it_slept_is_not_left_waiting(
    sent: bool,  # noqa: FBT001
    status: RecordStatus,
) -> None:
    """
    Nothing is on the wire then; once something was, nobody knows. Later records go. Core F18
    """
    service = MemoryService()

    async def run() -> tuple[RecordResult, RecordResult]:
        async with opened(service) as client, UsageBatcher(client, linger=5.0) as batcher:
            if sent:
                await batcher.meter(usage(1, dimension="before")[0])
            waiting = asyncio.create_task(batcher.meter(usage(1)[0]))
            await asyncio.sleep(1.0)
            for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
                task.cancel()
            async with asyncio.timeout(1.0):
                cut_off = await waiting
            return cut_off, await batcher.meter(usage(1, dimension="after")[0])

    cut_off, later = run_virtual(run())

    assert status is cut_off.status
    assert isinstance(cut_off.error, UnexpectedError)
    assert sent is cut_off.ambiguous
    assert S.SUCCESS is later.status


@pytest.mark.parametrize("door", DOORS)
def test_one_who_is_cancelled_at_any_turn_keeps_no_place_on_the_wire(door: str) -> None:
    """
    Also where the task of a call had not begun: others send at once. Law 10
    """
    service = MemoryService()

    async def run() -> int:
        async with opened(service, max_concurrency=1) as client:
            for turns in range(30):
                sending = asyncio.create_task(through(door, client, usage(60)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                sending.cancel()
                await asyncio.wait({sending})
                async with asyncio.timeout(60):
                    result = await client.batch_meter_usage(usage(1, dimension=f"after-{turns}"))
                assert 1 == result.counts[S.SUCCESS], turns
            return turns

    assert 29 == run_virtual(run())


@pytest.mark.parametrize("door", ["batch", "stream"])
@pytest.mark.parametrize("moment", [0.0, 0.005, 0.3, 0.6, 1.2])
def test_one_who_is_cancelled_twice_leaves_nothing_running(door: str, moment: float) -> None:
    """
    The second cancellation comes while the first is being dealt with. Law 10
    """
    service = MemoryService()

    async def source() -> Any:
        for record in usage(60):
            yield record
            await asyncio.sleep(0.1)

    async def send(client: Any) -> None:
        if door == "batch":
            await client.batch_meter_usage(usage(500))
        else:
            async for _ in client.iter_batch_meter_usage(source(), linger=5):
                pass

    async def run() -> None:
        async with opened(service, max_concurrency=1, calls_per_second=1) as client:
            sending = asyncio.create_task(send(client))
            await asyncio.sleep(moment)
            for _ in range(3):
                sending.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(sending, return_exceptions=True)

    run_virtual(run())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("licenses", ["a", "ab"])
@pytest.mark.parametrize("code_first", [True, False])
def test_one_hour_under_both_schemes_is_not_sent(
    door: str,
    licenses: str,
    code_first: bool,  # noqa: FBT001
) -> None:
    """
    The same customer, dimension, hour and product, with and without a license: the service would
    bill both, so neither is sent, however many licenses there are. Core F7
    """
    service = MemoryService()
    arns = [f"arn:aws:license-manager::123456789012:license:l-{one}" for one in licenses]
    licensed = [record for arn in arns for record in usage(1, license_arn=arn)]
    records = usage(1) + licensed if code_first else licensed + usage(1)

    *results, other = send_through(door, service, [*records, usage(2)[1]])

    assert {S.REJECTED} == {r.status for r in results}
    assert {"BothSchemesError"} == {type(r.error).__name__ for r in results}
    assert S.SUCCESS is other.status
    assert 1 == len(service.book)


def test_a_call_whose_task_cannot_be_made_gives_its_permit_back_once() -> None:
    """
    As where an eager task's first step raises: nobody is left waiting, and the wire is free.
    """
    failed: list[Any] = []

    def fail_once(loop: Any, coroutine: Any, **more: Any) -> Any:
        if "Call.make" in coroutine.__qualname__ and not failed:
            failed.append(coroutine)
            coroutine.close()
            raise MemoryError
        return asyncio.Task(coroutine, loop=loop, **more)

    async def run() -> tuple[Any, Any, int]:
        async with opened(MemoryService(), max_concurrency=1) as client:
            asyncio.get_running_loop().set_task_factory(fail_once)
            async with asyncio.timeout(60):
                first = await client.batch_meter_usage(usage(60))
                second = await client.batch_meter_usage(usage(60))
            return first.counts, second.counts, shared_of(client).permits._on_the_wire

    first, second, on_the_wire = run_virtual(run())

    assert {S.UNPROCESSED: 60} == first
    assert {S.SUCCESS: 60} == second
    assert 0 == on_the_wire
    assert failed


def test_a_call_that_answers_after_its_batch_was_cancelled_gives_its_permit_back_once() -> None:
    """
    As through a transport that does not heed being cancelled.
    """

    class Heedless(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(9.0)
            return await super().send(request, timeout=timeout)

    async def run() -> int:
        service = Heedless()
        async with opened(service) as client:
            sending = asyncio.create_task(client.batch_meter_usage(usage(25)))
            await asyncio.sleep(3.0)
            sending.cancel()
            await asyncio.wait([sending])
            await asyncio.sleep(60.0)
            assert [25] == service.sizes
            return shared_of(client).permits._on_the_wire

    assert 0 == run_virtual(run())


def test_a_call_that_has_left_is_in_doubt_when_it_is_cancelled_in_a_stopped_product() -> None:
    """
    Its records may be metered, though nothing more of the product is sent.
    """

    class SecondIsSlow(MemoryService):
        sends = 0

        async def send(self, request: Request, *, timeout: float) -> Response:
            number = self.sends
            self.sends += 1
            response = await super().send(request, timeout=timeout)
            await asyncio.sleep(9.0 * number)
            return response

    def refuse_first(number: int, body: Any) -> Refusal | None:
        return None if number > 1 else Refusal("InvalidProductCodeException")

    async def run() -> Any:
        async with opened(SecondIsSlow(refuse_first), max_concurrency=2) as client:
            sending = asyncio.create_task(client.batch_meter_usage(usage(75)))
            await asyncio.sleep(3.0)  # one is refused, and one on the wire
            (call,) = [t for t in asyncio.all_tasks() if "Call.make" in repr(t.get_coro())]
            call.cancel()
            return (await sending).counts

    assert {S.UNPROCESSED: 50, S.UNCONFIRMED: 25} == run_virtual(run())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin eagerly from Python 3.12 on")
def test_eager_tasks_and_a_client_that_is_closed_first() -> None:
    """
    Nobody is left waiting by meter() or drain(). Core F16
    """
    service = MemoryService()

    async def run() -> list[RecordResult]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        client = client_of(service)
        await client.endpoint()
        batcher = UsageBatcher(client)
        callers = [asyncio.create_task(batcher.meter(record)) for record in usage(3)]
        await client.aclose()
        async with asyncio.timeout(10):
            await batcher.drain(timeout=1.0)
            return list(await asyncio.gather(*callers))

    assert [S.UNPROCESSED] * 3 == [r.status for r in run_virtual(run())]


@pytest.mark.parametrize(
    "eagerly",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 12), reason="tasks begin eagerly from Python 3.12 on"
            ),
        ),
    ],
)
def test_a_batch_whose_time_was_over_before_it_was_read_starts_no_call(*, eagerly: bool) -> None:
    """
    Nor where tasks begin eagerly.
    """
    service = MemoryService()

    async def source() -> Any:
        for record in usage(60):
            yield record
        await asyncio.sleep(9.0)

    async def run() -> list[RecordResult]:
        if eagerly:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with opened(service) as client:
            await client.batch_meter_usage(usage(1, customer_aws_account_id="9" * 12))
            return list(await client.batch_meter_usage(source(), timeout=1.0))

    assert [S.UNPROCESSED] * 60 == [r.status for r in run_virtual(run())]
    assert 1 == len(service.requests)
