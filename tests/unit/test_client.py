"""The client: what batch_meter_usage and its stream do with whatever the service does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from itertools import product
from random import Random
from typing import Any, assert_type

import pytest
from support.figures import DOORS, batch, send_through
from support.memory import MemoryService, client_of, metered, untrue, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConflictingRecordsError,
    DeliveryTimeoutError,
    InvalidRecordError,
    NoRegionError,
    OutOfWindowError,
    TransportError,
)
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import Book, FaultKind, Product, Refusal, Rules
from marketplace_metering_async.service_errors import (
    InvalidCustomerIdentifierException,
    InvalidProductCodeException,
)

S = RecordStatus


@pytest.mark.parametrize("door", DOORS)
def test_full_chunks_and_results_in_order(door: str) -> None:
    """
    Any number of records goes out in full chunks of 25, and results come in the caller's order.
    Covers: B04
    """
    service = MemoryService()
    records = usage(1003)

    results = send_through(door, service, records)

    assert [25] * 40 + [3] == sorted(service.sizes, reverse=True)
    assert records == [r.record for r in results]
    assert [S.SUCCESS] * 1003 == [r.status for r in results]


@pytest.mark.parametrize("door", DOORS)
def test_one_product_a_request_and_licenses_without_product_code(door: str) -> None:
    """
    Products never share a request, and license records go without a product code. Covers: B03
    """
    service = MemoryService()
    arn = "arn:aws:license-manager::123456789012:license:l-{}"
    licensed = [record for n, record in enumerate(usage(30, license_arn=arn.format("a"))) if n % 2]

    products = usage(30, product_code="a") + usage(30, product_code="b")
    results = send_through(door, service, products + licensed)

    codes = {body.get("ProductCode") for body in service.requests}
    assert {"a", "b", None} == codes
    assert all(
        ("LicenseArn" in record) == ("ProductCode" not in body)
        for body in service.requests
        for record in body["UsageRecords"]
    )
    assert [5, 5, 15, 25, 25] == sorted(service.sizes)
    assert [S.SUCCESS] * 75 == [r.status for r in results]


def test_empty_batch_makes_no_request() -> None:
    """
    Nothing given is nothing sent, even without a region. Covers: V11
    """
    service = MemoryService()

    async def send() -> Any:
        async with client_of(service, region_name=None) as client:
            return await client.batch_meter_usage([])

    result = run_virtual(send())

    assert 0 == len(result) == len(service.requests)


def test_what_is_no_record_gets_a_verdict_with_its_path() -> None:
    """
    A mapping that makes no valid record is rejected with the path, and stops nothing else.
    """
    service = MemoryService()
    (good,) = usage(1)

    result = batch(service, [{"Dimension": "x"}, good, 7, good.to_boto()], product_code="other")

    assert [S.REJECTED, S.SUCCESS, S.REJECTED, S.SUCCESS] == [r.status for r in result]
    assert "records[0].timestamp: expected a time with a time zone" in str(result[0].error)
    assert result[2].record == 7


@pytest.mark.parametrize("door", DOORS)
def test_identical_records_are_sent_once_and_share_the_verdict(door: str) -> None:
    """
    Every member equal: one is sent, the others name it.
    """
    service = MemoryService()
    first, second = usage(2)

    results = send_through(door, service, [first, second, first, first])

    assert [2] == service.sizes
    assert [None, None, 0, 0] == [r.duplicate_of for r in results]
    assert [S.SUCCESS] * 4 == [r.status for r in results]


@pytest.mark.parametrize("door", DOORS)
def test_records_of_one_key_that_differ_are_not_sent(door: str) -> None:
    """
    None of them is, and each names all of them. Covers: V16
    """
    service = MemoryService()
    (one,) = usage(1)
    (other,) = usage(1, timestamp=one.timestamp + timedelta(minutes=5))
    (third,) = usage(1, quantity=99)

    results = send_through(door, service, [one, *usage(3)[1:], other, third, one])

    assert [S.SUCCESS] * 2 == [r.status for r in results[1:3]]
    for refused in (results[0], *results[3:]):
        assert S.REJECTED is refused.status
        assert isinstance(refused.error, ConflictingRecordsError)
        assert (0, 3, 4, 5) == refused.error.positions
    assert [2] == service.sizes


def test_records_that_stand_pages_apart() -> None:
    """
    Identical ones share a verdict and differing ones are refused, with faults on the way.
    """
    service = MemoryService(lambda n, body: FaultKind.UNPROCESSED if n % 7 == 0 else None)
    (other,) = usage(1, quantity=99)
    given_ = usage(32768 + 200)
    given_[32768 - 1], given_[32768 + 100] = given_[2], given_[7]
    given_ += [other, {"no": "record"}, *usage(3)[1:]]  # type: ignore[list-item]
    size = len(given_)

    result = batch(service, given_)

    unlike = {0: S.REJECTED, size - 4: S.REJECTED, size - 3: S.REJECTED}
    same = {size - 2: 1, size - 1: 2, 32768 - 1: 2, 32768 + 100: 7}
    assert [unlike.get(at, S.SUCCESS) for at in range(size)] == [r.status for r in result]
    assert same == {r.position: r.duplicate_of for r in result if r.duplicate_of is not None}
    assert all(r.record is given_[r.position] for r in result)
    assert not untrue((r for r in result if r.position != size - 3), service.book)
    assert size - len(unlike) - len(same) == len(metered(service.book))


def test_out_of_window_is_rejected_unsent() -> None:
    """
    Certainly too old, or more than 15 minutes ahead, by a time that the service has confirmed: no
    call is spent on it. Covers: H05, H06
    """
    service = MemoryService()
    confirming = usage(1, dimension="confirming")
    old = usage(1, timestamp=START - timedelta(hours=24, minutes=6))
    ahead = usage(1, timestamp=START + timedelta(minutes=16))
    edge = usage(2, timestamp=START - timedelta(hours=23, minutes=58))[1:]

    async def send() -> Any:
        async with client_of(service) as client:
            await client.batch_meter_usage(confirming)
            return await client.batch_meter_usage(old + ahead + edge)

    result = run_virtual(send())

    assert [S.REJECTED, S.REJECTED, S.SUCCESS] == [r.status for r in result]
    assert all(isinstance(r.error, OutOfWindowError) for r in result[:2])
    assert [1, 1] == service.sizes


@pytest.mark.parametrize(
    ("resend", "word"), [("success", S.SUCCESS), ("duplicate", S.DUPLICATE_RECORD)]
)
def test_a_request_that_a_proxy_doubles_is_billed_once(resend: Any, word: S) -> None:
    """
    The same bytes twice are one record, whichever of the two answers comes back. Covers: W12
    """

    class Doubling(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            await super().send(request, timeout=timeout)
            return await super().send(request, timeout=timeout)

    service = Doubling(book=Book(rules=Rules(identical_resend=resend)))
    records = usage(30)

    result = batch(service, records)

    assert {word: 30} == result.counts
    assert [r.quantity for r in records] == sorted(r.quantity for r in service.book.records)


def test_records_near_an_edge_travel_apart() -> None:
    """
    A refusal for the sake of the window costs only the records that are near its edge.
    """
    service = MemoryService()
    edge = usage(3, dimension="late", timestamp=START - timedelta(hours=23, minutes=57))

    batch(service, usage(20) + edge)

    assert [3, 20] == service.sizes
    assert all(r["Dimension"] == "late" for r in service.requests[0]["UsageRecords"])


@pytest.mark.parametrize("culprit", range(25))
def test_one_culprit_of_25_costs_at_most_eleven_calls(culprit: int) -> None:
    """
    24 are metered, one is rejected with the service's own error. Covers: S05, S06, S07
    """
    records = usage(25)
    known = {r.customer_aws_account_id or "": True for r in records if r is not records[culprit]}
    service = MemoryService(book=Book(products={"product": Product(customers=known)}))

    result = batch(service, records)

    assert isinstance(result[culprit].error, InvalidCustomerIdentifierException)
    assert {S.SUCCESS: 24, S.REJECTED: 1} == result.counts
    assert len(service.requests) <= 9


def test_a_wrong_product_code_stops_its_lane_only() -> None:
    """
    No search, no burnt record: open records are unprocessed, with the error. Covers: S10, A07
    """
    service = MemoryService(book=Book(products={"good": Product()}))

    result = batch(
        service, usage(500, product_code="bad") + usage(50, product_code="good"), max_concurrency=2
    )

    assert {S.SUCCESS: 50, S.UNPROCESSED: 500} == result.counts
    assert isinstance(result[0].error, InvalidProductCodeException)
    assert len(service.requests) <= 2 + 2


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "UnrecognizedClientException", "DisabledApiException"]
)
def test_an_account_fault_stops_everything(code: str, door: str) -> None:
    """
    Nothing new starts, and no record is burnt. Covers: S11, S12
    """
    service = MemoryService(lambda number, body: Refusal(code, "no", 403))

    results = send_through(door, service, usage(3000), max_concurrency=4)

    assert [S.UNPROCESSED] * 3000 == [r.status for r in results]
    assert len(service.requests) <= 4
    assert code == getattr(results[2999].error, "code", None)


def test_a_passing_refusal_invents_no_culprit() -> None:
    """
    Where the parts of a refused chunk are all taken, nobody is blamed. Covers: S18
    """
    service = MemoryService(
        lambda number, body: Refusal("InvalidTagException", "") if number == 1 else None
    )

    result = batch(service, usage(25))

    assert {S.SUCCESS: 25} == result.counts


@pytest.mark.parametrize("resend", ["duplicate", "success"])
@pytest.mark.parametrize("lost", [1, 2, 5])
def test_a_lost_answer_is_followed_by_the_identical_records(lost: int, resend: Any) -> None:
    """
    Applied k times without an answer, the records are on file once. Covers: W05, S16
    """
    service = MemoryService(
        lambda number, body: FaultKind.RESET_AFTER if number <= lost else None,
        book=Book(rules=Rules(identical_resend=resend)),
    )
    records = usage(25)

    result = batch(service, records)

    assert 25 == len(service.book)
    assert all(body == service.requests[0] for body in service.requests)
    assert {resend == "success"} == {r.metered is True for r in result}
    assert not untrue(result, service.book)
    if resend == "duplicate":
        assert all(r.ambiguous and r.metered is None for r in result)
        assert "most likely this record" in result[0].advice


def test_unconfirmed_when_no_answer_ever_comes() -> None:
    """
    It is never called a failure: the record may be metered. Covers: W05, S01
    """
    service = MemoryService(lambda number, body: FaultKind.RESET_AFTER)

    result = batch(service, usage(30), retry=RetryPolicy(max_attempts=3))

    assert {S.UNCONFIRMED: 30} == result.counts
    assert all(r.attempts == 3 for r in result)
    assert all(isinstance(r.error, TransportError) for r in result)
    assert_type(result.unprocessed_records, list[UsageRecord | Mapping[str, Any]])
    assert 30 == len(result.unprocessed_records)


def test_unprocessed_records_travel_on_with_others() -> None:
    """
    What chunks leave open fills the next chunks, so calls stay few. Covers: S17
    """
    service = MemoryService(lambda number, body: FaultKind.UNPROCESSED if number <= 20 else None)

    result = batch(service, usage(1000), max_concurrency=4)

    assert {S.SUCCESS: 1000} == result.counts
    assert len(service.requests) <= 40 + 20 * 10 // 25 + 12


def test_left_unprocessed_for_ever_ends_by_policy() -> None:
    """
    It ends as unprocessed: not metered, not at fault; and the sending slows down. Covers: S17, T11
    """
    book = Book()

    class Never(MemoryService):
        def _left(self, fault: Any, body: dict[str, Any]) -> list[int]:
            return list(range(len(body["UsageRecords"])))

    never = Never(book=book)

    result = batch(never, usage(5), retry=RetryPolicy(timeout=60))

    assert {S.UNPROCESSED: 5} == result.counts
    assert "left the record unprocessed" in result[0].advice
    assert 0 == len(book)
    assert len(never.requests) < 30


def test_an_unheard_of_status_is_no_success() -> None:
    """
    It is kept verbatim and unconfirmed. Covers: R09
    """
    service = MemoryService(lambda number, body: FaultKind.UNKNOWN_STATUS)

    result = batch(service, usage(3))

    (unheard,) = result.failed
    assert S.UNCONFIRMED is unheard.status
    assert "Postponed" == unheard.service_status
    assert {S.SUCCESS: 2, S.UNCONFIRMED: 1} == result.counts


def test_not_subscribed_after_a_lost_answer_stays_open() -> None:
    """
    A refusal of state does not settle the doubt of an earlier attempt. Covers: S14
    """
    records = usage(2)
    customers = {
        records[0].customer_aws_account_id or "": False,
        records[1].customer_aws_account_id or "": True,
    }
    service = MemoryService(
        lambda number, body: FaultKind.RESET_BEFORE if number == 1 else None,
        book=Book(products={"product": Product(customers=customers)}),
    )

    result = batch(service, records)

    assert [S.UNCONFIRMED, S.SUCCESS] == [r.status for r in result]
    assert "CustomerNotSubscribed" == result[0].service_status


def test_timeout_returns_every_verdict_known() -> None:
    """
    After the timeout nothing new starts; the rest is unprocessed. Covers: C20
    """
    service = MemoryService()

    result = batch(service, usage(2000), calls_per_second=10, timeout=2.0)

    assert len(result) == 2000
    assert result.counts[S.SUCCESS] == len(service.book) > 0
    assert isinstance(result[1999].error, DeliveryTimeoutError)
    assert not untrue(result, service.book)


def test_the_quota_holds() -> None:
    """
    Known to be ten calls a second, no more than that and the burst are made in any second.
    """
    times: list[float] = []

    def note(_: int, __: dict[str, Any]) -> None:
        times.append(asyncio.get_running_loop().time())

    batch(MemoryService(note), usage(2000), calls_per_second=10.0)

    assert 80 == len(times)
    assert all(sum(t <= u < t + 1 for u in times) <= 20 for t in times)
    assert times[-1] <= 1.05 * 7.0


def test_no_more_than_max_concurrency_on_the_wire() -> None:
    """
    Two batches of one client share its places.
    """

    async def two() -> int:
        service = MemoryService()
        async with client_of(service, max_concurrency=5) as client:
            await asyncio.gather(
                client.batch_meter_usage(usage(500, product_code="a")),
                client.batch_meter_usage(usage(500, product_code="b")),
            )
        return service.most_in_flight

    assert 5 == run_virtual(two())


def test_streams_begin_before_the_source_ends_and_hold_it_back() -> None:
    """
    The source is read only as far ahead as is needed; results come while it goes on.
    """
    records = usage(20_000)
    taken = 0

    async def source() -> AsyncIterator[UsageRecord]:
        nonlocal taken
        for record in records:
            taken += 1
            yield record

    async def stream() -> int:
        async with client_of(MemoryService(), max_concurrency=4) as client:
            results = client.iter_batch_meter_usage(source())
            seen = [await anext(results) for _ in range(100)]
            ahead = taken
            seen += [result async for result in results]
            assert sorted(r.position for r in seen) == list(range(20_000))
            assert all(r.status is S.SUCCESS for r in seen)
            return ahead

    assert run_virtual(stream()) < 1000


def test_a_slow_source_gets_its_results_all_the_same() -> None:
    """
    Chunks with room left go once the source is silent for a while.
    """

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(3):
            yield record
        await asyncio.sleep(3600)

    async def stream() -> float:
        client = client_of(MemoryService())
        async with client, aclosing(client.iter_batch_meter_usage(source())) as results:
            for _ in range(3):
                await anext(results)
            return asyncio.get_running_loop().time()

    assert run_virtual(stream()) < 5


@pytest.mark.parametrize(
    "error",
    [
        OSError("the file is gone"),
        asyncio.CancelledError("gone"),
        GeneratorExit("gone"),
        BaseExceptionGroup("gone", [GeneratorExit()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_source_that_raises_loses_nothing(error: BaseException) -> None:
    """
    All results of what was read come out first, then the error; also where something was cancelled
    that the source waits for, which is no end of the source, or where another library has an
    exception of its own for that. Covers: V13
    """
    service = MemoryService()

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(60):
            yield record
        raise error

    async def stream() -> list[RecordResult]:
        seen = []
        async with client_of(service) as client:
            with pytest.raises(type(error), match="gone"):
                async for result in client.iter_batch_meter_usage(source()):
                    seen.append(result)
        return seen

    assert 60 == len(run_virtual(stream())) == len(service.book)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_source_that_ends_the_program_ends_it_at_once(error: type[BaseException]) -> None:
    """
    As asyncio has it: an outage would keep it for a quarter of an hour.
    """

    async def source() -> AsyncIterator[UsageRecord]:
        for record in usage(60):
            yield record
        raise error

    async def stream() -> None:
        async with client_of(MemoryService(), clock=SystemClock()) as client:
            async for _ in client.iter_batch_meter_usage(source()):
                pass

    with pytest.raises(error):
        asyncio.run(stream())


def test_closing_a_stream_early_leaves_nothing_running() -> None:
    """
    The rest is not sent, and no task stays behind.
    """
    service = MemoryService()

    async def stream() -> None:
        async with client_of(service, max_concurrency=2) as client:
            results = client.iter_batch_meter_usage(usage(5000))
            await anext(results)
            await results.aclose()
            sent = len(service.requests)
            await asyncio.sleep(60)
            assert sent == len(service.requests)

    run_virtual(stream())


def test_cancelling_leaves_nothing_running() -> None:
    """
    At every moment of a delivery; the virtual loop counts the tasks at the end.
    Covers: C01, C02, C03, C04, C10, C26
    """

    async def cancelled(after: float) -> None:
        service = MemoryService(lambda n, body: FaultKind.RESET_AFTER if n % 3 == 0 else None)
        async with client_of(service, calls_per_second=50) as client:
            sending = asyncio.create_task(client.batch_meter_usage(usage(1000)))
            await asyncio.sleep(after)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert 0 == service.in_flight
            result = await client.batch_meter_usage(usage(30, product_code="again"))
            assert {S.SUCCESS, S.DUPLICATE_RECORD} >= set(result.counts)

    for step in range(40):
        run_virtual(cancelled(step * 0.011))


def test_closing_during_a_send_gives_every_record_a_verdict() -> None:
    """
    aclose() stops new attempts; calling it twice is fine. Covers: C11, C12
    """

    async def close() -> None:
        service = MemoryService()
        client = client_of(service, calls_per_second=10)
        await client.batch_meter_usage(usage(1, product_code="first"))
        sending = asyncio.create_task(client.batch_meter_usage(usage(1000)))
        await asyncio.sleep(1.5)
        await client.aclose()
        await client.aclose()
        result = await sending
        assert len(result) == 1000
        assert not untrue(result, service.book)
        assert result.counts[S.UNPROCESSED] > 0
        with pytest.raises(ClientClosedError):
            await client.batch_meter_usage(usage(1))

    run_virtual(close())


def test_another_loop_is_told() -> None:
    """
    A client belongs to the loop of its first call. Covers: C16
    """
    client = client_of(MemoryService())

    async def once() -> None:
        await client.batch_meter_usage(usage(1))

    run_virtual(once())
    with pytest.raises(ClientClosedError, match="another event loop"):
        run_virtual(once())


def test_no_region_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """
    Where nothing could be started, the call raises and says what to set.
    """
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    async def send() -> None:
        async with client_of(MemoryService(), region_name=None) as client:
            await client.batch_meter_usage(usage(1))

    with pytest.raises(NoRegionError, match="AWS_REGION"):
        asyncio.run(send())


def test_bad_product_code_argument_is_a_verdict() -> None:
    """
    Whatever is wrong with the call's product code is said of each record.
    """
    service = MemoryService()

    result = batch(service, usage(2, product_code=None), product_code="no spaces")

    assert {S.REJECTED: 2} == result.counts
    assert isinstance(result[0].error, InvalidRecordError)
    assert not service.requests


def test_swapped_answers_meter_nothing_by_mistake() -> None:
    """
    An answer that belongs to another request is no answer. Covers: W13
    """

    class CrossTalk(MemoryService):
        kept: Any = None

        async def _answer(self, request: Any, timeout: float) -> Any:
            answer = await super()._answer(request, timeout)
            if len(self.requests) <= 2:
                self.kept, answer = answer, self.kept or answer
            return answer

    service = CrossTalk()

    result = batch(service, usage(50), max_concurrency=1)

    assert len(service.book) == 50
    assert not untrue(result, service.book)
    assert all(r.metered is not False for r in result)


def test_a_refusal_of_our_own_making_stops_the_lane() -> None:
    """
    Where the service finds every request invalid, no record is burnt on it: three chunks are
    searched to the last record, and nothing else of the lane is tried. (core F1) Covers: S20
    """
    service = MemoryService(lambda number, body: Refusal("ValidationException", "no"))

    result = batch(service, usage(1000), max_concurrency=1)

    tried = {r["CustomerAWSAccountId"] for body in service.requests for r in body["UsageRecords"]}
    assert {S.UNPROCESSED: 1000} == result.counts
    assert 75 == len(tried)
    assert len(service.requests) <= 3 * 49


def test_steps_of_the_wall_clock_do_not_matter_on_the_way() -> None:
    """
    Waiting goes by monotonic time; timestamps are fixed. Covers: T12, H02
    """

    class Stepping(VirtualClock):
        def now(self) -> datetime:
            return super().now() + timedelta(minutes=int(self.monotonic() * 7) % 30)

    service = MemoryService(lambda number, body: FaultKind.ERROR_500 if number % 3 == 0 else None)

    result = batch(service, usage(500), clock=Stepping())

    assert {S.SUCCESS: 500} == result.counts
    assert service.last_at < 60


def test_there_is_one_retry_layer() -> None:
    """
    Every HTTP request is an attempt that is counted. Covers: T13
    """
    service = MemoryService(lambda number, body: FaultKind.RESET_BEFORE)

    result = batch(service, usage(25), retry=RetryPolicy(max_attempts=4))

    assert 4 == result.calls == len(service.requests)
    assert {4} == {r.attempts for r in result}


def test_licenses_that_do_not_mix_are_divided_once() -> None:
    """
    License records without a product share a lane until a mixture is refused. Covers: S08, V06
    """
    arn = "arn:aws:license-manager::123456789012:license:l-{}"
    accounts = [f"{n:012d}" for n in range(40)]
    products = {
        "a": Product(licenses={arn.format(n): accounts[n] for n in range(20)}),
        "b": Product(licenses={arn.format(n): accounts[n] for n in range(20, 40)}),
    }
    records = [
        UsageRecord(
            timestamp=START - timedelta(hours=hour),
            dimension="requests",
            quantity=1,
            customer_aws_account_id=accounts[n],
            license_arn=arn.format(n),
        )
        for hour in range(1, 6)
        for n in range(40)
    ]
    service = MemoryService(book=Book(products=products))

    result = batch(service, records)

    assert {S.SUCCESS: 200} == result.counts
    assert len(service.requests) <= 8 + 40


def _sometimes(kind: FaultKind, random: Random) -> Any:
    return lambda number, body: kind if random.random() < 0.3 else None


def test_metered_once_through_every_fault() -> None:
    """
    Every kind of fault at every call: the book has each record at most once, rightly, and no
    verdict contradicts it.
    """
    for kind, resend, seed in product(FaultKind, ("duplicate", "success"), range(2)):
        if kind in (FaultKind.REFUSE, FaultKind.REDIRECT, FaultKind.SLOW):
            continue
        random = Random(f"{kind}{seed}")
        service = MemoryService(
            _sometimes(kind, random),
            book=Book(rules=Rules(identical_resend=resend)),  # type: ignore[arg-type]
            seed=seed,
        )
        records = usage(260, product_code="a") + usage(60, product_code="b")

        result = batch(service, records, retry=RetryPolicy(max_attempts=8), max_concurrency=4)

        context = f"{kind} {resend} seed {seed}"
        assert 320 == len(result), context
        assert not untrue(result, service.book), context
        expected = {
            (r.product_code, r.customer_aws_account_id, r.dimension, r.timestamp): r.quantity
            for r in records
        }
        assert metered(service.book).items() <= expected.items(), context
