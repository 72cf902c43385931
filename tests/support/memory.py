"""A faulty service without a socket: a sandbox's transport, and a fault for each request."""

import asyncio
import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime, timedelta
from random import Random
from typing import Any

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import (
    Book,
    Fault,
    FaultKind,
    Refusal,
    SandboxClock,
    ScriptedResponse,
    World,
)
from marketplace_metering_async.testing import SandboxTransport
from support.virtual import START, VirtualClock

ROUND_TRIP = 0.02

FaultOf = Callable[[int, dict[str, Any]], FaultKind | Refusal | None]
"""Asked for each request (its number from 1, its body): what goes wrong."""

_FAULT: ContextVar[Fault | ScriptedResponse | None] = ContextVar("fault")
"""Of the request that this task sends."""


class _SameTime(SandboxClock):
    """A service whose clock shows what the test's clock shows."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()


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
        self.requests: list[dict[str, Any]] = []
        self.last_at = 0.0  # loop time of the latest request
        self.in_flight = 0
        self.most_in_flight = 0
        self._fault_of = fault_of
        self._random = Random(seed)
        self.world = World(
            clock=_SameTime(clock or VirtualClock()),
            calls_per_second=None,
            faults=[lambda operation, body: _FAULT.get()],
            history=0,
            seed=seed,
        )
        if book is not None:
            self.world.book = book
        self._transport = SandboxTransport(self.world, round_trip=ROUND_TRIP)

    @property
    def book(self) -> Book:
        return self.world.book

    @book.setter
    def book(self, book: Book) -> None:
        self.world.book = book

    @property
    def round_trip(self) -> float:
        return self._transport.round_trip

    @round_trip.setter
    def round_trip(self, seconds: float) -> None:
        self._transport.round_trip = seconds

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
        fault = self._fault_of(len(self.requests), body)
        signed = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
        if abs(signed - self.world.clock.now()) > timedelta(minutes=5):
            # The sandbox would refuse it by itself, unless it is signed by the real time.
            fault = Refusal("InvalidSignatureException", status=403)
        _FAULT.set(self._rule(fault, body))
        return await self._transport.send(request, timeout=timeout)

    def _rule(
        self, fault: FaultKind | Refusal | None, body: dict[str, Any]
    ) -> Fault | ScriptedResponse | None:
        if left := self._left(fault, body):
            return Fault(kind=FaultKind.UNPROCESSED, records=left)
        match fault:
            case Refusal(code=code, message=message, status=status):
                headers = {"x-amzn-RequestId": f"request-{len(self.requests)}"}
                refused = json.dumps({"__type": code, "message": message}).encode()
                return ScriptedResponse(status, refused, headers)
            case FaultKind.STALL:
                return Fault(kind=fault, seconds=3600)  # longer than anybody waits
            case None | FaultKind.UNPROCESSED:
                return None
        return Fault(kind=fault)

    def _left(self, fault: FaultKind | Refusal | None, body: dict[str, Any]) -> list[int]:
        if fault is not FaultKind.UNPROCESSED:
            return []
        size = len(body["UsageRecords"])
        return [index for index in range(size) if self._random.random() < 0.4]


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


def metered(book: Book) -> dict[tuple[str | None, str, str, datetime], Quantity]:
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
