"""Figures of the rim: proxies, transports, clocks, credentials; nothing unproven is claimed."""

import asyncio
import json
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from support.figures import DOORS, opened, send_through
from support.memory import MemoryService, client_of, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async import UsageBatcher
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.errors import TransportError
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import BatchMeterUsageResult, RecordResult, RecordStatus

S = RecordStatus


class Replaced(MemoryService):
    """A service whose responses somebody on the way replaces."""

    def __init__(self, status: int, *, most: int = 10**9) -> None:
        super().__init__()
        self.status = status
        self.most = most

    async def send(self, request: Request, *, timeout: float) -> Response:
        response = await super().send(request, timeout=timeout)
        if len(self.requests) > self.most:
            return response
        headers = {"Location": "http://elsewhere"} if self.status == 302 else {}
        return Response(self.status, headers, b"<html>no</html>")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 413, 503])
def test_a_foreign_response_is_no_proof(status: int, door: str) -> None:
    """
    The service meters, and a proxy replaces all its responses: in doubt, never "not metered".
    Core F9
    """
    service = Replaced(status)

    results = send_through(door, service, usage(30), retry=RetryPolicy(timeout=60))

    assert {S.UNCONFIRMED} == {r.status for r in results}
    assert {None} == {r.metered for r in results}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("status", [401, 403, 404, 302, 413, 503])
def test_a_foreign_response_of_a_moment_is_tried_again(status: int, door: str) -> None:
    """
    The next responses come through: all is metered, and nobody was blamed or stopped. Core F9
    """
    service = Replaced(status, most=3)

    results = send_through(door, service, usage(200))

    assert {S.SUCCESS, S.DUPLICATE_RECORD} >= {r.status for r in results}
    assert 200 == len(service.book)


class Raising(MemoryService):
    """A transport that raises, after or before the service acted."""

    def __init__(self, error: BaseException, *, after: bool, most: int = 10**9) -> None:
        super().__init__()
        self.error = error
        self.after = after
        self.most = most
        self.raised = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        if self.raised >= self.most:
            return await super().send(request, timeout=timeout)
        self.raised += 1
        if self.after:
            await super().send(request, timeout=timeout)
        raise self.error


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("error", [KeyError("x"), OSError("x"), RuntimeError("x")])
def test_any_exception_out_of_a_transport_leaves_a_doubt(error: Exception, door: str) -> None:
    """
    The service took the records: what the transport raises is no proof of anything. Core F9
    """
    service = Raising(error, after=True)

    results = send_through(door, service, usage(30), retry=RetryPolicy(timeout=60))

    assert {S.UNCONFIRMED} == {r.status for r in results}


@pytest.mark.parametrize("door", DOORS)
def test_one_exception_out_of_a_transport_stops_nothing(door: str) -> None:
    """
    It is retried as a fault of the service. Core F9
    """
    service = Raising(KeyError("x"), after=True, most=1)

    results = send_through(door, service, usage(100))

    assert {S.SUCCESS, S.DUPLICATE_RECORD} >= {r.status for r in results}
    assert 100 == len(service.book)


@pytest.mark.parametrize("door", DOORS)
def test_a_refused_connection_leaves_no_doubt(door: str) -> None:
    """
    Nothing was sent, and that is what the verdicts say. Law 5
    """
    service = Raising(TransportError("connection refused", sent=False), after=False)

    results = send_through(door, service, usage(30), retry=RetryPolicy(timeout=60))

    assert {S.UNPROCESSED} == {r.status for r in results}
    assert {False} == {r.metered for r in results}


class Dated(MemoryService):
    """The service with its own clock: it judges timestamps, and its refusals carry its `Date`."""

    def __init__(self, ahead: timedelta) -> None:
        self._own = VirtualClock(START - ahead)
        super().__init__(clock=self._own)

    def now(self) -> datetime:
        return self._own.now()

    async def send(self, request: Request, *, timeout: float) -> Response:
        now = self.now()
        stamps = [r["Timestamp"] for r in json.loads(request.body)["UsageRecords"]]
        headers = {"Date": format_datetime(now, usegmt=True), "x-amzn-RequestId": "r"}
        signed = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
        code = None
        if abs(signed - now) > timedelta(minutes=5):
            code = "InvalidSignatureException"
        elif max(stamps) > now.timestamp() or min(stamps) < (now - timedelta(hours=24)).timestamp():
            code = "TimestampOutOfBoundsException"
        if code is None:
            return await super().send(request, timeout=timeout)
        self.requests.append(json.loads(request.body))
        await asyncio.sleep(self.round_trip)
        return Response(400, headers, json.dumps({"__type": code}).encode())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("hours", [-3, 3])
