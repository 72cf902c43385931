"""
A ledger in PostgreSQL: for many machines, with the caller's own transactions if it wants.

Everything lies in the schema `marketplace_metering` of the database, and every statement says so,
since a caller's connection may look elsewhere first. No session state is used, and behind a pooler
no prepared statement, since each transaction may get another session of the server. Leases go by
the database's clock.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from marketplace_metering_async.errors import (
    ConfigurationError,
    LedgerClosedError,
    LedgerError,
    LedgerMissingError,
    LedgerOutcomeUnknownError,
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
_CACHED_STATEMENTS: Final = 100
_COMMAND_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_NOTES_AT_ONCE: Final = 1_000
_LEFT_IN_DOUBT: Final = frozenset({"08", "57", "58", "XX"})
"""Classes of SQLSTATE that may come though a COMMIT took place: lost, shut down, broken inside."""

_NO_TRANSACTION: Final = (
    "connection: begin a transaction on it first, of which usage is to be a part: with asyncpg "
    "`async with connection.transaction()`; SQLAlchemy begins only with the first statement, so "
    "execute one before, such as SELECT 1; nothing was stored"
)

_DURABLE: Final = """
    CASE WHEN current_setting('synchronous_commit') <> 'remote_apply'
         THEN set_config('synchronous_commit', 'on', true) END
"""
"""For the transaction alone; remote_apply waits for even more."""
_ENDS_SOON: Final = """
    CASE WHEN current_setting('idle_in_transaction_session_timeout') = '0'
         THEN set_config('idle_in_transaction_session_timeout', '30s', true) END
"""
"""A transaction whose client is gone holds its locks, and its COMMIT in doubt, no longer."""
_BEGIN: Final = f"SELECT {_DURABLE}, {_ENDS_SOON}"
_BEGIN_ONCE: Final = f"""
    WITH previous AS (DELETE FROM {_SCHEMA}.posting WHERE posting_id = $2)
    INSERT INTO {_SCHEMA}.posting (posting_id) VALUES ($1) ON CONFLICT DO NOTHING
    RETURNING {_DURABLE}, {_ENDS_SOON}
