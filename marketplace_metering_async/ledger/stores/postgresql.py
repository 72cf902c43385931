"""
A ledger in PostgreSQL: for many machines, with the caller's own transactions if it wants.

Everything lies in one schema of the database, `marketplace_metering` or what the URL says, and
every statement says so, since a caller's connection may look elsewhere first. Leases go by the
database's clock.

Whatever a transaction locks it locks in one order: keys, hours, event ids, kept sums, the ledger's
one row; and rows of a table by their key.
"""

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from random import randrange
from typing import Any, Final
from uuid import uuid4

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery
from marketplace_metering_async.ledger.identity import Identity, introduction, moved_name
from marketplace_metering_async.ledger.model import (
    CustomerKey,
    FrozenHour,
    HourState,
    Note,
    Settlement,
    Usage,
)
from marketplace_metering_async.ledger.posting import PostingResult, PostingRules
from marketplace_metering_async.ledger.status import Figures
from marketplace_metering_async.ledger.stores import (
    postgresql_adding,
    postgresql_moving,
    postgresql_operator,
    postgresql_reports,
    postgresql_sending,
)
from marketplace_metering_async.ledger.stores.postgresql_connections import (
    Connection,
    PostgresConnections,
)
from marketplace_metering_async.ledger.stores.store import ClaimRules, FailPoint, Store, no_failure
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions

_NOTES_AT_ONCE: Final = 1_000
_SHARDS: Final = 16
"""Of each kept sum; the schema has the number, too."""

RESERVE: Final = """
    INSERT INTO marketplace_metering.quota (operation, next_at)
    VALUES ('BatchMeterUsage', clock_timestamp() + $1::double precision * interval '1 s')
    ON CONFLICT (operation) DO UPDATE SET
        next_at = greatest(quota.next_at, clock_timestamp())
                  + $1::double precision * interval '1 s'
    RETURNING EXTRACT(EPOCH FROM next_at - clock_timestamp())::double precision
"""
OLD_NOTES: Final = """
    DELETE FROM marketplace_metering.posting WHERE posting_id IN (
        SELECT posting_id FROM marketplace_metering.posting
        WHERE posted_at < now() - interval '1 day' LIMIT $1)
    RETURNING posting_id
"""
FOLD_SUMS: Final = """
    WITH folded AS (
        DELETE FROM marketplace_metering.kept_sum WHERE ctid IN (
            SELECT ctid FROM marketplace_metering.kept_sum WHERE shard > 15
            LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING product_code, dimension, state, quantity, records, latest),
    kept AS (
        INSERT INTO marketplace_metering.kept_sum
            (product_code, dimension, state, shard, quantity, records, latest)
        SELECT product_code, dimension, state, $2, SUM(quantity), SUM(records), MAX(latest)
        FROM folded GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (product_code, dimension, state, shard) DO UPDATE SET
            quantity = kept_sum.quantity + excluded.quantity,
            records = kept_sum.records + excluded.records,
            latest = greatest(kept_sum.latest, excluded.latest))
    SELECT COUNT(*) FROM folded
"""
"""Waits for nobody whose usage is not committed yet; SKIP LOCKED leaves what another one folds."""


