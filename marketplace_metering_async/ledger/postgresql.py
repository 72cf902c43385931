"""
A ledger in PostgreSQL: for many machines, with the caller's own transactions if it wants.

Everything lies in the schema `marketplace_metering` of the database, and every statement says so,
since a caller's connection may look elsewhere first. No session state is used, so that a pooler may
stand between. Leases go by the database's clock.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from marketplace_metering_async.errors import (
    ConfigurationError,
    LedgerClosedError,
    LedgerError,
    LedgerMissingError,
    LedgerUnusableError,
)
from marketplace_metering_async.ledger.sql import (
    Dialect,
    FailPoint,
    Given,
    Operation,
    Row,
    migrations,
    no_failure,
)

T = TypeVar("T")

_NOW: Final = "EXTRACT(EPOCH FROM clock_timestamp())"
DIALECT: Final = Dialect(
    name="postgresql",
    integers=lambda name: f"(SELECT unnest(CAST(:{name} AS bigint[])))",
    texts=lambda name: f"(SELECT unnest(CAST(:{name} AS text[])))",
    for_update="FOR UPDATE",
    skip_locked="FOR UPDATE SKIP LOCKED",
    now=_NOW,
)

_SCHEMA: Final = "marketplace_metering"
_TABLE: Final = re.compile(
    r"\b(FROM|JOIN|INTO|UPDATE)\s+(ledger|usage_key|closed_customer|event|hour|carried|stranded"
    r"|attempt|pruned|posting|quota|schema_version)\b"
)
_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_]+)")
_TRIES: Final = 8
"""How often a transaction that met another one is run again."""
_CONNECTIONS: Final = 4
_COMMAND_SECONDS: Final = 60.0


@cache
def _translated(statement: str) -> tuple[str, tuple[str, ...]]:
    """Return *statement* with numbered parameters and full table names, and the parameters."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    full = _TABLE.sub(rf"\1 {_SCHEMA}.\2", statement)
    return _PARAMETER.sub(number, full), tuple(names)


@cache
def _at_once(statement: str) -> str:
    """Return *statement* for all given rows, which come as one array for each column."""
    given = Given.of(statement)
    arrays = [
        f"CAST(${number} AS {kind}[])" for number, kind in enumerate(given.columns.values(), 1)
    ]
    table = f"unnest({', '.join(arrays)}) AS given ({', '.join(given.columns)})"
    return _translated(given.before + table + given.after)[0]


