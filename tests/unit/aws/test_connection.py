"""Calls: repairs of clock and credentials, the life of a client, events, and secrets."""

import asyncio
import gc
import json
import logging
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.aws import bare_machine
from support.figures import batch
from support.memory import MemoryService, client_of, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import MarketplaceMeteringClient, shared_of
from marketplace_metering_async.errors import ClientClosedError, ConfigurationError, TransportError
from marketplace_metering_async.events import (
    BatchEnded,
    CallEnded,
    Event,
    Isolated,
    Isolating,
    Retrying,
    SendingStopped,
    Settled,
    Throttled,
    WarningIssued,
)
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.sandbox import Book, Fault, FaultKind, Product, Refusal, Sandbox

S = RecordStatus


KEYS_FILE = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"


@pytest.mark.parametrize("hours", [-3, 0.2, 3])
def test_a_wrong_clock_is_corrected_once(hours: float) -> None:
    """
    The service's time is learnt from its refusal, and timestamps stay as they are. Covers: H01, H02
    """
    service = MemoryService(clock=VirtualClock(START + timedelta(hours=hours)))
    records = usage(200, timestamp=START - timedelta(hours=6))
    events: list[Event] = []

    result = batch(service, records, observer=events.append, max_concurrency=3)

    assert {S.SUCCESS: 200} == result.counts
    assert len(service.requests) <= 8 + 3
    assert 1 == sum(isinstance(event, WarningIssued) for event in events)
    assert {r["Timestamp"] for b in service.requests for r in b["UsageRecords"]} == {
        records[0].epoch
    }


