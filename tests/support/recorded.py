"""A ledger that lives on a recording disk, and what the world outside of it knows meanwhile."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from attrs import Factory, define, frozen

from marketplace_metering_async import LedgerError, MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore
from marketplace_metering_async.ledger.stores.sqlite_file import connect as store_connect
from marketplace_metering_async.ledger.stores.watermark_folder import WatermarkFolder
from marketplace_metering_async.ledger.watermark import Watermark
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.sandbox import Book, FaultKind
from support.disk import Mark
from support.ledgers import NOON, QUICK, SetClock, some_quantity
from support.memory import MemoryService, client_of
from support.vfs import Recorder

FILE: Final = "usage.db"
_CUSTOMERS: Final = 6
_STEPS: Final = 30

Connect = Callable[[str], Any]


@frozen
class Event:
    """A piece of usage that somebody meant to add."""

    event_id: str
    customer: str
    quantity: Quantity
    at: datetime


@define
class Outside:
    """
    What the world outside the ledger knows.

    Attributes:
        meant: Id to event, of all that somebody has begun to add.
        told: Ids of those that were acknowledged.
        billed: How many records the service has taken.
        on_the_wire: Numbers of requests that the service has not seen.
        now: What time it is.
    """

    meant: dict[str, Event] = Factory(dict)
    told: set[str] = Factory(set)
    billed: int = 0
    on_the_wire: set[int] = Factory(set)
    now: datetime = NOON

    def hear(self, mark: Mark) -> None:
        match mark:
            case Mark("means", event):
                self.meant[event.event_id] = event
            case Mark("told", event_id):
                self.told.add(event_id)
            case Mark("sent", number):
                self.on_the_wire.add(number)
            case Mark("billed", (number, count)):
                self.on_the_wire.discard(number)
                self.billed = count
            case Mark("time", now):
                self.now = now


class MarkingService(MemoryService):
    """A truthful service, whose answers are lost now and then; it marks what it takes, and when."""

    def __init__(
        self, book: Book, clock: SetClock, chance: Random, mark: Callable[[str, Any], None]
    ) -> None:
        super().__init__(self._lose, book=book, clock=clock)
        self.round_trip = 0.0
        self._chance = chance
        self._mark = mark

    def _lose(self, number: int, body: dict[str, Any]) -> FaultKind | None:
        return FaultKind.RESET_AFTER if self._chance.random() < 0.05 else None

    async def send(self, request: Request, *, timeout: float) -> Response:
        number = len(self.requests)
        self._mark("sent", number)
        try:
            return await super().send(request, timeout=timeout)
        finally:
            self._mark("billed", (number, len(self.book)))


def connect_with(synchronous: str, checkpoint: int | None) -> Connect:
    """Return how to open a file: as the store does, but for how hard and how often it syncs."""
    if synchronous == "FULL" and checkpoint is None:
        return store_connect

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            changed = statement.replace("synchronous = FULL", f"synchronous = {synchronous}")
            return super().execute(changed, *parameters)

    def connect(path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=30, isolation_level=None, check_same_thread=False, factory=Connection
        )
        if checkpoint is not None:
            connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint}").fetchall()
        return connection

    return connect


def ledger_in(folder: Path, clock: SetClock, connect: Connect = store_connect) -> UsageLedger:
    """Return the ledger in a folder: it is the same disk before and after a power cut."""
    store = SqliteStore(str(folder / FILE), connect=connect)
    store._file.mark = lambda: "the disk"  # type: ignore[method-assign]
    return UsageLedger(store, clock=clock, observer=lambda event: None, grace=600)


def client_for(service: MemoryService, clock: SetClock) -> MarketplaceMeteringClient:
    return client_of(service, clock=clock, retry=QUICK, observer=lambda event: None)


async def add(ledger: UsageLedger, event: Event) -> Any:
    return await ledger.add_usage(
        dimension="requests",
        quantity=event.quantity,
        customer_aws_account_id=event.customer,
        product_code="product",
        at=event.at,
        event_id=event.event_id,
    )


class Life:
    """Usage, relays in a second ledger on the same file, hours that go by, and restarts."""

    def __init__(
        self, folder: Path, recorder: Recorder, chance: Random, outside: Outside, book: Book
    ) -> None:
        """Begin where the world *outside* is, with what the service's *book* has."""
        self._folder = folder
        self._recorder = recorder
        self._chance = chance
        self._clock = SetClock(outside.now)
        self._service = MarkingService(book, self._clock, chance, self._mark)
        self._events = list(outside.meant.values())
        self._steps = 0

    async def live(self, connect: Connect) -> None:
        """Live it."""
        raise_to = WatermarkFolder.raise_to

        def noted(folder: WatermarkFolder, watermark: Watermark) -> None:
            raise_to(folder, watermark)
            own = f"{Path(folder.path).name}/"
            names = {own + file.name for file in Path(folder.path).iterdir()}
            self._recorder.note_names(names, own)

        with patch.object(WatermarkFolder, "raise_to", noted):
            await self._live(connect)

    async def _live(self, connect: Connect) -> None:
        async with client_for(self._service, self._clock) as client:
            while self._steps < _STEPS:
                with suppress(LedgerError):  # of a disk that fails
                    await self._until_restart(connect, client)

    async def _until_restart(self, connect: Connect, client: MarketplaceMeteringClient) -> None:
        async with (
            ledger_in(self._folder, self._clock, connect) as ledger,
            ledger_in(self._folder, self._clock, connect) as relaying,
        ):
            for _ in range(self._chance.randint(4, 12)):
                self._steps += 1
                await self._step(ledger, relaying, client)

    async def _step(
        self, ledger: UsageLedger, relaying: UsageLedger, client: MarketplaceMeteringClient
    ) -> None:
        new = [self._event() for _ in range(self._chance.choice([1, 1, 3, 8, 20]))]
        again = min(len(self._events), self._chance.choice([0, 2]))
        given = [*new, *self._chance.sample(self._events, again)]
        self._events += new
        relays = [self._relay(relaying, client)] if self._chance.random() < 0.7 else []
        await asyncio.gather(*(self._give(ledger, event) for event in given), *relays)
        self._clock.step(minutes=self._chance.choice([1, 5, 15, 40]))
        self._mark("time", self._clock.now())

    def _event(self) -> Event:
        late = self._chance.choice([0, 0, 0, 0, 1, 2])
        return Event(
            f"event-{self._chance.getrandbits(64):x}",
            f"{self._chance.randrange(_CUSTOMERS):012d}",
            some_quantity(self._chance),
            self._clock.now() - timedelta(hours=late, seconds=self._chance.randrange(60)),
        )

    async def _give(self, ledger: UsageLedger, event: Event) -> None:
        self._mark("means", event)
        await asyncio.sleep(self._chance.choice([0, 0, 0.002]))
        with suppress(LedgerError):
            await add(ledger, event)
            self._mark("told", event.event_id)

    async def _relay(self, ledger: UsageLedger, client: MarketplaceMeteringClient) -> None:
        with suppress(LedgerError):
            await ledger.relay_once(client)

    def _mark(self, word: str, value: Any) -> None:
        self._recorder.operations.append(Mark(word, value))
