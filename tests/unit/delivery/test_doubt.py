"""
What became of a request is unknown until the service itself has said so.

Behind each door: whoever answers in the service's place, or breaks on the way, leaves doubt.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.figures import DOORS, send_through
from support.ledgers import house_at
from support.memory import MemoryService, client_of, untrue, usage
from support.virtual import run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.errors import InvalidResponseError, TransportError, UnexpectedError
from marketplace_metering_async.events import CallEnded, Event, SendingStopped
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.sandbox import Book, Rules

S = RecordStatus
HTML = b"<html>log in</html>"
GATEWAY = b'{"message": "Forbidden"}'
CODED = b'{"__type": "AccessDeniedException"}'
ID = {"x-amzn-RequestId": "of-a-gateway"}

ON_THE_WAY_BACK: dict[str, Callable[[], Response]] = {
    "302": lambda: Response(302, {"Location": "https://portal.example"}, b""),
    "400": lambda: Response(400, {}, HTML),
    "401": lambda: Response(401, {}, HTML),
    "403": lambda: Response(403, {}, GATEWAY),
    "403 with an id": lambda: Response(403, ID, GATEWAY),
    "403 with a code": lambda: Response(403, {}, CODED),
    "404": lambda: Response(404, {}, HTML),
    "405": lambda: Response(405, {}, b""),
    "407": lambda: Response(407, {}, b""),
    "413": lambda: Response(413, {}, HTML),
    "429": lambda: Response(429, {}, HTML),
    "500": lambda: Response(500, ID, b'{"__type": "InternalServiceErrorException"}'),
    "503": lambda: Response(503, {}, HTML),
    "a throttle with 503": lambda: Response(503, ID, b'{"__type": "SlowDown"}'),
    "200": lambda: Response(200, {}, HTML),
}


class Replaced(MemoryService):
    """The service, whose first answers are replaced, after it has acted, by somebody's."""

    def __init__(self, answer: Callable[[], Response], times: float = 1) -> None:
        super().__init__()
        self._answer_of = answer
        self._times = times

    async def send(self, request: Request, *, timeout: float) -> Response:
        response = await super().send(request, timeout=timeout)
        return self._answer_of() if len(self.requests) <= self._times else response


AT_EACH_DOOR = pytest.mark.parametrize("door", DOORS)
ANSWERS = pytest.mark.parametrize("answer", ON_THE_WAY_BACK.values(), ids=ON_THE_WAY_BACK)
SHORT = RetryPolicy(timeout=60)


@AT_EACH_DOOR
@ANSWERS
def test_what_was_metered_behind_a_foreign_answer_is_not_said_to_be_unmetered(
    door: str, answer: Callable[[], Response]
) -> None:
    """
    However long it lasts: unconfirmed, with who answered, within the time for retries. (core F9)
    """
    service = Replaced(answer, times=float("inf"))

    results = send_through(door, service, usage(30), retry=SHORT)

    assert {S.UNCONFIRMED} == {r.status for r in results}
    assert all(r.metered is None and r.ambiguous for r in results)
    assert 30 == len(service.book)


@AT_EACH_DOOR
@ANSWERS
def test_a_foreign_answer_is_followed_by_the_identical_records(
    door: str, answer: Callable[[], Response]
) -> None:
    """
    Nobody is blamed and nothing stops: once the service is heard again, all is known. (core F9)
    """
    events: list[Event] = []
    service = Replaced(answer)

    results = send_through(door, service, usage(30), observer=events.append)

    assert all(r.metered is not False for r in results)
    assert not any(isinstance(event, SendingStopped) for event in events)
    assert not untrue(results, service.book)
    assert 30 == len(service.book)


