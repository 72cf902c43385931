"""A whole ledger from another store into PostgreSQL: every row as it is, the digests among them."""

from typing import Final

from marketplace_metering_async.errors import LedgerError, LedgerUnusableError
from marketplace_metering_async.ledger.identity import moved_name, require_here
from marketplace_metering_async.ledger.stores.database import Database
from marketplace_metering_async.ledger.stores.postgresql_connections import PostgresConnections
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase
from marketplace_metering_async.ledger.stores.store import Store
from marketplace_metering_async.ledger.stores.tables import TABLES
from marketplace_metering_async.ledger.sums import Sum

_NUMBERED: Final = {
    "arrival": "arrival_id",
    "hour": "hour_id",
    "stranded": "stranded_id",
    "resolution": "resolution_id",
}
_PAGE: Final = 2_000


async def take_over(connections: PostgresConnections, source: Store) -> int:
    """Move everything of *source* here; see Store."""
    begun = False  # what is refused before changes nothing of the source

    async def take(db: PostgresDatabase) -> int:
        nonlocal begun
        own = await _require_new(db, source)
        begun = True
        return await _take(db, source, own)

    try:
        return await connections.run(take, once=True)
    except BaseException:
        if begun:
            await connections.run(lambda db: _give_back(db, source))
        raise


async def _require_new(db: Database, source: Store) -> str:
    """Return the ledger's name, once nobody else adds or moves into it, even in doubt."""
    own = await _alone(db)
    if await _has_usage(db):
        is_here = (await source.status(0)).ledger.moved_to == moved_name(own)
        is_done = is_here and await _has(db, source)
        rest = "; this one has the old one's usage: nothing is left to move" if is_done else ""
        raise LedgerUnusableError(f"only a new ledger can take over another one{rest}")
    return own


async def _take(db: PostgresDatabase, source: Store, own: str) -> int:
    old = await source.retire(own)
    sums = await _sums_of(source)
    await db.fetch(
        "UPDATE marketplace_metering.ledger SET region_name = $1, host = $2, guarded_since = $3, "
        "last_success_at = $4, claims = $5, claimed_through = $6, held_through = $7, "
        "adopted_at = $8, event_ids_since = $9",
        old.region_name,
        old.host,
        old.guarded_since,
        old.last_success_at,
        old.claims,
        old.claimed_through,
        old.held_through,
        old.adopted_at,
        old.event_ids_since,
    )
    hours = 0
    for table in TABLES:
        copied = await _copy(db, source, table)
        hours += copied if table == "hour" else 0
    if await _sums_of(source) != sums:
        raise LedgerError(
            "stop all relays of the old ledger first: one has written down verdicts while it was "
            "copied, so that nothing is moved"
        )
    for table, column in _NUMBERED.items():
        await db.fetch(
            f"SELECT setval(pg_get_serial_sequence('marketplace_metering.{table}', '{column}'), "
            f"GREATEST(1, (SELECT MAX({column}) FROM marketplace_metering.{table})))"
        )
    return hours


async def _sums_of(source: Store) -> set[Sum]:
    """Return the sums of a ledger that has moved: only verdicts still change them."""
    return set((await source.status(0)).sums)


async def let_go(db: Database, source: Store) -> bool:
    """Open *source* again, if nothing of it is here; return whether there is other usage."""
    own = await _alone(db)
    if await _has(db, source):
        raise LedgerUnusableError("go on with the ledger that it moved to: that one has its usage")
    await source.reinstate(own)
    return await _has_usage(db)


async def _give_back(db: Database, source: Store) -> None:
    """Open the source again, unless this ledger has taken it over after all."""
    own = await _alone(db)
    if not await _has(db, source):
        await source.reinstate(own)


async def _alone(db: Database) -> str:
    """Return the ledger's name, once nobody else adds or moves into it, even in doubt."""
    await db.fetch(
        "LOCK TABLE marketplace_metering.usage_key, marketplace_metering.arrival IN EXCLUSIVE MODE"
    )
    ledger_id, moved_to = await db.fetchrow(
        "SELECT ledger_id, moved_to FROM marketplace_metering.ledger"
    )
    require_here(moved_to)
    return str(ledger_id)


async def _has_usage(db: Database) -> bool:
    found: bool = await db.fetchval(
        "SELECT EXISTS (SELECT 1 FROM marketplace_metering.usage_key) "
        "OR EXISTS (SELECT 1 FROM marketplace_metering.arrival)"
    )
    return found


async def _has(db: Database, source: Store) -> bool:
    """
    Whether the usage of *source* is here, all of which came in one transaction.

    Its keys show it, whose ids are drawn at random. There may be other usage, of those who saw that
    the source moves here, though whatever moved it was killed before it had copied anything.
    """
    keys = await source.dump("usage_key", None, 1)
    if not keys:
        return await _has_usage(db)
    here = "SELECT 1 FROM marketplace_metering.usage_key WHERE key_id = $1"
    return await db.fetchval(here, keys[0]["key_id"]) is not None


async def _copy(db: PostgresDatabase, source: Store, table: str) -> int:
    shape = TABLES[table]
    values = ", ".join(f"${number}" for number, _ in enumerate(shape.columns, 1))
    columns = ", ".join(shape.columns)
    if table == "kept_sum":
        columns, values = f"{columns}, shard", f"{values}, 0"
    known = "ON CONFLICT DO NOTHING" if table == "whole_dimension" else ""  # declared here as well
    copied, after = 0, None
    while rows := await source.dump(table, after, _PAGE):
        await db.executemany(
            f"INSERT INTO marketplace_metering.{table} ({columns}) VALUES ({values}) {known}",
            [tuple(row[column] for column in shape.columns) for row in rows],
        )
        copied += len(rows)
        after = tuple(rows[-1][column] for column in shape.key)
    return copied
