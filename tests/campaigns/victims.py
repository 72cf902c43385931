"""The processes under test, which use and relay one ledger, and those who start and kill them."""

import asyncio
import json
import logging
import os
import random
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
from campaigns.truth import Event, Truth
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.ledgers import some_quantity

from marketplace_metering_async import (
    InvalidRecordError,
    LedgerError,
    LedgerOutcomeUnknownError,
    MarketplaceMeteringClient,
    RetryPolicy,
    UsageLedger,
)
from marketplace_metering_async.errors import EventTooOldError
from marketplace_metering_async.ledger.stores import store_at
from marketplace_metering_async.ledger.stores.postgresql_schema import schema_in
from marketplace_metering_async.ledger.stores.watermark_folder import watermark_of

START = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
"""A month ends in half a day."""
SPEED = 1800.0
"""Seconds of the ledger in a real second: an hour in two."""
CUSTOMERS = 12
PRODUCT = "product"
JUMPS = (0.0, 0.0, -5400.0, -600.0, 600.0, 7200.0)
"""Seconds by which a clock is wrong."""


class World(NamedTuple):
    """
    Where the ledger and the sandbox are, when time began, and what the victims do.

    Attributes:
        clock_jumps: Whether clocks are stepped while they live.
        transactions: Whether usage is also added in transactions of its callers.
        unnamed: Whether some events have no id, and are never repeated.
        late: By how many hours usage may be late.
    """

    url: str
    endpoint: str
    begun: float
    clock_jumps: bool = False
    transactions: bool = False
    unnamed: bool = False
    late: int = 2


class FastClock:
    """The time of all processes, faster than the real one; stepped now and then, as clocks are."""

    def __init__(self, begun: float, offset: float = 0.0) -> None:
        self._begun = begun
        self.offset = offset

    def now(self) -> datetime:
        return START + timedelta(seconds=(time.time() - self._begun) * SPEED + self.offset)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def ledger_at(url: str, clock: FastClock) -> UsageLedger:
    return UsageLedger(
        store_at(url), clock=clock, grace=600, observer=lambda event: None, slice_seconds=0.3
    )


def client_at(endpoint: str, clock: FastClock) -> MarketplaceMeteringClient:
    return MarketplaceMeteringClient(
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        calls_per_second=None,
        clock=clock,
        observer=lambda event: None,
        retry=RetryPolicy(timeout=0.3, attempt_timeout=0.3, base_delay=0.005, max_delay=0.02),
    )


async def add(ledger: UsageLedger, event: Event, connection: Any = None) -> None:
    await ledger.add_usage(
        dimension="requests",
        quantity=event["quantity"],
        customer_aws_account_id=event["customer"],
        product_code=PRODUCT,
        at=datetime.fromtimestamp(event["at"], UTC),
        event_id=event["id"] if event["named"] else None,
        connection=connection,
    )


class RolledBackError(Exception):
    """A caller thinks better of it."""


