"""Which ledger this is, in PostgreSQL: its one row, and what tells a copy."""

from typing import Final

from marketplace_metering_async.ledger.identity import (
    HIDDEN,
    Identity,
    held_through,
    moved_name,
    sign_of_a_copy,
)
from marketplace_metering_async.ledger.stores.postgresql_connections import DOUBT
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.watermark import Place

INTRODUCE: Final = """
    UPDATE marketplace_metering.ledger
    SET ledger_id = $1, created_at = $2, region_name = $3, mark = $4 WHERE ledger_id IS NULL
"""
GUARD: Final = """
    UPDATE marketplace_metering.ledger SET mark = $1, guarded_since = COALESCE(guarded_since, $2),
        held_through = CASE WHEN guarded_since IS NULL THEN greatest(held_through, $3)
                            ELSE least(held_through, $3) END
"""
ADOPT: Final = """
    UPDATE marketplace_metering.ledger SET guarded_since = NULL, sealings = $1, held_through = $2,
        sealed_through = greatest(sealed_through, $2), adopted_at = $3
"""


async def identity(db: Connection, lock: str = "") -> Identity:
    """Return the ledger's one row."""
    found = await db.fetchrow(
        "SELECT ledger_id, region_name, host, mark, guarded_since, moved_to, last_success_at, "
        "last_relay_at, sealings, sealed_through, watermark, held_through, adopted_at, "
        f"event_ids_since FROM marketplace_metering.ledger {lock}"
    )
    return Identity(**found)


async def marked(db: Connection) -> tuple[str, Identity]:
    """Return the ledger's row with the cluster and database that it is in: a copy has others."""
    cluster = HIDDEN
    database, shows_cluster = await db.fetchrow(
        "SELECT (SELECT oid FROM pg_database WHERE datname = current_database()), "
        "has_function_privilege('pg_control_system()', 'EXECUTE')"
    )
    if shows_cluster:
        cluster = await db.fetchval("SELECT system_identifier FROM pg_control_system()")
    return f"{cluster} {database}", await identity(db)


async def guard_copy(db: Connection, place: Place, now: int) -> str | None:
    """
    Guard the ledger if it is found to be a copy; return what shows that it is one.

    What is outside was read before: meanwhile somebody may have adopted it.
    """
    if sign_of_a_copy(await identity(db), place) is None:
        return None
    ledger = await identity(db, "FOR UPDATE")
    sign = sign_of_a_copy(ledger, place)
    if sign is not None:
        await db.execute(GUARD, place.mark, now, held_through(ledger, place))
        await db.execute(DOUBT)
    return sign


async def bind(db: Connection, region_name: str, host: str) -> None:
    """Tie the ledger to where its records go, or refuse another place."""
    await db.execute(
        "UPDATE marketplace_metering.ledger "
        "SET region_name = COALESCE(region_name, $1), host = COALESCE(host, $2)",
        region_name,
        host,
    )
    (await identity(db)).require_host(region_name, host)


async def retire(db: Connection, to: str) -> Identity:
    """Wait for transactions that have seen a ledger which has not moved; later ones see it move."""
    await db.execute("LOCK TABLE marketplace_metering.ledger IN ACCESS EXCLUSIVE MODE")
    ledger = await identity(db)
    ledger.require_movable(to)
    await db.execute(
        "UPDATE marketplace_metering.hour SET lease_until = NULL, in_doubt = 1 "
        "WHERE lease_until IS NOT NULL"
    )
    await db.execute("UPDATE marketplace_metering.ledger SET moved_to = $1", moved_name(to))
    return ledger