"""
"""Waits for an earlier try that is still on its way, and returns no row where it took place."""


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

    def __init__(self, url: str, *, create: bool = True, reach: FailPoint = no_failure) -> None:
        """Note where; open() does the work."""
        self._url = url
        self._create = create
        self._reach = reach
        self._pool: Any = None  # an asyncpg pool while open
        self._note: str | None = None  # of the latest commit, which the next one removes

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
            first = await asyncpg.connect(
                self._url, statement_cache_size=0, command_timeout=_COMMAND_SECONDS
            )
            try:
                pooled = await self._prepare(first)
            finally:
                await first.close(timeout=_CLOSE_SECONDS)
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=_CONNECTIONS,
                command_timeout=_COMMAND_SECONDS,
                statement_cache_size=0 if pooled else _CACHED_STATEMENTS,
            )
        except self._errors as error:
            raise LedgerError(f"PostgreSQL cannot be used: {_text_of(error)}") from error
        except ValueError:  # its text may show a part of the password
            raise LedgerError(
                "check the ledger's URL: it cannot be read as one; in user and password, signs "
                "such as # / @ are written %23 %2F %40"
            ) from None

    async def run(self, operation: Operation[T], *, once: bool = False) -> T:
        """
        Run *operation* in one durable transaction; see Database.

        Where it meets another transaction, or the connection is lost, it is run again. What must
        take place *once* begins with a note of its own: if an earlier try was committed after all,
        however late, the next one finds the note and returns what that try did.
        """
        note = uuid4().hex if once else None
        done: list[T] = []  # what the latest try did that got as far as its commit
        in_doubt = False
        for attempt in range(1, _TRIES + 1):
            committing = committed = False
            try:
                async with self._connection() as connection:
                    async with connection.transaction():
                        self._reach("transaction: begins")
                        if await self._begin(connection, note):
                            in_doubt = in_doubt and note is None
                            done = [await operation(_PostgresTransaction(connection))]
                            self._reach("transaction: commits")
                            committing = True
                    committed = True
            except self._errors as error:
                if not committed:  # otherwise only giving the connection back has failed
                    in_doubt = in_doubt or (committing and self._may_be_committed(error))
                    if attempt == _TRIES or not await self._passes(error):
                        raise _failed(error, in_doubt=in_doubt) from error
                    await asyncio.sleep(min(2.0, 0.01 * 2**attempt))
                    continue
            self._note = note or self._note
            self._reach("transaction: committed")
            return done[0]
        raise AssertionError("the last attempt returned or raised")

    async def run_on(self, connection: Any, operation: Operation[T]) -> T:  # noqa: ANN401
        """
        Run *operation* in the transaction that the caller has begun on *connection*.

        Raises:
            LedgerError: there is none, or the database refuses; nothing was stored.
        """
        try:
            if not connection.is_in_transaction():
                raise LedgerError(_NO_TRANSACTION)
            async with connection.transaction():
                await connection.execute(f"SELECT {_DURABLE}")
                return await operation(_PostgresTransaction(connection))
        except self._errors as error:
            raise _failed(error) from error

    async def read(self, operation: Operation[T]) -> T:
        """Run *operation* on what is committed; see Database."""
        try:
            async with (
                self._connection() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await operation(_PostgresTransaction(connection))
        except self._errors as error:
            raise LedgerError(f"PostgreSQL: {_text_of(error)}") from error

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

    async def tidy(self) -> bool:
        """Remove some notes of processes that have ended; see Database."""
        gone = await self.run(
            lambda tx: tx.rows(
                "DELETE FROM posting WHERE posting_id IN (SELECT posting_id FROM posting "
                "WHERE posted_at < now() - interval '1 day' LIMIT :limit) RETURNING posting_id",
                limit=_NOTES_AT_ONCE,
            )
        )
        return len(gone) == _NOTES_AT_ONCE

    async def aclose(self) -> None:
        """Close the connections; see Database."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except self._errors:
                pool.terminate()

    def _connection(self) -> Any:  # noqa: ANN401
        if self._pool is None:
            raise LedgerClosedError("the ledger is closed")
        return self._pool.acquire(timeout=_COMMAND_SECONDS)

    async def _begin(self, connection: Any, note: str | None) -> bool:  # noqa: ANN401
        """Make the transaction durable, and leave its *note*; False: an earlier try did it all."""
        if note is None:
            await connection.execute(_BEGIN)
            return True
        return await connection.fetchrow(_BEGIN_ONCE, note, self._note) is not None

    async def _passes(self, error: BaseException) -> bool:
        """Whether another try may succeed; a session that cannot write is not used again."""
        pg = self._asyncpg
        if isinstance(error, pg.ReadOnlySQLTransactionError) and self._pool is not None:
            await self._pool.expire_connections()
        return isinstance(
            error,
            (
                OSError,  # TimeoutError, names that do not resolve, and all of several addresses
                pg.SerializationError,
                pg.DeadlockDetectedError,
                pg.PostgresConnectionError,
                pg.CannotConnectNowError,
                pg.AdminShutdownError,
                pg.CrashShutdownError,
                pg.TooManyConnectionsError,
                pg.ReadOnlySQLTransactionError,  # a standby, which others have replaced
                pg.InternalClientError,  # a connection that was lost while a statement was prepared
            ),
        )

    def _may_be_committed(self, error: BaseException) -> bool:
        """Whether a COMMIT that ended with *error* may have taken place all the same."""
        state: str = getattr(error, "sqlstate", None) or "08"  # the server said nothing
        return state[:2] in _LEFT_IN_DOUBT

    @property
    def _errors(self) -> tuple[type[BaseException], ...]:
        """All that asyncpg and the network raise."""
        pg = self._asyncpg
        return (OSError, pg.PostgresError, pg.InterfaceError, pg.InternalClientError)

    async def _prepare(self, connection: Any) -> bool:  # noqa: ANN401
        """Bring the schema up to date; return whether a pooler stands between."""
        server = await connection.fetchrow(
            "SELECT current_setting('fsync') AS fsync, pg_backend_pid() AS process"
        )
        if server["fsync"] == "off":
            raise LedgerUnusableError(
                "set fsync = on: this PostgreSQL does not wait for its disk (fsync = off), and "
                "would lose usage when the machine stops"
            )
        await self._migrate(connection)
        # Behind a pooler, another process answers than the one that the session began with.
        return bool(server["process"] != connection.get_server_pid())

    async def _migrate(self, connection: Any) -> None:  # noqa: ANN401
        known = migrations(DIALECT)
        newest = known[-1][0]
        async with connection.transaction():
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


def _text_of(error: BaseException) -> str:
    unnamed = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return str(error) or unnamed


def _failed(error: BaseException, *, in_doubt: bool = False) -> LedgerError:
    if in_doubt:
        return LedgerOutcomeUnknownError(
            f"PostgreSQL: {_text_of(error)}; it went away at the commit, and whether this was "
            "stored is unknown"
        )
    return LedgerError(f"PostgreSQL: {_text_of(error)}; nothing was stored")