class Victim:
    """One process: it adds usage and relays it until it is killed, and says what it means to do."""

    def __init__(self, world: World, seed: int, again: list[Event], pipe: int) -> None:
        self._world = world
        self._seed = seed
        self._again = again
        self._pipe = pipe
        self._chance = random.Random(seed)
        wrong = self._chance.choice([0.0] * 8 + [-5400.0, 7200.0])
        self._clock = FastClock(world.begun, wrong)
        self._number = 0

    async def run(self) -> None:
        right = FastClock(self._world.begun)  # a client corrects its clock by the service's
        async with (
            ledger_at(self._world.url, self._clock) as ledger,
            client_at(self._world.endpoint, right) as client,
        ):
            while True:
                again = self._some_of_those_in_doubt()
                events = [self._new_event() for _ in range(self._chance.randrange(1, 6))]
                if self._chance.random() < 0.2:  # a caller that was not sure
                    events += [event for event in events[:1] if event["named"]]
                work = [self._give(ledger, event) for event in (*again, *events)]
                if self._world.transactions:
                    work.append(self._in_a_transaction(ledger))
                await asyncio.gather(*work, self._relay(ledger, client))
                if self._world.clock_jumps and self._chance.random() < 0.05:
                    self._clock.offset = self._chance.choice(JUMPS)

    def _some_of_those_in_doubt(self) -> list[Event]:
        """Return what is given again now; the rest is later, when its hour may be remembered."""
        parts: tuple[list[Event], list[Event]] = ([], [])
        for event in self._again:
            parts[self._chance.random() < 0.5].append(event)
        self._again, now = parts
        return now

    async def _relay(self, ledger: UsageLedger, client: MarketplaceMeteringClient) -> None:
        try:
            await ledger.relay_once(client)
        except LedgerError:  # a server is away
            await asyncio.sleep(0.05)

    def _tell(self, word: str, event: Event) -> None:
        os.write(self._pipe, (json.dumps([word, event], default=str) + "\n").encode())

    def _new_event(self) -> Event:
        self._number += 1
        late = self._chance.choice([0] * 7 + [*range(1, self._world.late + 1)]) * 3600
        return {
            "id": f"{self._seed}-{self._number}",
            "named": not (self._world.unnamed and self._chance.random() < 0.3),
            "quantity": some_quantity(self._chance),
            "customer": f"{self._chance.randrange(CUSTOMERS):012d}",
            "at": int(self._clock.now().timestamp()) - late - self._chance.randrange(60),
        }

    async def _give(self, ledger: UsageLedger, event: Event) -> None:
        self._tell("means", event)
        try:
            await add(ledger, event)
        except InvalidRecordError:  # of a process whose clock was ahead of ours
            return
        except EventTooOldError:
            self._tell("unsure", event)
        except LedgerOutcomeUnknownError:
            self._repeat(event)
        except LedgerError:
            if event["named"]:
                self._repeat(event)
            else:
                self._tell("dropped", event)
        else:
            self._tell("stored", event)

    def _repeat(self, event: Event) -> None:
        if event["named"]:
            self._again.append(event)

    async def _in_a_transaction(self, ledger: UsageLedger) -> None:
        """Add usage with a caller's data, who commits, thinks better of it, or is killed."""
        events = [self._new_event() for _ in range(self._chance.randrange(1, 4))]
        for event in events:
            self._tell("means", event)
        fate, wait = self._chance.random(), self._chance.choice([0.0, 0.0, 0.05])
        try:
            async with self._begun() as connection:
                for event in events:
                    await add(ledger, event, connection)
                await asyncio.sleep(wait)
                _think_better_of_it(fate)
        except (RolledBackError, InvalidRecordError):
            word = "dropped"
        except (LedgerError, *DATABASE_ERRORS):
            for event in events:
                self._repeat(event)
            return
        else:
            word = "stored"
        for event in events:
            self._tell(word, event)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[Any]:
        """Yield what a caller has begun a transaction on: asyncpg's or SQLAlchemy's."""
        place = schema_in(watermark_of(self._world.url)[0])[0]

        async def connect() -> Any:
            return await asyncpg.connect(place, statement_cache_size=0, timeout=5)

        if self._chance.random() < 0.5:
            connection = await connect()
            try:
                async with connection.transaction():
                    yield connection
            finally:
                connection.terminate()
        else:
            engine = create_async_engine(
                "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool
            )
            async with engine.connect() as owned, owned.begin():
                yield owned


def _think_better_of_it(fate: float) -> None:
    if fate < 0.3:
        raise RolledBackError


DATABASE_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    SQLAlchemyError,
)
"""What callers meet when their own database is killed."""

logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # its server is killed on purpose


def in_child(work: Callable[[], None], *, may_end_by: tuple[type[Exception], ...] = ()) -> int:
    """Run *work* in a forked process that has no loop and no thread yet; print what ends it."""
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        work()
    except BaseException as error:  # noqa: BLE001 - told here, since nobody else hears of it
        if not isinstance(error, may_end_by):
            traceback.print_exc()
    finally:
        os._exit(1)


class Victims:
    """Those that are alive, each with the pipe on which it says what it does."""

    def __init__(self, start: Callable[[int, list[Event], int], int]) -> None:
        self._start = start
        self._alive: dict[int, tuple[int, bytes]] = {}  # process to pipe and what is half read
        self.truth = Truth()

    def spawn(self, seed: int, *, old: list[Event]) -> None:
        """Start one that repeats what is in doubt, and *old* events."""
        again = [*self.truth.to_repeat(), *old]
        reading, writing = os.pipe()
        child = self._start(seed, again, writing)
        os.close(writing)
        os.set_blocking(reading, False)
        self._alive[child] = (reading, b"")

    def listen(self, child: int) -> None:
        pipe, rest = self._alive[child]
        while True:
            try:
                data = os.read(pipe, 2**16)
            except BlockingIOError:
                break
            if not data:
                break
            rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            self.truth.hear(line)
        self._alive[child] = (pipe, rest)

    def listen_to_all(self) -> None:
        for child in list(self._alive):
            self.listen(child)

    def kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._bury(child)

    def kill_all(self) -> None:
        for child in self.children:
            self.kill(child)

    def signal_all(self, number: signal.Signals) -> None:
        """Stop all, or let all go on."""
        for child in self.children:
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def bury_the_dead(self) -> int:
        """Forget those that ended by themselves, and say how many."""
        dead = [child for child in self._alive if os.waitpid(child, os.WNOHANG)[0]]
        for child in dead:
            self._bury(child)
        return len(dead)

    def _bury(self, child: int) -> None:
        self.listen(child)
        os.close(self._alive.pop(child)[0])

    @property
    def children(self) -> list[int]:
        return list(self._alive)
