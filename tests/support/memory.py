"""The sandbox's book behind a transport in memory: a faulty service without a socket."""

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.errors import TransportError
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import Book, Kind, Refusal
from support.virtual import START, VirtualClock

ROUND_TRIP = 0.02

FaultOf = Callable[[int, dict[str, Any]], Kind | Refusal | None]
"""Asked for each request (its number from 1, its body): what goes wrong."""


class MemoryService:
    """
    A transport that is the service.

    Attributes:
        book: What was metered.
        requests: The bodies that came, read.
        sizes: How many records each of them had.
    """

    def __init__(
        self,
        fault_of: FaultOf = lambda number, body: None,
        *,
        book: Book | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.book = Book() if book is None else book
        self.requests: list[dict[str, Any]] = []
        self.round_trip = ROUND_TRIP  # seconds
        self.last_at = 0.0  # loop time of the latest request
        self.in_flight = 0
        self.most_in_flight = 0
        self._fault_of = fault_of
        self._clock: Clock = clock or VirtualClock()
        self._random = Random(seed)

    @property
    def sizes(self) -> list[int]:
        return [len(body["UsageRecords"]) for body in self.requests]

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request, timeout)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        """Nothing to close."""

    async def _answer(self, request: Request, timeout: float) -> Response:
        self.last_at = asyncio.get_running_loop().time()
        body = json.loads(request.body)
        self.requests.append(body)
        number = len(self.requests)
        fault = self._fault_of(number, body)
        await asyncio.sleep(self.round_trip / 2)
        try:
            before = self._before(fault)
            if before is not None:
                return before
            left = self._left(fault, body)
            reply = self.book.batch_meter_usage(
                body, now=self._clock.now(), region="us-east-1", unprocessed=left
            )
        except Refusal as refusal:
            return self._refusal(refusal)
        await asyncio.sleep(self.round_trip / 2)
        return await self._after(fault, reply, timeout)

    def _before(self, fault: Kind | Refusal | None) -> Response | None:
        match fault:
            case Refusal():
                raise fault
            case Kind.THROTTLE:
                raise Refusal("ThrottlingException", "Rate exceeded")
            case Kind.ERROR_500:
                raise Refusal("InternalServiceErrorException", "", 500)
            case Kind.ERROR_503:
                return Response(503, {}, b"<html>503</html>")
            case Kind.HTML:
                return Response(200, {}, b"<html>log in</html>")
            case Kind.RESET_BEFORE:
                raise TransportError("reset", sent=True)
        return None

    def _left(self, fault: Kind | Refusal | None, body: dict[str, Any]) -> list[int]:
        if fault is not Kind.UNPROCESSED:
            return []
        size = len(body["UsageRecords"])
        return [index for index in range(size) if self._random.random() < 0.4]

    async def _after(
        self, fault: Kind | Refusal | None, reply: dict[str, Any], timeout: float
    ) -> Response:
        results = reply["Results"]
        match fault:
            case Kind.ERROR_500_AFTER:
                return self._refusal(Refusal("InternalServiceErrorException", "", 500))
            case Kind.RESET_AFTER | Kind.TRUNCATED:
                raise TransportError("reset", sent=True)
            case Kind.STALL:
                await asyncio.sleep(timeout)
                raise TransportError(f"no answer within {timeout:g} s", sent=True)
            case Kind.GARBAGE:
                return Response(200, {}, b'{"Results": [{')
            case Kind.EMPTY:
                return Response(200, {}, b"")
            case Kind.SHUFFLE:
                self._random.shuffle(results)
            case Kind.DROP if results:
                results.pop(self._random.randrange(len(results)))
            case Kind.ALTER if results:
                results[0]["UsageRecord"] = {**results[0]["UsageRecord"], "Quantity": 2**31 - 1}
            case Kind.FOREIGN if results:
                echo = {**results[0]["UsageRecord"], "Dimension": "of-somebody-else"}
                results.append({**results[0], "UsageRecord": echo})
            case Kind.DISAGREE if results:
                results.append({**results[0], "Status": "CustomerNotSubscribed"})
            case Kind.UNKNOWN_STATUS if results:
                results[0]["Status"] = "Postponed"
        headers = {"x-amzn-RequestId": f"request-{len(self.requests)}"}
        return Response(200, headers, json.dumps(reply).encode())

    def _refusal(self, refusal: Refusal) -> Response:
        body = json.dumps({"__type": refusal.code, "message": refusal.message}).encode()
        return Response(refusal.status, {"x-amzn-RequestId": f"request-{len(self.requests)}"}, body)


def client_of(service: MemoryService, **settings: Any) -> MarketplaceMeteringClient:
    """Return a client of *service* on the virtual clock."""
    defaults: dict[str, Any] = {
        "region_name": "us-east-1",
        "endpoint_url": "http://127.0.0.1:1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "transport": service,
        "clock": VirtualClock(),
        "calls_per_second": None,
        "random": Random(0),
    }
    return MarketplaceMeteringClient(**(defaults | settings))


def usage(count: int, *, product_code: str | None = "product", **members: Any) -> list[UsageRecord]:
    """Return *count* records of customers of their own."""
    hour = START.replace(minute=0) - timedelta(hours=2)
    common: dict[str, Any] = {
        "timestamp": hour,
        "dimension": "requests",
        "product_code": product_code,
    }
    return [
        UsageRecord(
            **{"quantity": n + 1, "customer_aws_account_id": f"{n:012d}", **common, **members}
        )
        for n in range(count)
    ]


def metered(book: Book) -> dict[tuple[str | None, str, str, datetime], int]:
    """Return the book as (product, customer, dimension, hour) to quantity."""
    return {
        (
            r.product_code,
            r.customer,
            r.dimension,
            r.timestamp.replace(minute=0, second=0),
        ): r.quantity
        for r in book.records
    }


def untrue(results: Iterable[RecordResult], book: Book) -> list[str]:
    """Return every verdict that the book contradicts."""
    on_file = metered(book)
    wrong = []
    for result in results:
        record = result.record
        assert isinstance(record, UsageRecord)
        customer = record.customer_aws_account_id or record.customer_identifier or ""
        hour = record.timestamp.replace(minute=0, second=0)
        have = on_file.get((record.product_code, customer, record.dimension, hour))
        if result.metered is True and have != record.quantity:
            wrong.append(f"{result!r}: said to be metered, the book has {have}")
        if (
            result.metered is False
            and have is not None
            and result.status is not RecordStatus.DUPLICATE_RECORD
        ):
            wrong.append(f"{result!r}: said not to be metered, the book has {have}")
    return wrong
