"""Which ledger a database holds: its one row, and what tells a copy."""

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import fields_dict

from marketplace_metering_async.ledger.identity import (
    Identity,
    held_through,
    moved_name,
    sign_of_a_copy,
)
from marketplace_metering_async.ledger.stores.database import Database, both
from marketplace_metering_async.ledger.watermark import UNKNOWN, Place

COLUMNS: Final = ", ".join(fields_dict(Identity))
IDENTITY: Final = f"SELECT {COLUMNS} FROM marketplace_metering.ledger {{lock}}"
LOCKED: Final = both(IDENTITY, lock="FOR UPDATE")
SEEN: Final = both(IDENTITY)
INTRODUCE: Final = """
    UPDATE marketplace_metering.ledger
    SET ledger_id = $1, created_at = $2, region_name = $3, mark = $4 WHERE ledger_id IS NULL
"""
GUARD: Final = both("""
    UPDATE marketplace_metering.ledger SET mark = COALESCE($1, mark),
        guarded_since = COALESCE(guarded_since, $2),
        held_through = CASE WHEN guarded_since IS NULL
                            THEN {greatest}(COALESCE(held_through, 0), $3)
                            ELSE {least}(held_through, $3) END
""")
DOUBT: Final = "UPDATE marketplace_metering.hour SET in_doubt = 1 WHERE state = 'frozen'"
"""What a copy lacks may have sent them."""
ADOPT: Final = both("""
    UPDATE marketplace_metering.ledger SET guarded_since = NULL, claims = $1, held_through = $2,
        claimed_through = {greatest}(claimed_through, $2), adopted_at = $3
""")

Look = Callable[[Database], Awaitable[Place]]
"""Says where the ledger is, and what stands there outside of it."""


async def identity(db: Database, *, locked: bool = False) -> Identity:
    """Return the ledger's one row."""
    return Identity(**dict(await db.fetchrow(LOCKED if locked else SEEN)))


async def guard_copy(db: Database, look: Look, now: int) -> tuple[Place, Identity, str | None]:
    """
    Guard the ledger if it is found to be a copy; return its row, and what shows that it is one.

    What shows it is looked at again while nobody can claim or adopt: what stands outside then is
    what was committed before.
    """
    place = await look(db)
    ledger = await identity(db)
    if sign_of_a_copy(ledger, place) is None:
        return place, ledger, None
    ledger = await identity(db, locked=True)
    place = await look(db)
    sign = sign_of_a_copy(ledger, place)
    if sign is None:
        return place, ledger, None
    await guard(db, now, held_through(ledger, place), mark=place.mark)
    return place, await identity(db), sign


async def guard(db: Database, now: int, through: int = UNKNOWN, *, mark: str | None = None) -> None:
    """Guard the ledger as a copy, at a place of another *mark*, and doubt all that it may send."""
    await db.fetch(GUARD, mark, now, through)
    await db.fetch(DOUBT)


async def bind(db: Database, region_name: str, host: str) -> None:
    """Tie the ledger to where its records go, or refuse another place."""
    await db.fetch(
        "UPDATE marketplace_metering.ledger "
        "SET region_name = COALESCE(region_name, $1), host = COALESCE(host, $2)",
        region_name,
        host,
    )
    (await identity(db)).require_host(region_name, host)


async def retire(db: Database, to: str) -> Identity:
    """Note that the ledger moves to another one, and give up its claims; return its row."""
    ledger = await identity(db)
    ledger.require_movable(to)
    await db.fetch(
        "UPDATE marketplace_metering.hour SET lease_until = NULL, in_doubt = 1 "
        "WHERE lease_until IS NOT NULL"
    )
    await db.fetch("UPDATE marketplace_metering.ledger SET moved_to = $1", moved_name(to))
    return ledger