class PostgresStore:
    """A ledger in a database; see Store for what its verbs do."""

    shares_quota = True

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        reach: FailPoint = no_failure,
        schema: Traversable | None = None,
    ) -> None:
        """Note where; open() does the work. *schema* is for tests."""
        self._connections = PostgresConnections(url, create=create, reach=reach, schema=schema)
        self._reach = reach
        self._shard = randrange(_SHARDS)

    async def open(self) -> None:
        """See Store."""
        await self._connections.open()

    async def aclose(self) -> None:
        """See Store."""
        await self._connections.aclose()

    @property
    def may_write(self) -> bool:
        """See Store."""
        return self._connections.may_write

    @property
    def clock(self) -> Clock:
        """See Store: the server's."""
        return self._connections.clock

    async def check_identity(self, region_name: str | None, now: int) -> str | None:
        """See Store."""
        mark = await self._connections.read(_mark)
        return await self._connections.run(
            lambda db: _check_identity(db, region_name, mark, now), though_moved=True
        )

    async def bind(self, region_name: str, host: str) -> None:
        """See Store."""
        await self._connections.run(lambda db: _bind(db, region_name, host))

    async def release(self) -> None:
        """See Store."""
        undo = "UPDATE marketplace_metering.ledger SET guarded_since = NULL"
        await self._connections.run(lambda db: db.execute(undo))

    async def post(
        self, group: Sequence[Usage], now: int, rules: PostingRules
    ) -> list[PostingResult]:
        """See Store."""
        post = postgresql_adding.post
        return await self._connections.run(
            lambda db: post(db, group, now, rules, shard=self._shard, reach=self._reach), once=True
        )

    async def post_on(
        self, connection: Connection, usage: Usage, now: int, rules: PostingRules
    ) -> PostingResult:
        """See Store."""
        post = postgresql_adding.post
        (result,) = await self._connections.run_on(
            connection, lambda db: post(db, (usage,), now, rules, shard=None, reach=self._reach)
        )
        return result

    async def whole_dimensions(self) -> WholeDimensions:
        """See Store."""
        return await self._connections.read(postgresql_adding.whole_dimensions)

    async def declare_whole(self, whole: WholeDimensions, now: int) -> None:
        """See Store."""
        declare = postgresql_adding.declare_whole
        await self._connections.run(lambda db: declare(db, whole, now))

    async def close(self, customer: CustomerKey, at: int, now: int, rules: PostingRules) -> int:
        """See Store."""
        close = postgresql_adding.close
        return await self._connections.run(
            lambda db: close(db, customer, at, now, rules, shard=self._shard)
        )

    async def reopen(self, customer: CustomerKey) -> None:
        """See Store."""
        await self._connections.run(lambda db: postgresql_adding.reopen(db, customer))

    async def rearm(self, states: Sequence[HourState], now: int, rules: PostingRules) -> int:
        """See Store."""
        rearm = postgresql_adding.rearm
        return await self._connections.run(lambda db: rearm(db, states, now, rules, self._shard))

    async def resolve(
        self,
        hours: Sequence[int],
        stranded: Sequence[int],
        after: HourState,
        note: Note,
    ) -> int:
        """See Store."""
        resolve = postgresql_operator.resolve
        return await self._connections.run(
            lambda db: resolve(db, hours, stranded, after, note, shard=self._shard), once=True
        )

    async def rebill(self, hours: Sequence[int], note: Note, rules: PostingRules) -> int:
        """See Store."""
        rebill = postgresql_operator.rebill
        return await self._connections.run(
            lambda db: rebill(db, hours, note, rules, self._shard), once=True
        )

    async def rebind(self, host: str, taken: HourState | None, note: Note) -> int:
        """See Store."""
        rebind = postgresql_operator.rebind
        return await self._connections.run(
            lambda db: rebind(db, host, taken, note, self._shard), once=True
        )

    async def seal_due(self, now: int, limit: int, region_name: str) -> int:
        """See Store."""
        seal = postgresql_sending.seal_due
        return await self._connections.run(
            lambda db: seal(db, now, limit, region_name, shard=self._shard, reach=self._reach)
        )

    async def claim(self, now: int, rules: ClaimRules) -> list[FrozenHour]:
        """See Store."""
        claim = postgresql_sending.claim
        return await self._connections.run(
            lambda db: claim(db, now, rules, self._shard, self._reach)
        )

    async def return_claims(self, claims: Sequence[FrozenHour], not_before: int) -> None:
        """See Store."""
        returned = postgresql_sending.return_claims
        await self._connections.run(lambda db: returned(db, claims, not_before), though_moved=True)

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Settlement]:
        """See Store."""
        settle = postgresql_sending.settle
        return await self._connections.run(
            lambda db: settle(db, settlements, now, self._shard, self._reach), though_moved=True
        )

    async def next_due(self) -> float | None:
        """See Store."""
        return await self._connections.read(postgresql_sending.next_due)

    async def reserve_calls(self, seconds: float) -> float:
        """See Store."""
        until: float = await self._connections.run(lambda db: db.fetchval(RESERVE, seconds))
        return until

    async def status(self, now: int) -> Figures:
        """See Store."""

        async def read(db: Connection) -> Figures:
            return await postgresql_reports.figures(db, await identity(db), now)

        return await self._connections.read(read)

    async def history(
        self, query: HistoryQuery, after: tuple[int, int], limit: int
    ) -> list[tuple[tuple[int, int], HistoryEntry]]:
        """See Store."""
        history = postgresql_reports.history
        return await self._connections.read(lambda db: history(db, query, after, limit))

    async def stranded(self, query: HistoryQuery) -> list[HistoryEntry]:
        """See Store."""
        return await self._connections.read(lambda db: postgresql_reports.stranded(db, query))

    async def prune(self, before: int, limit: int) -> int:
        """See Store."""
        prune = postgresql_reports.prune
        return await self._connections.run(lambda db: prune(db, before, limit, self._shard))

    async def prune_events(self, before: int, after: str, limit: int) -> str | None:
        """See Store."""
        prune = postgresql_reports.prune_events
        return await self._connections.run(lambda db: prune(db, before, after, limit))

    async def tidy(self) -> bool:
        """
        Remove notes of processes that have ended, and fold sums that callers' transactions left.

        Returns: whether there may be more of them.
        """

        async def tidied(db: Connection) -> bool:
            notes = await db.fetch(OLD_NOTES, _NOTES_AT_ONCE)
            folded = await db.fetchval(FOLD_SUMS, _NOTES_AT_ONCE, self._shard)
            return _NOTES_AT_ONCE in (len(notes), folded)

        return await self._connections.run(tidied)

    async def take_over(self, source: Store) -> int:
        """See Store."""
        return await postgresql_moving.take_over(self._connections, source)

    async def let_go(self, source: Store) -> None:
        """See Store."""
        await postgresql_moving.let_go(self._connections, source)

    async def retire(self, to: str) -> Identity:
        """See Store."""
        return await self._connections.run(lambda db: _retire(db, to), though_moved=True)

    async def reinstate(self, to: str) -> None:
        """See Store."""
        undo = "UPDATE marketplace_metering.ledger SET moved_to = NULL WHERE moved_to = $1"
        await self._connections.run(lambda db: db.execute(undo, moved_name(to)), though_moved=True)

    async def dump(
        self, table: str, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """See Store."""
        return await self._connections.read(
            lambda db: postgresql_moving.dump(db, table, after, limit)
        )


async def identity(db: Connection) -> Identity:
    """Return the ledger's one row."""
    found = await db.fetchrow(
        "SELECT ledger_id, region_name, host, mark, guarded_since, moved_to, last_success_at, "
        "sealings, event_ids_since FROM marketplace_metering.ledger"
    )
    return Identity(**found)


async def _mark(db: Connection) -> str:
    """Return the cluster, its timeline and the database: a copy has others."""
    found = await db.fetchrow(
        "SELECT (SELECT system_identifier FROM pg_control_system()), "
        "(SELECT timeline_id FROM pg_control_checkpoint()), "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return " ".join(str(part) for part in found)


async def _check_identity(
    db: Connection, region_name: str | None, mark: str, now: int
) -> str | None:
    made = await db.execute(
        "UPDATE marketplace_metering.ledger "
        "SET ledger_id = $1, created_at = $2, region_name = $3, mark = $4 WHERE ledger_id IS NULL",
        str(uuid4()),
        now,
        region_name,
        mark,
    )
    if made != "UPDATE 0":
        return None
    is_copy, text = introduction(await identity(db), region_name, mark)
    if is_copy:
        await db.execute(
            "UPDATE marketplace_metering.ledger SET mark = $1, guarded_since = $2", mark, now
        )
    return text


async def _bind(db: Connection, region_name: str, host: str) -> None:
    await db.execute(
        "UPDATE marketplace_metering.ledger "
        "SET region_name = COALESCE(region_name, $1), host = COALESCE(host, $2)",
        region_name,
        host,
    )
    (await identity(db)).require_host(region_name, host)


async def _retire(db: Connection, to: str) -> Identity:
    ledger = await identity(db)
    ledger.require_movable(to)
    await db.execute(
        "UPDATE marketplace_metering.hour SET lease_until = NULL, in_doubt = 1 "
        "WHERE lease_until IS NOT NULL"
    )
    await db.execute("UPDATE marketplace_metering.ledger SET moved_to = $1", moved_name(to))
    return ledger
