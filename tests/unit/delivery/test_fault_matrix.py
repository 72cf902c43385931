"""
The matrix of clocks, edges, faults and lengths: every cell on the sandbox's book.

A cell is the clock of the machine (right, wrong, or stepping on the way), an edge that time crosses
during the delivery (the age of records, the end of a month, the hour), a fault, and how long that
lasts. Each sends records whose window closes at the edge, records far inside, records of the hour
that runs, one of a dimension that does not exist and one of a customer who has left.
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import combinations, product
from random import Random
from typing import Any, Final

import pytest
from attrs import field, frozen
from hypothesis import settings
from support.memory import MemoryService, client_of, untrue
from support.virtual import START, VirtualClock, run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.flow.pacing import AdaptivePacer
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import BatchMeterUsageResult, RecordStatus
from marketplace_metering_async.sandbox import Book, FaultKind, Product, Rules

S = RecordStatus
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
SIGNED: Final = 5 * MINUTE
"""How far the time of a signature may be from the service's."""


@frozen
class Machine:
    """
    A machine and its clock.

    Attributes:
        steps: How far its clock is ahead of the service's, from so many seconds on.
        sleeps: How long it sleeps in mid-call: time that no monotonic clock counts.
    """

    name: str
    steps: tuple[tuple[float, timedelta], ...]
    sleeps: timedelta = timedelta(0)

    @property
    def begins_right(self) -> bool:
        return abs(self.ahead(0)) < SIGNED

    def ahead(self, moment: float) -> timedelta:
        return [ahead for since, ahead in self.steps if since <= moment][-1]

    def slept(self, moment: float) -> timedelta:
        return self.sleeps if moment >= 0.05 else timedelta(0)


RIGHT: Final = (0, timedelta(0))
MACHINES: Final = [
    Machine("right", (RIGHT,)),
    Machine("4-min-ahead", ((0, 4 * MINUTE),)),
    Machine("4-min-behind", ((0, -4 * MINUTE),)),
    Machine("30-hours-ahead", ((0, 30 * HOUR),)),
    Machine("3-hours-behind", ((0, -3 * HOUR),)),
    Machine("steps-ahead", (RIGHT, (0.05, 30 * HOUR))),
    Machine("steps-back", (RIGHT, (0.05, -2 * HOUR))),
    Machine("steps-to-and-fro", (RIGHT, (0.05, 30 * HOUR), (5, timedelta(0)))),
    Machine("sleeps", (RIGHT,), sleeps=8 * HOUR),
]


@frozen
class Edge:
    """
    A moment at which a window closes.

    Attributes:
        at: When, by the service's clock.
        stamp: The timestamp of the records whose window it is.
        rules: By which rules of the book.
    """

    name: str
    at: datetime
    stamp: datetime
    rules: dict[str, Any] = field(factory=dict)


NOON: Final = START.replace(hour=12, minute=30)
ONE: Final = START.replace(hour=13, minute=0)
FIRST: Final = START.replace(month=12, day=1, hour=0, minute=0)

EDGES: Final = [
    Edge("24-hours", NOON, NOON - 24 * HOUR),
    # Here the age counts from the start of a record's hour, so this closes before we would say.
    Edge("hour", ONE, ONE - 24 * HOUR + 13 * MINUTE, {"age_from": "hour"}),
    Edge("month", FIRST + 6 * HOUR, FIRST - 30 * MINUTE),
]


@frozen
class Length:
    """When the edge is crossed and the fault ends, in seconds after the delivery's begin."""

    name: str
    edge: float
    end: float


LENGTHS: Final = [
    Length("on-the-wire", 0.015, 1),  # applied before, answered after
    Length("across", 10, 15),
    Length("past-all-doubt", 10, 410),  # our clock, too, knows that the window is over
]

FAULTS: Final = [
    FaultKind.THROTTLE,
    FaultKind.UNPROCESSED,
    FaultKind.ERROR_500,
    FaultKind.ERROR_500_AFTER,
    FaultKind.RESET_BEFORE,
    FaultKind.RESET_AFTER,
    FaultKind.TRUNCATED,
    FaultKind.STALL,
    FaultKind.GARBAGE,
    FaultKind.DROP,
    "expired-keys",
    "cancel",
    "timeout",
]


@frozen
class Cell:
    """One combination."""

    machine: Machine
    edge: Edge
    fault: FaultKind | str
    length: Length
    resend: str

    @property
    def start(self) -> datetime:
        return self.edge.at - timedelta(seconds=self.length.edge)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.machine.name, self.edge.name, self.fault, self.length.name, self.resend)

    def __str__(self) -> str:
        return "/".join(self.names)


ALL_CELLS: Final = [
    Cell(*parts) for parts in product(MACHINES, EDGES, FAULTS, LENGTHS, ("duplicate", "success"))
]
THOROUGH: Final = settings.get_profile(settings.get_current_profile_name()).max_examples >= 1000


def _chosen() -> Iterator[Cell]:
    """Yield cells in which each two values meet, and each fault, edge and length."""
    met: set[tuple[str, ...]] = set()
    for cell in Random(0).sample(ALL_CELLS, len(ALL_CELLS)):
        _, edge, fault, length, _ = cell.names
        meets = {*combinations(cell.names, 2), (edge, fault, length)}
        if not meets <= met:
            met |= meets
            yield cell


