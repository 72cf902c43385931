"""
The connections of a ledger in PostgreSQL: transactions that are durable, and done once.

No session state is used, and behind a pooler no prepared statement, since each transaction may get
another session of the server.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.resources.abc import Traversable
from random import randrange
from typing import Any, Final, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from attrs import evolve

from marketplace_metering_async.clock import FollowingClock, SystemClock
from marketplace_metering_async.errors import (
    ConfigurationError,
    LedgerClosedError,
    LedgerError,
    LedgerUnusableError,
)
from marketplace_metering_async.ledger.identity import COPY, require_here, require_known
from marketplace_metering_async.ledger.stores.callers_connection import connection_under, savepoint
from marketplace_metering_async.ledger.stores.database import Database, Row
from marketplace_metering_async.ledger.stores.identifying import guard
from marketplace_metering_async.ledger.stores.migrations import migrations_in, migrations_of
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase
from marketplace_metering_async.ledger.stores.postgresql_errors import (
    errors_of,
    failed,
    first_of,
    is_of_a_parameter,
    is_otherwise,
    is_passing,
    may_be_committed,
    text_of,
)
from marketplace_metering_async.ledger.stores.postgresql_schema import schema_in
from marketplace_metering_async.ledger.stores.postgresql_transactions import (
    BEGIN,
    BEGIN_ON,
    BEGIN_ONCE,
    CLOCK,
    LANDED,
    LEDGER_ID,
    AtOnce,
    Connection,
)
from marketplace_metering_async.ledger.stores.postgresql_upgrade import SchemaUpgrade, place_of
from marketplace_metering_async.ledger.stores.words import FailPoint, Warn
from marketplace_metering_async.ledger.watermark import Memory, Missing

T = TypeVar("T")

Operation = Callable[[PostgresDatabase], Awaitable[T]]
"""Statements of one transaction."""

_TRIES: Final = 8
"""How often a transaction that met another one is run again."""
_LONGEST_SECONDS: Final = 90.0
"""Seconds after which none is tried again, such as where each waits for a table that is locked."""
_CONNECTIONS: Final = 4
_SHARDS: Final = 16
"""Of each kept sum."""
_CACHED_STATEMENTS: Final = 100
_COMMAND_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_MOVING_SECONDS: Final = 2.0
"""A ledger that moves does not say so sooner, for it waits for the caller who asks."""
_NOTE_LASTS: Final = 6 * 86_400.0
"""Seconds for which a process looks for its note: relays remove those that are a week old."""
_WAITS_FOR_STANDBY: Final = "SyncRepWaitForLSN"
"""
What of the server warns, in whatever language, that somebody has cancelled a commit while it waited
for a standby: pg_cancel_backend() does. The commit is called done then.
"""
_OTHER_LEDGER: Final = (
    "connection: connect it to the database of this ledger; it is connected to another one, where "
    "nothing was stored"
)

CLUSTER: Final = "SELECT system_identifier FROM pg_control_system()"
_MAY_WRITE: Final = """
    SELECT has_table_privilege('marketplace_metering.ledger', 'UPDATE')
           AND NOT current_setting('transaction_read_only')::boolean