@pytest.mark.parametrize("date", [None, "yesterday", "Mon, 99 Foo 2026"])
def test_without_a_date_there_is_no_loop(date: str | None) -> None:
    """
    A refused signature that nothing explains is the account's fault. Covers: H01
    """

    class Undated(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            answer = await super().send(request, timeout=timeout)
            headers = {name: value for name, value in answer.headers.items() if name != "Date"}
            return Response(answer.status, headers | ({"Date": date} if date else {}), answer.body)

    service = Undated(clock=VirtualClock(START + timedelta(hours=3)))

    assert {S.UNPROCESSED: 200} == batch(service, usage(200), max_concurrency=2).counts
    assert len(service.requests) <= 2


def test_a_date_that_never_fits_ends() -> None:
    """
    However often the service moves its clock. Covers: H01
    """
    clock = VirtualClock()

    class Restless(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            clock.start += timedelta(hours=1)
            return await super().send(request, timeout=timeout)

    service = Restless(clock=clock)

    assert {S.UNPROCESSED: 1} == batch(service, usage(1)).counts
    assert len(service.requests) <= 4


def test_a_portal_confirms_no_clock() -> None:
    """
    An answer that is none of the service's says nothing of a clock that has stepped a day ahead, so
    no record is too late by it. Covers: H01
    """

    class Stepping(VirtualClock):
        def now(self) -> datetime:
            return super().now() + (timedelta(hours=30) if self.monotonic() else timedelta(0))

    class BehindPortal(MemoryService):
        left = 3

        async def send(self, request: Request, *, timeout: float) -> Response:
            if self.left:
                self.left -= 1
                await asyncio.sleep(self.round_trip)
                return Response(200, {}, b"<html>log in</html>")
            return await super().send(request, timeout=timeout)

    service = BehindPortal()

    assert {S.SUCCESS: 3} == batch(service, usage(3), clock=Stepping()).counts
    assert not service.left


@pytest.mark.parametrize("step", [timedelta(minutes=-20), timedelta(minutes=20)])
def test_a_clock_that_is_set_right_with_a_request_on_its_way(step: timedelta) -> None:
    """
    What was signed by the old time is signed again: nothing is wrong with the clock by then.

    A machine that is asleep with its request half sent is one. All of the batch was Unprocessed.
    Covers: H01, H15.
    """
    clock = VirtualClock(START - step)

    class SetRight(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            clock.start = START
            return await super().send(request, timeout=timeout)

    service = SetRight(clock=clock)

    result = batch(service, usage(3, timestamp=START - timedelta(hours=1)), clock=clock)

    assert {S.SUCCESS: 3} == result.counts
    assert 2 == len(service.requests)


@pytest.mark.parametrize("asleep", [timedelta(minutes=20), timedelta(hours=8)])
def test_a_machine_that_slept_meters_what_is_new(asleep: timedelta) -> None:
    """
    No monotonic clock counts the time asleep, and no record is too new for that. Covers: H15
    """

    class Sleeper(VirtualClock):
        slept = timedelta(0)

        def now(self) -> datetime:
            return super().now() + self.slept

    clock = Sleeper()

    async def send() -> Any:
        async with client_of(MemoryService(clock=clock), clock=clock) as client:
            await client.batch_meter_usage(usage(1))
            clock.slept = asleep
            return await client.batch_meter_usage(usage(3, timestamp=START + asleep))

    assert {S.SUCCESS: 3} == run_virtual(send()).counts


def test_expired_keys_that_cannot_be_renewed_stop_everything() -> None:
    """
    Keys passed in by hand stay what they are. Covers: S13, A05
    """
    service = MemoryService(lambda number, body: Refusal("ExpiredTokenException", "", 403))

    assert {S.UNPROCESSED: 100} == batch(service, usage(100), max_concurrency=2).counts
    assert len(service.requests) <= 2


class Rotated(MemoryService):
    """Knows one access key, and no other."""

    def __init__(self, known: str, code: str) -> None:
        super().__init__()
        self.known = known
        self.code = code
        self.keys: list[str] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        key = request.headers["Authorization"].split("Credential=")[1].split("/")[0]
        self.keys.append(key)
        if key == self.known:
            return await super().send(request, timeout=timeout)
        headers = {"x-amzn-RequestId": "refused"}
        return Response(403, headers, json.dumps({"__type": self.code}).encode())


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "InvalidClientTokenId"])
@pytest.mark.parametrize(("rewritten", "status"), [("NEW", S.SUCCESS), ("WRONG", S.UNPROCESSED)])
def test_a_key_that_was_rotated_away_is_looked_up_once(
    code: str, rewritten: str, status: S, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The file of credentials is read again when its key is refused; what it says then decides.

    Covers: A02, A05
    """
    path = bare_machine(tmp_path, monkeypatch).write("credentials", KEYS_FILE.format("OLD"))
    service = Rotated("OLD", code)
    given = {"aws_access_key_id": None, "aws_secret_access_key": None, "max_concurrency": 1}

    async def send() -> Any:
        async with client_of(service, **given) as client:
            await client.batch_meter_usage(usage(1))
            service.known = "NEW"
            path.write_text(KEYS_FILE.format(rewritten), encoding="utf-8")
            return await client.batch_meter_usage(usage(30, dimension="other"))

    assert {status: 30} == run_virtual(send()).counts
    assert ["OLD", "OLD", rewritten] == service.keys[:3]
    assert len(service.keys) <= 4


def test_every_kind_of_event_is_told() -> None:
    """
    Attempts, retries, throttles, pauses, isolations, verdicts, warnings and ends.
    """
    told: list[Event] = []
    dropped: list[int] = []

    def fault_of(number: int, body: dict[str, Any]) -> FaultKind | None:
        if number <= 2:
            return (FaultKind.THROTTLE, FaultKind.ERROR_500)[number - 1]
        quantities = {record["Quantity"] for record in body["UsageRecords"]}
        if not dropped and 30 in quantities and 4 not in quantities:
            dropped.append(number)
            return FaultKind.DROP
        return None

    known = {f"{n:012d}": True for n in range(30) if n != 3}
    service = MemoryService(
        fault_of,
        book=Book(products={"product": Product(customers=known)}),
    )

    async def send() -> None:
        async with client_of(service, observer=told.append, max_concurrency=1) as client:
            await client.batch_meter_usage(usage(30) + usage(1, product_code="unknown"))

    run_virtual(send())

    kinds = {
        CallEnded,
        Retrying,
        Throttled,
        SendingStopped,
        Isolating,
        Isolated,
        Settled,
        WarningIssued,
        BatchEnded,
    }
    assert kinds == {type(event) for event in told}
    assert len(service.requests) == sum(isinstance(event, CallEnded) for event in told)


@pytest.mark.parametrize(
    ("code", "members", "stopped"),
    [
        ("AccessDeniedException", {}, (None, True)),
        ("InvalidProductCodeException", {}, ("product", False)),
        (
            "InvalidProductCodeException",
            {"product_code": None, "license_arn": "arn:aws:license-manager::1:license:l"},
            (None, False),
        ),
    ],
)
def test_what_stops_is_a_product_or_all_of_them(
    code: str, members: dict[str, Any], stopped: tuple[str | None, bool]
) -> None:
    """
    Or licenses whose product nobody named.
    """
    told: list[Event] = []
    service = MemoryService(lambda number, body: Refusal(code, "", 400))
    batch(service, usage(3, **members), observer=told.append)

    (event,) = [event for event in told if isinstance(event, SendingStopped)]
    assert stopped == (event.product_code, event.all_products)


@pytest.mark.parametrize("streamed", [False, True])
def test_every_verdict_is_told(streamed: bool) -> None:  # noqa: FBT001
    """
    Of records that were not sent, too: invalid ones, ones that conflict, and identical ones.
    """
    told: list[Event] = []
    conflicting = usage(1, dimension="c") + usage(1, dimension="c", quantity=9)
    given = [*usage(3), *usage(3), 7, 8, *conflicting]

    async def send() -> None:
        async with client_of(MemoryService(), observer=told.append) as client:
            if streamed:
                async for _ in client.iter_batch_meter_usage(given):  # type: ignore[arg-type]
                    pass
            else:
                await client.batch_meter_usage(given)  # type: ignore[arg-type]

    run_virtual(send())

    settled: Counter[S] = Counter()
    for event in told:
        if isinstance(event, Settled):
            settled.update(event.counts)
    (ended,) = (event for event in told if isinstance(event, BatchEnded))
    assert {S.SUCCESS: 6, S.REJECTED: 4} == ended.counts == settled


def test_an_observer_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """
    It is logged, and every record has its verdict all the same.
    """

    def broken(event: Event) -> None:
        raise RuntimeError("the dashboard is down")

    assert {S.SUCCESS: 3} == batch(MemoryService(), usage(3), observer=broken).counts
    assert "the observer raised" in caplog.text


def test_one_warning_a_call_with_counts(caplog: pytest.LogCaptureFixture) -> None:
    """
    Where anything failed; nothing where all is well.
    """
    caplog.set_level(logging.WARNING)

    async def send(records: list[Any]) -> None:
        async with client_of(MemoryService()) as client:
            await client.batch_meter_usage(records)

    run_virtual(send([*usage(3)]))
    assert not caplog.records
    run_virtual(send([*usage(3), 7, 8]))

    (warning,) = caplog.records
    assert "marketplace_metering_async" == warning.name
    assert "3 Success, 2 Rejected" in warning.getMessage()


@pytest.mark.parametrize(
    "raised", [KeyError("a bug"), ConfigurationError("a bug"), ClientClosedError("a bug")]
)
def test_a_transport_that_breaks_is_a_verdict(raised: Exception) -> None:
    """
    Whatever a part that was handed in raises, it may have sent the request, be it an error of the
    package; and no verdict of its neighbours is lost. Covers: C09
    """

    class Broken(MemoryService):
        async def _answer(self, request: Any, timeout: float) -> Any:
            if len(self.requests) >= 2:
                raise raised
            return await super()._answer(request, timeout)

    result = batch(Broken(), usage(100), max_concurrency=1)
    assert {S.SUCCESS: 50, S.UNCONFIRMED: 50} == result.counts
    assert type(raised).__name__ in str(result[99].error)


async def test_a_client_has_a_connection_for_each_call_on_the_wire() -> None:
    """
    And no more.
    """
    arguments: Any = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    keys: Any = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret"}
    async with MarketplaceMeteringClient(**arguments, **keys, max_concurrency=7) as client:
        await client.endpoint()
        transport = shared_of(client).connection._own_transport
        assert transport is not None
        assert 7 == transport._max_connections


async def test_an_unclosed_client_warns() -> None:
    """
    Once it is collected. Covers: C18
    """
    async with Sandbox() as sandbox:
        client = MarketplaceMeteringClient(**sandbox.client_arguments)
        await client.batch_meter_usage(usage(1, timestamp=datetime.now(UTC)))
        transport = shared_of(client).connection._own_transport
        clients = [client]
        del client
        with pytest.warns(ResourceWarning, match="unclosed <MarketplaceMeteringClient open>"):
            clients.clear()
        gc.collect()
        assert transport is not None
        await transport.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told() -> None:
    """
    The client belongs to the process of its first call. Covers: C17
    """
    client = client_of(MemoryService())

    async def fork() -> int:
        await client.batch_meter_usage(usage(1))
        pid = os.fork()
        if pid == 0:
            try:
                shared_of(client).connection.require_home()
            except Exception as error:  # noqa: BLE001 - the child must end here
                os._exit(7 if "another process" in str(error) else 1)
            os._exit(0)
        return pid

    pid = run_virtual(fork())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert 7 == code


def test_an_outage_of_minutes_is_waited_out() -> None:
    """
    Everything is delivered, in few calls, within the default policy. Covers: S21
    """

    def down(number: int, body: dict[str, Any]) -> FaultKind | None:
        return FaultKind.ERROR_503 if 1 < asyncio.get_running_loop().time() < 601 else None

    service = MemoryService(down)

    result = batch(service, usage(2000), calls_per_second=10)
    assert {S.SUCCESS, S.DUPLICATE_RECORD} >= set(result.counts)
    assert 2000 == len(service.book)
    assert len(service.requests) < 80 + 120


def test_delivery_ends_at_the_deadline() -> None:
    """
    What can no longer be metered is not tried any more. Covers: T10, H07
    """
    hour = START - timedelta(hours=23, minutes=50)
    service = MemoryService(lambda number, body: FaultKind.ERROR_503 if number > 1 else None)

    async def send() -> Any:
        async with client_of(service, retry=RetryPolicy(timeout=7200)) as client:
            await client.batch_meter_usage(usage(1))  # the service accepts the time of a signature
            return await client.batch_meter_usage(usage(5, timestamp=hour))

    result = run_virtual(send())
    assert {S.UNCONFIRMED: 5} == result.counts
    assert "window closed" in str(result[0].error)
    assert 15 * 60 - 30 < service.last_at < 15 * 60 + 30


CANARIES = ["CANARYSECRETKEY", "CANARYTOKEN", "CANARYCUSTOMER", "777777777777", "l-CANARYLICENSE"]


async def test_nothing_secret_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """
    No key, token, customer, account or license in log lines, events, errors and reprs.
    Covers: A08, A10
    """
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    arn = "arn:aws:license-manager::123456789012:license:l-CANARYLICENSE1234"
    records: list[Any] = [
        UsageRecord(**{**common(), "customer_identifier": "CANARYCUSTOMER-0001"}),
        UsageRecord(**{**common(), "customer_aws_account_id": "777777777777"}),
        UsageRecord(
            **{
                **common(),
                "customer_aws_account_id": "777777777777",
                "license_arn": arn,
                "product_code": None,
            }
        ),
        {"CustomerIdentifier": "CANARYCUSTOMER-0002"},
        {**usage(1)[0].to_boto(), "CustomerAWSAccountId": "CANARYCUSTOMER-0003"},
    ]

    def tell(event: Event) -> None:
        told.append(repr(event))

    kinds = [
        kind
        for kind in FaultKind
        if kind not in (FaultKind.SLOW, FaultKind.STALL, FaultKind.REDIRECT)
    ]
    for kind in kinds:
        async with Sandbox(
            faults=[Fault(kind=kind, probability=0.5)], calls_per_second=None
        ) as sandbox:
            client = MarketplaceMeteringClient(
                endpoint_url=sandbox.url,
                region_name="us-east-1",
                aws_access_key_id="key",
                aws_secret_access_key="CANARYSECRETKEY",
                aws_session_token="CANARYTOKEN",
                observer=tell,
                calls_per_second=None,
                retry=RetryPolicy(max_attempts=3, base_delay=0.001),
            )
            async with client:
                result = await client.batch_meter_usage(records, product_code="product")
            told += [repr(client), repr(result), *map(repr, result)]
            told += [f"{r.error} {r.error!r} {r.advice}" for r in result]
    told.append(str(TransportError("x", sent=True)))

    text = "\n".join(told) + caplog.text
    assert [] == [canary for canary in CANARIES if canary in text]


def common() -> dict[str, Any]:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    return {"timestamp": hour, "dimension": "requests", "quantity": 1, "product_code": "product"}


@pytest.mark.parametrize(
    ("calls_per_second", "round_trip", "max_concurrency"), [(1.0, 0.02, 32), (None, 25.0, 4)]
)
def test_a_timeout_is_kept_behind_another_batch(
    calls_per_second: float | None, round_trip: float, max_concurrency: int
) -> None:
    """
    Whether the quota or the wire is what another batch uses up.
    """
    service = MemoryService()
    service.round_trip = round_trip

    async def send() -> float:
        async with client_of(
            service, calls_per_second=calls_per_second, max_concurrency=max_concurrency
        ) as client:
            first = client.batch_meter_usage(usage(25 * 200, product_code="a"))
            other = asyncio.create_task(first)
            await asyncio.sleep(5)
            begun = asyncio.get_running_loop().time()
            result = await client.batch_meter_usage(usage(25, product_code="b"), timeout=1.0)
            seconds = asyncio.get_running_loop().time() - begun
            assert {S.UNPROCESSED: 25} == result.counts
            await other
            return seconds

    assert 1.0 <= run_virtual(send()) < 1.1