CELLS: Final = ALL_CELLS if THOROUGH else sorted(_chosen(), key=str)


class ServiceClock(VirtualClock):
    """The right time, while the machine sleeps, too."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.start)
        self._machine = cell.machine

    def now(self) -> datetime:
        return super().now() + self._machine.slept(self.monotonic())


class MachineClock(ServiceClock):
    def now(self) -> datetime:
        return super().now() + self._machine.ahead(self.monotonic())


class Service(MemoryService):
    """The service, behind a door where keys may have expired."""

    def __init__(self, cell: Cell) -> None:
        rules = Rules(identical_resend=cell.resend, **cell.edge.rules)  # type: ignore[arg-type]
        customers = {f"{n:012d}": n != 7 for n in range(20)}
        offered = Product(dimensions=frozenset({"requests"}), customers=customers)
        clock = ServiceClock(cell)
        book = Book(rules=rules, products={"product": offered})
        super().__init__(self._strikes, book=book, clock=clock)
        self.clock = clock
        self._cell = cell

    def _strikes(self, number: int, body: dict[str, Any]) -> FaultKind | None:
        moment, length = self.clock.monotonic(), self._cell.length
        match self._cell.fault:
            case FaultKind() as kind:
                return kind if moment < length.end else None
            case "expired-keys":
                return FaultKind.ERROR_503 if moment < length.edge else None
        return FaultKind.RESET_AFTER if moment < length.edge else None

    def _left(self, fault: Any, body: dict[str, Any]) -> list[int]:
        return list(range(25)) if fault is FaultKind.UNPROCESSED else []

    async def send(self, request: Request, *, timeout: float) -> Response:
        expired = self.clock.monotonic() >= self._cell.length.edge
        if self._cell.fault == "expired-keys" and expired:
            os.environ["AWS_ACCESS_KEY_ID"] = "NEW"
            if "Credential=NEW/" not in request.headers["Authorization"]:
                await asyncio.sleep(self.round_trip)
                headers = {"Date": format_datetime(self.clock.now()), "x-amzn-RequestId": "r"}
                return Response(403, headers, b'{"__type": "ExpiredTokenException"}')
        return await super().send(request, timeout=timeout)


def usage_of(cell: Cell) -> dict[str, list[UsageRecord]]:
    def some(count: int, first: int, timestamp: datetime, **members: Any) -> list[UsageRecord]:
        common = {"dimension": "requests", "product_code": "product"} | members
        return [
            UsageRecord(
                timestamp=timestamp, customer_aws_account_id=f"{n:012d}", quantity=n, **common
            )
            for n in range(first, first + count)
        ]

    inside = cell.edge.at - 3 * HOUR
    return {
        "edge": some(3, 0, cell.edge.stamp),
        "inside": some(3, 3, inside),
        "running": some(3, 8, cell.start - timedelta(seconds=5)),
        "typo": some(1, 3, inside, dimension="typo"),
        "left": some(1, 7, inside),
    }


async def sent(
    cell: Cell, service: Service, records: list[UsageRecord]
) -> BatchMeterUsageResult | None:
    """Send *records*; the verdicts, unless they were lost to a caller who was cancelled."""
    arguments: dict[str, Any] = {
        "aws_access_key_id": None,
        "aws_secret_access_key": None,
        "clock": MachineClock(cell),
        "pacer": AdaptivePacer(None, random=Random(0)),
    }
    async with client_of(service, **arguments) as client:
        if cell.fault == "timeout":
            return await client.batch_meter_usage(records, timeout=cell.length.edge)
        sending = asyncio.ensure_future(client.batch_meter_usage(records))
        if cell.fault != "cancel":
            return await sending
        await asyncio.wait({sending}, timeout=cell.length.edge)
        sending.cancel()
        await asyncio.wait({sending})
        await client.batch_meter_usage(records)
        return None


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_clock_edge_fault_and_length(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each record is metered at most once, as it was given; each verdict is true of the book. Unless
    the machine's clock was hours off before the service could say so: what can be metered is, and
    no record is blamed but those that the service would not take.

    Covers: W05, W06, W07, S01, S13, S17, S21, C03, T12, H01, H02, H06, H07, H15
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLD")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    service, usage = Service(cell), usage_of(cell)
    records = [record for some in usage.values() for record in some]

    result = run_virtual(sent(cell, service, records))

    on_file = [_content(r.customer, r) for r in service.book.records]
    assert len(set(on_file)) == len(on_file)
    assert set(on_file) <= {_content(r.customer_aws_account_id, r) for r in records}
    if cell.fault != "timeout" and cell.machine.begins_right:
        good = usage["inside"] + usage["running"]
        assert {_content(r.customer_aws_account_id, r) for r in good} <= set(on_file)
    if result is not None:
        assert records == [r.record for r in result]
        assert [] == untrue(result, service.book)
        assert all(r.ambiguous for r in result if r.status is S.DUPLICATE_RECORD)
        if cell.machine.begins_right:
            refused = {id(r) for name in ("edge", "typo", "left") for r in usage[name]}
            assert {id(r.record) for r in result if r.status in BLAMED} <= refused


BLAMED: Final = {S.REJECTED, S.CUSTOMER_NOT_SUBSCRIBED}


def _content(customer: str | None, record: Any) -> tuple[Any, ...]:
    return (customer, record.dimension, record.timestamp, record.quantity)