"""
_MIN_COMPATIBLE: Final = "SELECT min_compatible FROM marketplace_metering.ledger"


async def _nothing(_db: object) -> None:
    """Change nothing in a transaction, or in a session: what it has set ends with a transaction."""


class PostgresConnections:
    """A small pool of connections to the database that has a ledger's schema."""

    def __init__(
        self, url: str, *, create: bool, reach: FailPoint, schema: Traversable | None = None
    ) -> None:
        """Note where; open() does the work. Another *schema* is for tests of upgrades."""
        self._url, self._schema = schema_in(url)
        self.may_write = True
        self.shows_cluster = False
        self.clock = FollowingClock()
        self._reach = reach
        migrations = migrations_in(schema) if schema else migrations_of("postgresql")
        self._upgrade = SchemaUpgrade(self._url, self._schema, migrations, create, reach)
        self._known = self._upgrade.known
        self.shard = randrange(_SHARDS)
        self._pool: Any = None  # an asyncpg pool while open
        self._process = 0
        self._pooled = False
        self._own_id = ""  # the ledger's, once somebody has asked for it
        self._turns = WeakValueDictionary[int, asyncio.Lock]()  # of those who wait for theirs
        self._memory = Memory()
        self._noted_at = 0.0  # when it left its note, in seconds since 1970
        self._warn: Warn

    async def open(self, warn: Warn) -> None:
        """Connect, and bring the schema up to date under a lock; see Store."""
        self._warn = warn
        if self._process not in (0, os.getpid()):  # a note is replaced by the process that left it
            self._memory = self._memory.without_notes()
        self._process = os.getpid()
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
                version = await self._look(first)
            finally:
                await first.close(timeout=_CLOSE_SECONDS)
            await self._upgrade.prepare(version)
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=_CONNECTIONS,
                command_timeout=_COMMAND_SECONDS,
                reset=_nothing,
                statement_cache_size=0 if self._pooled else _CACHED_STATEMENTS,
            )
        except self._errors as error:
            if is_of_a_parameter(error, asyncpg):
                raise LedgerError(
                    f"leave out of the ledger's URL what the server does not know: {error}"
                ) from error
            place, text = place_of(self._url, self._schema), text_of(first_of(error, asyncpg))
            raise LedgerError(f"PostgreSQL cannot be used: {text} ({place})") from error
        except ValueError:  # its text may show a part of the password
            raise LedgerError(
                "check the ledger's URL: it cannot be read as one; in user and password, signs "
                "such as # / @ are written %23 %2F %40"
            ) from None

    async def run(
        self,
        operation: Operation[T],
        *,
        once: bool = False,
        though_moved: bool = False,
        patience: float | None = None,
        at_once: AtOnce[T] | None = None,
    ) -> T:
        """
        Run *operation* in one durable transaction.

        Where it meets another transaction, or the connection is lost, it is run again. What must
        take place *once* begins with a note of its own: if an earlier try was committed after all,
        however late, the next one finds the note and returns what that try did. For others it waits
        *patience* seconds at a time; None: as long as the server lets it.

        Each looks for what this process remembers: its latest note, and how often the ledger had
        claimed. Where it is missing, as after a failover that lost commits, the ledger is a copy.

        What is given *at_once* is tried first, and the operation where anything is otherwise.

        Raises:
            LedgerUnusableError: the ledger has moved, and this is not to be done *though_moved*; or
                its schema was upgraded beyond what this process knows.
            LedgerOutcomeUnknownError: it failed at the commit, and nobody can be asked.
            LedgerError: the database cannot do it; nothing has happened then.
        """
        note = uuid4().hex if once else None
        done: list[T] = []  # what the latest try did that got as far as its commit
        seen: Any = None  # what it began with
        missing: Missing | None = None
        in_doubt = False
        # It commits by itself, and may land for as long as nothing with its note is committed.
        is_lone = at_once is not None and at_once.is_all and not self._pooled
        may_land = note is None or is_lone
        memory = self._taken_memory(once=once)
        tries = _TRIES if at_once is None else _TRIES + 1
        until = SystemClock.monotonic() + _LONGEST_SECONDS
        for attempt in range(1, tries + 1):
            committing = False
            # What others of this process have seen since, this try has to see as well.
            memory = evolve(memory, claims=max(memory.claims, self._memory.claims))
            try:
                async with self._connection() as connection:
                    db = self._database(connection)
                    if at_once is not None and is_lone:
                        done, committing = [await at_once.rest(db)], True
                        self._reach("transaction: at once")
                        seen = await self._begin(db, note, memory, patience, at_once)
                    else:
                        async with connection.transaction(isolation="read_committed"):
                            self._reach("transaction: begins")
                            begun = await self._begin(db, note, memory, patience, at_once)
                            if begun is not None:
                                seen = begun
                                in_doubt = in_doubt and may_land
                                with self._kept_in_mind(memory, note, in_doubt=in_doubt):
                                    self._require_usable(begun, though_moved=though_moved)
                                missing = await self._guard_copy(db, memory, begun)
                                done = [await (at_once.rest if at_once else operation)(db)]
                                self._reach("transaction: commits")
                                committing = True
                            else:
                                seen = await db.fetchrow(LANDED, note)
            except self._errors as caught:
                error = first_of(caught, self._asyncpg)
                in_doubt = in_doubt or (committing and may_be_committed(error))
                at_once, expected = None, at_once
                if expected is not None and is_otherwise(error, self._asyncpg):
                    continue
                is_last = attempt == tries or SystemClock.monotonic() >= until
                if is_last or not await self._passes(error):
                    self._keep_in_mind(memory, note, in_doubt=in_doubt)
                    raise failed(error, in_doubt=in_doubt) from error
                await asyncio.sleep(min(2.0, 0.01 * 2**attempt))
                continue
            self._remember(seen, note, missing)
            self._reach("transaction: committed")
            return done[0]
        raise AssertionError("the last attempt returned or raised")

    def _taken_memory(self, *, once: bool) -> Memory:
        """
        Return what a transaction is to look for: what was known before it, since answers overtake.

        A note is looked for once, by one that leaves a new one.
        """
        memory = self._memory
        without = self._memory.without_notes()
        if not once:
            return without
        self._memory = without
        # By the machine's clock: a monotonic time leaves out how long the machine slept.
        is_young = SystemClock().now().timestamp() < self._noted_at + _NOTE_LASTS
        return memory if is_young else without

    def _keep_in_mind(self, memory: Memory, note: str | None, *, in_doubt: bool) -> None:
        """Look for what was taken the next time: nothing with *note* is known to be stored."""
        if note is not None:
            kept = memory.or_with(note) if in_doubt else memory
            self._memory = evolve(kept, claims=self._memory.claims)

    @contextmanager
    def _kept_in_mind(self, memory: Memory, note: str | None, *, in_doubt: bool) -> Iterator[None]:
        """Keep in mind what was to be looked for, where the ledger cannot be used."""
        try:
            yield
        except LedgerUnusableError:
            self._keep_in_mind(memory, note, in_doubt=in_doubt)
            raise

    async def _guard_copy(self, db: Database, memory: Memory, begun: Row) -> Missing | None:
        """Guard the ledger if something is missing that makes it a copy; return what is missing."""
        note_found = not memory.notes or begun["note_found"]
        missing = memory.missing(begun["claims"], note_found=note_found)
        if missing is not None and missing.is_copy:
            await guard(db, int(begun["clock"]))
        return missing

    def remember(self, claims: int) -> None:
        """Look for so many *claims* from now on, if not for more."""
        self._memory = evolve(self._memory, claims=max(claims, self._memory.claims))

    def _remember(self, seen: Row, note: str | None, missing: Missing | None) -> None:
        """Note what is committed, and say what is *missing*."""
        if missing is None:
            self.remember(seen["claims"])
        else:
            self._memory = evolve(self._memory, claims=seen["claims"])
        if note is not None:
            self._memory = evolve(self._memory, notes=(note,), stored_at=seen["posted_at"])
            self._noted_at = SystemClock().now().timestamp()
        if missing is not None:
            self._warn(f"{COPY}; {missing.text}" if missing.is_copy else missing.text)

    async def run_on(self, given: object, operation: Operation[T]) -> T:
        """
        Run *operation* in the transaction that the caller has begun on what is *given*.

        Those of calls at once take turns, since one's savepoint would undo another's.

        Raises:
            LedgerOutcomeUnknownError: something else was asked on the connection meanwhile, and
                what was stored in the transaction cannot be taken out of it.
            LedgerError: it is in none, no connection of asyncpg, or one to another ledger, or the
                database refuses; nothing was stored, and the transaction is as it was before.
        """
        own = await self._ledger_id()
        pg = self._asyncpg
        try:
            async with self._turns.setdefault(id(given), asyncio.Lock()):
                connection = await connection_under(given, pg)
                async with savepoint(connection, pg):
                    return await self._done_on(connection, operation, own)
        except (pg.UndefinedTableError, pg.InvalidSchemaNameError):
            raise LedgerError(_OTHER_LEDGER) from None
        except self._errors as error:
            raise failed(error) from error

    async def _done_on(self, connection: Connection, operation: Operation[T], own: str) -> T:
        db = self._database(connection)
        memory = self._memory
        begun = await db.fetchrow(BEGIN_ON, memory.notes)
        if begun["ledger_id"] != own:
            raise LedgerError(_OTHER_LEDGER)
        self._require_usable(begun, though_moved=False)
        missing = memory.missing(begun["claims"], note_found=begun["note_found"]) is not None
        if missing or not begun["sees_all"]:
            # This transaction may look at what was: one of our own finds out, guards a copy, and
            # sees whether it has moved since; from here on, moving waits for this transaction.
            async with asyncio.timeout(_MOVING_SECONDS):
                await self.run(_nothing, once=missing)
        return await operation(db)

    async def _ledger_id(self) -> str:
        if not self._own_id:
            self._own_id = await self.read(lambda db: db.fetchval(f"SELECT {LEDGER_ID}"))
        return self._own_id

    async def read(self, operation: Operation[T]) -> T:
        """
        Run *operation* on what is committed, again where the connection is lost.

        Raises:
            LedgerUnusableError: its schema was upgraded beyond what this process knows.
            LedgerError: the database cannot be asked.
        """
        until = SystemClock.monotonic() + _LONGEST_SECONDS
        for attempt in range(1, _TRIES + 1):
            try:
                async with (
                    self._connection() as connection,
                    connection.transaction(isolation="repeatable_read", readonly=True),
                ):
                    db = self._database(connection)
                    require_known(await db.fetchval(_MIN_COMPATIBLE), self._known)
                    return await operation(db)
            except self._errors as caught:
                error = first_of(caught, self._asyncpg)
                is_last = attempt == _TRIES or SystemClock.monotonic() >= until
                if is_last or not await self._passes(error):
                    raise LedgerError(f"PostgreSQL: {text_of(error)}") from error
            await asyncio.sleep(min(2.0, 0.01 * 2**attempt))
        raise AssertionError("the last attempt returned or raised")

    async def aclose(self) -> None:
        """Close the connections; twice is fine."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except self._errors:
                pool.terminate()

    def _database(self, connection: Connection) -> PostgresDatabase:
        return PostgresDatabase(connection, self._schema, self.shard)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """
        Lend a connection of the pool.

        Raises:
            ConnectionAbortedError: a commit on it may be on the server's own disk alone.
        """
        if self._pool is None:
            raise LedgerClosedError("the ledger is closed")
        if self._process != os.getpid():
            raise LedgerClosedError("the ledger belongs to another process; open one for this")
        broken_off: list[Any] = []

        def hear(_connection: Connection, message: Any) -> None:  # noqa: ANN401 - asyncpg's
            if message.server_source_function == _WAITS_FOR_STANDBY:
                broken_off.append(message)

        async with self._pool.acquire(timeout=_COMMAND_SECONDS) as connection:
            connection.add_log_listener(hear)
            try:
                yield connection
            finally:
                with suppress(self._asyncpg.InterfaceError):  # it was lost
                    connection.remove_log_listener(hear)
        if broken_off:
            raise ConnectionAbortedError("somebody has ended the wait for a standby")

    async def _begin(
        self,
        db: Database,
        note: str | None,
        memory: Memory,
        patience: float | None,
        at_once: AtOnce[Any] | None,
    ) -> Row | None:
        """
        Make the transaction durable, and leave its *note* in place of those that are remembered.

        Returns: what says whether the ledger may be changed; None: an earlier try did it all.
        """
        wait = "" if patience is None else f"{patience}s"
        asked = self.clock.passed()
        if at_once is not None:
            own = (note, memory.notes, wait, self._known, memory.claims)
            begun = await db.fetchrow(at_once.statement, *own, *at_once.values)
        elif note is None:
            begun = await db.fetchrow(BEGIN, wait)
        else:
            begun = await db.fetchrow(BEGIN_ONCE, wait, note, memory.notes)
        if begun is not None:
            self.clock.hear(begun["clock"], asked=asked)
        return begun

    def _require_usable(self, ledger: Any, *, though_moved: bool) -> None:  # noqa: ANN401 - a row
        if not though_moved:
            require_here(ledger["moved_to"])
        require_known(ledger["min_compatible"], self._known)

    async def _passes(self, error: BaseException) -> bool:
        """Whether another try may succeed; a session that cannot write is not used again."""
        if isinstance(error, self._asyncpg.ReadOnlySQLTransactionError) and self._pool is not None:
            await self._pool.expire_connections()
        return is_passing(error, self._asyncpg)

    @property
    def _errors(self) -> tuple[type[BaseException], ...]:
        return errors_of(self._asyncpg)

    async def _look(self, connection: Connection) -> int:
        """Note what the server is and lets this role do, and return the version of the schema."""
        as_usual = partial(connection.transaction, isolation="read_committed")  # also on a standby
        async with as_usual():
            asked = self.clock.passed()
            server = await connection.fetchrow(
                f"SELECT current_setting('fsync') AS fsync, pg_backend_pid() AS process, {CLOCK}"
            )
            self.clock.hear(server["clock"], asked=asked)
            if server["fsync"] == "off":
                raise LedgerUnusableError(
                    "set fsync = on: this PostgreSQL does not wait for its disk (fsync = off), and "
                    "would lose usage when the machine stops"
                )
            # Behind a pooler, another process answers than the one that the session began with.
            self._pooled = server["process"] != connection.get_server_pid()
            version = await self._upgrade.version(connection)
            writes = version < self._known  # who upgrades it owns it
            self.may_write = writes or await self._database(connection).fetchval(_MAY_WRITE)
        try:
            async with as_usual():
                self.shows_cluster = await connection.fetchval(CLUSTER) is not None
        except self._asyncpg.PostgresError:  # it lets not everybody ask, or, as Aurora, nobody
            self.shows_cluster = False
        return version
