"""The way into a ledger in PostgreSQL: usage to hours."""

from collections.abc import Sequence
from typing import Final

from marketplace_metering_async.ledger.model import ProductDimension, Usage
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import (
    Changes,
    KnownEvents,
    Posting,
    PostingResult,
    wanted_by,
)
from marketplace_metering_async.ledger.stores import postgresql_plain
from marketplace_metering_async.ledger.stores.postgresql_keys import load
from marketplace_metering_async.ledger.stores.postgresql_plain import (
    add_blindly,
    execute_for,
    keep_sums,
    known_events,
)
from marketplace_metering_async.ledger.stores.postgresql_transactions import AtOnce, Connection
from marketplace_metering_async.ledger.stores.words import FailPoint
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, concerns

GROWN_HOURS: Final = """
    UPDATE marketplace_metering.hour SET urgent = grown.urgent, quantity = grown.quantity,
        events = grown.events, stamp = grown.stamp, opened_at = grown.opened_at,
        seal_at = grown.seal_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[])
        AS grown (urgent, quantity, events, stamp, opened_at, seal_at, hour_id)
    WHERE hour.hour_id = grown.hour_id
"""
NEW_HOURS: Final = """
    INSERT INTO marketplace_metering.hour
        (urgent, quantity, events, stamp, opened_at, seal_at, key_id, hour, state)
    SELECT *, 'open'
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[], $8::bigint[])
"""
REMOVED_HOURS: Final = (
    "DELETE FROM marketplace_metering.carried WHERE hour_id IN (SELECT unnest($1::bigint[]))",
    "DELETE FROM marketplace_metering.hour WHERE hour_id IN (SELECT unnest($1::bigint[]))",
)
CARRIED: Final = """
    INSERT INTO marketplace_metering.carried (hour_id, origin, quantity, events)
    SELECT hour.hour_id, new.origin, new.quantity, new.events
    FROM marketplace_metering.hour JOIN
        unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
            AS new (key_id, hour, origin, quantity, events)
        ON hour.key_id = new.key_id AND hour.hour = new.hour
    ON CONFLICT (hour_id, origin) DO UPDATE SET
        quantity = carried.quantity + excluded.quantity, events = carried.events + excluded.events
"""
STRANDED_USAGE: Final = """
    INSERT INTO marketplace_metering.stranded (key_id, origin, state, quantity, events, since)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::numeric[], $5::bigint[],
                         $6::bigint[])
    ON CONFLICT (key_id, origin, state) DO UPDATE SET
        quantity = stranded.quantity + excluded.quantity,
        events = stranded.events + excluded.events
"""
NEW_EVENTS: Final = """
    INSERT INTO marketplace_metering.event (event_id, digest, added_at)
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[])
"""


def at_once(
    group: Sequence[Usage],
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
    shard: int,
    reach: FailPoint,
) -> AtOnce[list[PostingResult]] | None:
    """Return how a group of usage is added where what is plain in it, if any, takes a statement."""
    plan = hours.plan(group, now, rules)

    async def rest(db: Connection) -> list[PostingResult]:
        return await _post_the_rest(db, plan, now, rules, hours, shard=shard, reach=reach)

    return postgresql_plain.at_once(group, plan, rules, shard, rest)


async def post(
    db: Connection,
    group: Sequence[Usage],
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
    shard: int,
    reach: FailPoint,
    blindly: bool,
) -> list[PostingResult]:
    """Add a group of usage, blindly where *hours* are remembered or carefully; see Store."""
    plan = Plan(group, now, hours, ids_since=0)
    if blindly:
        whole = await whole_dimensions(db) if any(map(concerns, group)) else frozenset()
        since = await db.fetchval("SELECT event_ids_since FROM marketplace_metering.ledger")
        plan = hours.plan(group, now, rules, whole=whole, since=since)
        await add_blindly(db, plan, rules)
        reach("post: blindly")
        if not plan.careful:
            await keep_sums(db, plan.sums(), shard)
            reach("post: sums written")
    else:
        plan.careful.extend(range(len(group)))
    return await _post_the_rest(db, plan, now, rules, hours, shard=shard, reach=reach)


async def _post_the_rest(
    db: Connection,
    plan: Plan,
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
    shard: int,
    reach: FailPoint,
) -> list[PostingResult]:
    """
    Post carefully what is not plain.

    Whoever has added to hours blindly waits for no other ones: others may have those, and wait for
    these. What was kept waiting for is posted again, all of it carefully and in one order.
    """
    if not plan.careful:
        return plan.results([])
    careful = plan.careful_usage()
    whole = await whole_dimensions(db) if any(map(concerns, careful)) else frozenset()
    keys = await load(db, wanted_by(careful), "NOWAIT" if plan.parts else "")
    names = [usage.event_id for usage in careful if usage.event_id is not None]
    known = await known_events(db, names) if names else KnownEvents()
    reach("post: loaded")
    posting = Posting(now, rules, keys, known, plan.sums(), whole=whole)
    results = [posting.post(usage) for usage in careful]
    await write(db, posting.changes(), shard, reach)
    hours.remember(keys, rules)
    return plan.results(results)


async def write(db: Connection, changes: Changes, shard: int, reach: FailPoint) -> None:
    """Write down what a posting changes."""
    for statement, rows in (
        (GROWN_HOURS, changes.grown_hours),
        (NEW_HOURS, changes.new_hours),
        (CARRIED, changes.carried),
        (STRANDED_USAGE, changes.stranded),
    ):
        await execute_for(db, statement, rows)
    for statement in REMOVED_HOURS:
        await execute_for(db, statement, changes.removed_hours)
    reach("post: hours written")
    await execute_for(db, NEW_EVENTS, changes.events)
    reach("post: events written")
    await keep_sums(db, changes.sums, shard)
    reach("post: sums written")


async def whole_dimensions(db: Connection) -> WholeDimensions:
    """Return the dimensions that are declared whole."""
    found = await db.fetch(
        "SELECT product_code, dimension FROM marketplace_metering.whole_dimension"
    )
    return frozenset(ProductDimension(*row) for row in found)


async def declare_whole(db: Connection, whole: WholeDimensions, now: int) -> None:
    """Let these dimensions be whole, and no others; whoever declares waits for another one."""
    await db.execute("LOCK TABLE marketplace_metering.whole_dimension IN SHARE ROW EXCLUSIVE MODE")
    kept = await whole_dimensions(db)
    await db.executemany(
        "DELETE FROM marketplace_metering.whole_dimension "
        "WHERE product_code = $1 AND dimension = $2",
        kept - whole,
    )
    await db.executemany(
        "INSERT INTO marketplace_metering.whole_dimension (product_code, dimension, declared_at) "
        "VALUES ($1, $2, $3)",
        [(*one, now) for one in whole - kept],
    )