@AT_EACH_DOOR
def test_an_exception_out_of_a_transport_leaves_doubt(door: str) -> None:
    """
    Whatever it is, and even a cancellation of its own making: the request may have left. (core F9)
    """
    for kind in (KeyError, OSError, ValueError, asyncio.CancelledError):

        class Breaks(MemoryService):
            async def send(self, request: Request, *, timeout: float) -> Response:
                await super().send(request, timeout=timeout)
                raise kind("a bug")  # noqa: B023 - used up in the same turn

        service = Breaks()
        results = send_through(door, service, usage(30), retry=SHORT)

        assert {S.UNCONFIRMED} == {r.status for r in results}
        assert all(isinstance(r.error, UnexpectedError) for r in results)
        assert kind.__name__ in str(results[0].error)


def test_a_plainly_wrong_endpoint_ends_in_a_clear_error_in_time() -> None:
    """
    A host that is none of AWS's: the error says what came, and where to look. (core F9)
    """

    class WebServer(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            self.requests.append(json.loads(request.body))
            return Response(404, {"Content-Type": "text/html"}, HTML)

    results = send_through("batch", WebServer(), usage(30), retry=SHORT)

    assert {S.UNCONFIRMED} == {r.status for r in results}
    assert isinstance(results[0].error, InvalidResponseError)
    assert "HTTP 404" in str(results[0].error)
    assert "proxy" in results[0].error.advice


@pytest.mark.parametrize("largest", [1, 5, 24])
def test_a_foreign_413_is_answered_with_smaller_requests(largest: int) -> None:
    """
    All that gets through is metered, and no record is blamed for what a proxy will not carry.
    """

    class SmallProxy(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            if len(json.loads(request.body)["UsageRecords"]) > largest:
                return Response(413, {}, HTML)
            return await super().send(request, timeout=timeout)

    service = SmallProxy()
    results = send_through("batch", service, usage(30))

    assert {S.SUCCESS} == {r.status for r in results}
    assert 30 == len(service.book)


@AT_EACH_DOOR
def test_what_never_left_leaves_no_doubt_and_is_no_attempt(door: str) -> None:
    """
    A refused connection is an attempt without doubt; a closed client makes none. (core F25)
    """

    class Dead(MemoryService):
        async def send(self, request: Request, *, timeout: float) -> Response:
            raise TransportError("no connection to 127.0.0.1:1", sent=False)

    results = send_through(door, Dead(), usage(30), retry=SHORT)

    assert {(S.UNPROCESSED, False)} == {(r.status, r.metered) for r in results}
    assert "no connection" in str(results[0].error)


def test_calls_that_never_reached_the_transport_are_not_counted() -> None:
    """
    Neither as calls, nor as attempts, nor as events: a client closed on the way. (core F25)
    """
    events: list[Event] = []
    service = MemoryService()

    async def close_early() -> Any:
        async with client_of(service, observer=events.append, max_concurrency=3) as client:
            sending = asyncio.ensure_future(client.batch_meter_usage(usage(500)))
            while len(service.requests) < 4:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(service.round_trip)
            await client.aclose()
            return await sending

    result = run_virtual(close_early())

    assert len(service.requests) == result.calls
    assert len(service.requests) == sum(isinstance(event, CallEnded) for event in events)
    assert {0} == {r.attempts for r in result if r.status is S.UNPROCESSED}
    assert sum(len(body["UsageRecords"]) for body in service.requests) == sum(
        r.attempts for r in result
    )


async def test_the_ledger_keeps_doubt(tmp_path: Path) -> None:
    """
    An hour that was metered behind a portal is not ended as unmetered, and settles later. (core F9)
    """
    behind = [True]
    async with house_at(f"sqlite:///{tmp_path / 'ledger.db'}") as house:
        house.service.book = Book(rules=Rules(identical_resend="success"))
        send = house.service.send

        async def portal(request: Request, *, timeout: float) -> Response:
            response = await send(request, timeout=timeout)
            return Response(403, {}, HTML) if behind[0] else response

        house.service.send = portal  # type: ignore[method-assign]
        await house.use(7)
        await house.relay_after(hours=1)
        kept = await house.balance()
        behind[0] = False
        await house.relay_after(minutes=10)

        assert (7, {}) == (kept.frozen, kept.ended)
        assert 7 == (await house.balance()).metered
        assert 7 == sum(house.metered().values())
