"""No record is rejected or held by a clock that no response has confirmed."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from support.figures import DOORS, send_through
from support.memory import MemoryService, client_of, untrue, usage
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.errors import OutOfWindowError
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.service_errors import TimestampOutOfBoundsException

S = RecordStatus


class Wrong(VirtualClock):
    """A machine's clock that is off."""

    def __init__(self, off: timedelta) -> None:
        super().__init__(START + off)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("hours", [-30, -3, 3, 30])
@pytest.mark.parametrize("age", [timedelta(minutes=1), timedelta(hours=22)])
def test_a_wrong_clock_before_the_first_call_rejects_nothing(
    door: str, hours: float, age: timedelta
) -> None:
    """
    What the service would take is metered, however wrong this machine's time is. (core F5)
    """
    service = MemoryService()

    results = send_through(
        door, service, usage(30, timestamp=START - age), clock=Wrong(timedelta(hours=hours))
    )

    assert {S.SUCCESS} == {r.status for r in results}
    assert 30 == len(service.book)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("hours", [-3, 3])
def test_what_is_out_of_the_window_is_the_services_to_refuse_at_first(
    door: str, hours: float
) -> None:
    """
    One call, and from then on its time is known: the others are rejected without one. (core F5)
    """
    service = MemoryService()
    late = usage(200, timestamp=START - timedelta(hours=25))
    good = usage(25, timestamp=START - timedelta(hours=1))

    results = send_through(
        door, service, late + good, clock=Wrong(timedelta(hours=hours)), max_concurrency=1
    )

    assert {S.REJECTED} == {r.status for r in results[:200]}
    assert {S.SUCCESS} == {r.status for r in results[200:]}
    errors = {type(r.error) for r in results[:200]}
    assert errors <= {OutOfWindowError, TimestampOutOfBoundsException}
    assert len(service.requests) <= 3


@pytest.mark.parametrize("door", DOORS)
def test_a_time_far_outside_every_window_is_a_verdict(door: str) -> None:
    """
    The first and the last day of the calendar, before any time is confirmed. (core F5, F17)
    """
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
    odd = [usage(1, timestamp=end)[0] for end in ends]
    good = usage(5)

    results = send_through(door, MemoryService(), [*odd, *good])

    assert [S.REJECTED] * 2 + [S.SUCCESS] * 5 == [r.status for r in results]


def test_a_time_once_confirmed_rejects_unsent() -> None:
    """
    By a success, and by a refusal that came after the signature was looked at.
    """
    late: list[UsageRecord] = usage(1, timestamp=START - timedelta(hours=25))
    for first in (usage(1, dimension="first"), usage(1, timestamp=START - timedelta(hours=26))):
        service = MemoryService()

        async def send(service: MemoryService, first: list[UsageRecord]) -> Any:
            async with client_of(service) as client:
                await client.batch_meter_usage(first)
                return await client.batch_meter_usage(late)

        (result,) = run_virtual(send(service, first))

        assert isinstance(result.error, OutOfWindowError)
        assert "records[0].timestamp" in str(result.error)
        assert 1 == len(service.requests)


def test_the_services_clock_is_known_by_its_refusals() -> None:
    """
    Their `Date`, and the time since; None before the first of them, and after a foreign one.
    """
    service = MemoryService()
    fast = Wrong(timedelta(minutes=2))
    late = usage(1, timestamp=START - timedelta(hours=25))

    async def ask() -> list[float | None]:
        async with client_of(service, clock=fast) as client:
            before = shared_of(client).connection.service_time()
            await client.batch_meter_usage(late)
            await asyncio.sleep(100)
            return [
                before,
                shared_of(client).connection.service_time(),
                VirtualClock().now().timestamp(),
            ]

    before, shown, true = run_virtual(ask())

    assert before is None
    assert shown is not None
    assert true is not None
    assert abs(shown - true) < 1.1


def test_records_ahead_of_a_confirmed_time_are_not_sent() -> None:
    """
    More than 15 minutes ahead, by a time that the service has confirmed.
    """
    service = MemoryService()
    ahead = usage(1, timestamp=START + timedelta(minutes=16), dimension="ahead")

    async def send() -> Any:
        async with client_of(service) as client:
            await client.batch_meter_usage(usage(1))
            return await client.batch_meter_usage(ahead)

    (result,) = run_virtual(send())

    assert S.REJECTED is result.status
    assert 1 == len(service.requests)
    assert not untrue([result], service.book)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("year", [1, 1970, 2030, 9999])
def test_one_wrong_date_rejects_nothing(door: str, year: int) -> None:
    """
    A server, or a proxy, whose own clock is off refuses once. Its `Date` has confirmed nothing:
    the service takes what is signed by its true time, and all that comes later. Law of sending 13
    """

    class Off(MemoryService):
        refused = False

        async def send(self, request: Request, *, timeout: float) -> Response:
            if self.book and not self.refused:
                self.refused = True
                then = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
                headers = {"x-amzn-RequestId": "off", "Date": format_datetime(then, usegmt=True)}
                return Response(403, headers, b'{"__type": "InvalidSignatureException"}')
            response = await super().send(request, timeout=timeout)
            self.round_trip = 2.0  # past the end of the calendar
            return response

    service = Off()

    results = send_through(door, service, usage(300), max_concurrency=1)

    assert service.refused
    assert not untrue(results, service.book)
    if year < 9999:
        assert {S.SUCCESS} == {r.status for r in results}
    else:
        assert all(r.retryable for r in results if not r.metered)