def test_a_wrong_clock_before_the_first_call_rejects_nothing_unsent(hours: int, door: str) -> None:
    """
    The machine's clock is hours off, and no call has shown it: every record is tried. Core F5
    """
    service = Dated(timedelta(hours=hours))
    now = START - timedelta(hours=hours)  # the service's
    young = usage(30, timestamp=now - timedelta(minutes=30))
    aged = usage(30, timestamp=now - timedelta(hours=22), dimension="other")

    results = send_through(door, service, young + aged)

    assert [S.SUCCESS] * 60 == [r.status for r in results]


@pytest.mark.parametrize("door", DOORS)
def test_records_just_ahead_of_the_services_clock_wait_for_it(door: str) -> None:
    """
    The clock is two minutes fast, 25 records are stamped now: all metered, in at most four calls.
    Core F6
    """
    service = Dated(timedelta(minutes=2))

    results = send_through(door, service, usage(25, timestamp=START))

    assert [S.SUCCESS] * 25 == [r.status for r in results]
    assert len(service.requests) <= 4


def test_records_far_ahead_of_the_services_clock_are_rejected() -> None:
    """
    Twenty minutes ahead is no matter of clocks. Law 13
    """
    service = Dated(timedelta(minutes=4))
    records = usage(2, timestamp=START + timedelta(minutes=4)) + usage(
        2, timestamp=START + timedelta(minutes=16), dimension="far"
    )

    results = send_through("batch", service, records)

    assert [S.SUCCESS] * 2 + [S.REJECTED] * 2 == [r.status for r in results]


def hang_credentials(client: Any, seconds: float) -> None:
    """Let whatever finds, or refreshes, the client's credentials hang."""
    signer = client._shared.connection._signer
    real = signer.sign

    async def sign(*args: Any) -> Any:
        await asyncio.sleep(seconds)
        return await real(*args)

    signer.sign = sign


@pytest.mark.parametrize("door", DOORS)
def test_hanging_credentials_hold_no_one_beyond_the_time(door: str) -> None:
    """
    `timeout=5`, `stop=` after 5 s, `drain(timeout=5)`: over within 5 s, nothing was sent. Core F14
    """
    service = MemoryService()

    async def run() -> tuple[float, list[RecordResult]]:
        loop = asyncio.get_running_loop()
        async with opened(service) as client:
            hang_credentials(client, 3600)
            began = loop.time()
            results = await _five_seconds(door, client)
            return loop.time() - began, results

    took, results = run_virtual(run())

    assert took <= 5.1
    assert [S.UNPROCESSED] * 60 == [r.status for r in results]
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


@pytest.mark.parametrize("door", DOORS)
def test_credentials_that_are_not_found_in_time(door: str) -> None:
    """
    Nothing was found yet when the first call begins. Core F14, F21
    """
    service = MemoryService()

    async def run() -> tuple[float, list[RecordResult]]:
        loop = asyncio.get_running_loop()
        async with client_of(service) as client:
            signer = client._shared.connection._signer
            real = signer.open

            async def open_() -> Any:
                await asyncio.sleep(3600)
                return await real()

            signer.open = open_  # type: ignore[method-assign]
            began = loop.time()
            results = await _five_seconds(door, client)
            return loop.time() - began, results

    took, results = run_virtual(run())

    assert took <= 5.1
    assert {S.UNPROCESSED} >= {r.status for r in results}
    assert [] == service.requests


def test_attempts_and_calls_count_what_left() -> None:
    """
    The client is closed while a batch is under way: a call that never reached the transport is
    none, and no attempt. Core F25
    """
    service = MemoryService()
    service.round_trip = 1.0

    async def run() -> BatchMeterUsageResult:
        client = client_of(service, max_concurrency=2)
        await client.endpoint()
        sending = asyncio.create_task(client.batch_meter_usage(usage(500)))
        await asyncio.sleep(2.5)
        await client.aclose()
        return await sending

    result = run_virtual(run())

    assert len(service.requests) == result.calls
    assert sum(service.sizes) == sum(r.attempts for r in result)
    assert {S.SUCCESS, S.UNPROCESSED} == set(result.counts)