class _PostgresTransaction:
    """Runs statements on a connection that is in a transaction."""

    dialect = DIALECT

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - asyncpg's, pooled or not
        self._connection = connection

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Row]:  # noqa: ANN401
        text, names = _translated(statement)
        found: Sequence[Row] = await self._connection.fetch(
            text, *(parameters[name] for name in names)
        )
        return found

    async def many(self, statement: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        text, names = _translated(statement)
        await self._connection.executemany(
            text, [tuple(each[name] for name in names) for each in parameters]
        )

    async def for_each(self, statement: str, given: Sequence[tuple[Any, ...]]) -> Sequence[Row]:
        columns = zip(*given, strict=True)
        found: Sequence[Row] = await self._connection.fetch(_at_once(statement), *columns)
        return found


class PostgresDatabase:
    """A schema in a PostgreSQL database, reached through a small pool of connections."""

    shares_quota = True
    clock_is_ours = False

    def __init__(self, url: str, *, create: bool = True, reach: FailPoint = no_failure) -> None:
        """Note where; open() does the work."""
        self._url = url
        self._create = create
        self._reach = reach
        self._pool: Any = None  # an asyncpg pool while open

    async def open(self) -> None:
        """Connect, and bring the schema up to date under a lock; see Database."""
        try:
            import asyncpg  # noqa: PLC0415 - the extra `postgres` brings it
        except ImportError:
            raise ConfigurationError(
                "PostgreSQL needs asyncpg: pip install 'marketplace-metering-async[postgres]'"
            ) from None
        self._asyncpg = asyncpg
        try:
            self._pool = await asyncpg.create_pool(
                self._url, min_size=1, max_size=_CONNECTIONS, command_timeout=_COMMAND_SECONDS
            )
        except (OSError, asyncpg.PostgresError, ValueError) as error:
            raise LedgerError(f"PostgreSQL cannot be reached: {error}") from error
        try:
            await self._migrate()
        except (*self._passing, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            await self.aclose()
            raise LedgerError(f"PostgreSQL: {error}") from error
        except BaseException:
            await self.aclose()
            raise

    async def run(self, operation: Operation[T], *, once: bool = False) -> T:
        """
        Run *operation* in one durable transaction; see Database.

        Where it meets another transaction it is run again. Where the connection is lost at the
        commit of what must take place *once*, a note that the transaction left tells whether it
        did.
        """
        note = uuid4().hex
        for attempt in range(1, _TRIES + 1):
            result: list[T] = []
            try:
                async with self._connection() as connection, connection.transaction():
                    self._reach("transaction: begins")
                    result.append(await operation(_PostgresTransaction(connection)))
                    if once:
                        await connection.execute(
                            f"INSERT INTO {_SCHEMA}.posting (posting_id) VALUES ($1)", note
                        )
                    self._reach("transaction: commits")
            except self._passing as error:
                if once and result and await self._took_place(note):
                    return result[0]
                if attempt == _TRIES:
                    raise LedgerError(f"PostgreSQL: {error}") from error
                await asyncio.sleep(min(2.0, 0.01 * 2**attempt))
            except (self._asyncpg.PostgresError, self._asyncpg.InterfaceError) as error:
                raise LedgerError(f"PostgreSQL: {error}") from error
            else:
                self._reach("transaction: committed")
                return result[0]
        raise AssertionError("the last attempt returned or raised")

    async def run_on(self, connection: Any, operation: Operation[T]) -> T:  # noqa: ANN401
        """Run *operation* in the caller's transaction on *connection*, or in one of its own."""
        async with connection.transaction():
            return await operation(_PostgresTransaction(connection))

    async def read(self, operation: Operation[T]) -> T:
        """Run *operation* on what is committed; see Database."""
        try:
            async with (
                self._connection() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await operation(_PostgresTransaction(connection))
        except (
            *self._passing,
            self._asyncpg.PostgresError,
            self._asyncpg.InterfaceError,
        ) as error:
            raise LedgerError(f"PostgreSQL: {error}") from error

    async def mark(self) -> str:
        """Return the cluster, its timeline and the database: a copy has others."""
        (row,) = await self.read(
            lambda tx: tx.rows(
                "SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster, "
                "(SELECT timeline_id FROM pg_control_checkpoint()) AS timeline, "
                "(SELECT oid FROM pg_database WHERE datname = current_database()) AS database"
            )
        )
        return f"{row['cluster']} {row['timeline']} {row['database']}"

    async def tidy(self) -> None:
        """Remove the notes of transactions that are long over; see Database."""
        await self.run(
            lambda tx: tx.rows("DELETE FROM posting WHERE posted_at < now() - interval '1 day'")
        )

    async def aclose(self) -> None:
        """Close the connections; see Database."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except (*self._passing, OSError, self._asyncpg.PostgresError):
                pool.terminate()

    def _connection(self) -> Any:  # noqa: ANN401
        if self._pool is None:
            raise LedgerClosedError("the ledger is closed")
        return self._pool.acquire(timeout=_COMMAND_SECONDS)

    @property
    def _passing(self) -> tuple[type[BaseException], ...]:
        """What another try may mend: a meeting of transactions, or a server that went away."""
        pg = self._asyncpg
        return (
            pg.SerializationError,
            pg.DeadlockDetectedError,
            pg.PostgresConnectionError,
            pg.CannotConnectNowError,
            pg.AdminShutdownError,
            pg.CrashShutdownError,
            pg.TooManyConnectionsError,
            pg.InternalClientError,  # a connection that was lost while a statement was prepared
            ConnectionError,
            TimeoutError,
        )

    async def _took_place(self, note: str) -> bool:
        """
        Return whether the transaction that left *note* was committed.

        Raises:
            LedgerError: if nobody can be asked: whether it was stored is unknown.
        """
        for attempt in range(1, _TRIES + 1):
            with suppress(*self._passing):
                async with self._connection() as connection:
                    found: bool = await connection.fetchval(
                        f"SELECT EXISTS (SELECT 1 FROM {_SCHEMA}.posting WHERE posting_id = $1)",
                        note,
                    )
                    return found
            await asyncio.sleep(min(2.0, 0.05 * 2**attempt))
        raise LedgerError(
            "PostgreSQL went away while it stored this, and whether it did is unknown; "
            "repeat the call with the same event id"
        )

    async def _migrate(self) -> None:
        known = migrations(DIALECT)
        newest = known[-1][0]
        async with self._connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7305803390)")
            if not self._create and not await connection.fetchval(
                f"SELECT to_regclass('{_SCHEMA}.schema_version')"
            ):
                raise LedgerMissingError(f"there is no ledger at {_place_of(self._url)}")
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_SCHEMA}.schema_version (version bigint NOT NULL)"
            )
            version = (
                await connection.fetchval(f"SELECT MAX(version) FROM {_SCHEMA}.schema_version") or 0
            )
            if version > newest:
                raise LedgerUnusableError(
                    f"the database has schema {version}, and this version of the package knows "
                    f"{newest}; use a newer one"
                )
            for number, statements in known:
                if number > version:
                    for statement in statements:
                        await connection.execute(statement)
                        self._reach("migrate: statement")
                    await connection.execute(
                        f"INSERT INTO {_SCHEMA}.schema_version VALUES ($1)", number
                    )
            self._reach("migrate: done")


def _place_of(url: str) -> str:
    """Return host and database of *url*, and nothing that may be secret."""
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"
