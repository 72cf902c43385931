"""The way into a ledger in PostgreSQL: usage to hours, subscriptions that end, re-arming."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import (
    CustomerKey,
    HourState,
    ProductDimension,
    Usage,
    UsageKey,
    key_of,
)
from marketplace_metering_async.ledger.open_hours import KeyState, PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import (
    Changes,
    KnownEvents,
    Posting,
    PostingResult,
    Wanted,
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
from marketplace_metering_async.ledger.stores.store import FailPoint, no_failure
from marketplace_metering_async.ledger.sums import Sums
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
CLOSE: Final = """
    INSERT INTO marketplace_metering.customer
        (product_code, customer_aws_account_id, customer_identifier, license_arn, closed_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (product_code, customer_aws_account_id, customer_identifier, license_arn)
    DO UPDATE SET closed_at = excluded.closed_at
"""
FIRST_TO_CLOSE: Final = """
    SELECT MIN(least(hour.hour, carried.origin)) FROM marketplace_metering.hour
    LEFT JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN (SELECT unnest($1::bigint[]))
"""
CARRIED_BEFORE: Final = """
    SELECT hour.key_id, hour.hour, carried.origin, carried.quantity, carried.events
    FROM marketplace_metering.hour JOIN marketplace_metering.carried USING (hour_id)
    WHERE hour.state = 'open' AND hour.key_id IN (SELECT unnest($1::bigint[])) AND hour.hour > $2
"""
SEND_FIRST: Final = """
    UPDATE marketplace_metering.hour SET urgent = 1
    WHERE state = 'frozen' AND key_id IN (SELECT unnest($1::bigint[])) RETURNING hour_id
"""
MOVED_NOTES: Final = """
    UPDATE marketplace_metering.resolution SET stranded_id = NULL, hour_id = hour.hour_id
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS moved (key_id, hour, stranded_id)
    JOIN marketplace_metering.hour USING (key_id, hour)
    WHERE resolution.stranded_id = moved.stranded_id
"""
"""What was said of usage that no hour carried goes with it."""
CUSTOMER: Final = (
    "product_code = $1 AND customer_aws_account_id = $2 AND customer_identifier = $3 "
    "AND license_arn = $4"
)


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


async def close(
    db: Connection, customer: CustomerKey, at: int, now: int, rules: PostingRules, *, shard: int
) -> int:
    """Note that a subscription ends; see Store."""
    await db.execute(CLOSE, *customer, at)
    names = await db.fetch(
        f"UPDATE marketplace_metering.usage_key SET closed_at = $5 WHERE {CUSTOMER} "
        "RETURNING name, key_id",
        *customer,
        at,
    )
    ids = [row["key_id"] for row in names]
    first = await db.fetchval(FIRST_TO_CLOSE, ids)
    wanted = Wanted("", now if first is None else first)
    keys = await load(db, dict.fromkeys((key_of(row["name"]) for row in names), wanted))
    by_id = {state.key_id: state for state in keys.values()}
    for key_id, hour, *carried in await db.fetch(CARRIED_BEFORE, ids, at):
        origin, quantity, events = carried
        by_id[key_id].hours[hour].carried_before[origin] = (quantity, events)
    posting = Posting(now, rules, keys)
    sealing = sum(posting.close(key, at) for key in keys)
    await write(db, posting.changes(), shard, no_failure)
    return sealing + len(await db.fetch(SEND_FIRST, ids))


async def reopen(db: Connection, customer: CustomerKey) -> None:
    """Forget that a subscription ended."""
    await db.execute(f"DELETE FROM marketplace_metering.customer WHERE {CUSTOMER}", *customer)
    await db.execute(
        f"UPDATE marketplace_metering.usage_key SET closed_at = NULL WHERE {CUSTOMER}", *customer
    )


async def rearm(
    db: Connection, states: Sequence[HourState], now: int, rules: PostingRules, shard: int
) -> int:
    """Send ended records again; see Store."""
    into, stranded = await _stranded(db, states, now)
    ended = await db.fetch(
        "SELECT hour.hour_id, hour.state, hour.quantity, usage_key.name, usage_key.license_product "
        "FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id) "
        "WHERE hour.state NOT IN ('open', 'frozen', 'metered') AND hour.deadline > $1 "
        "AND hour.state IN (SELECT unnest($2::text[])) ORDER BY hour.hour_id FOR UPDATE OF hour",
        now,
        states,
    )
    await db.execute(
        "UPDATE marketplace_metering.hour SET state = 'frozen', not_before = 0, settled_at = NULL, "
        "reason = NULL, crashes = 0, fence = fence + 1 "
        "WHERE hour_id IN (SELECT unnest($1::bigint[]))",
        [row["hour_id"] for row in ended],
    )
    waiting = await db.fetch(
        "UPDATE marketplace_metering.hour SET not_before = 0 WHERE hour_id IN ("
        "SELECT hour_id FROM marketplace_metering.hour WHERE state = 'frozen' "
        "AND lease_until IS NULL AND not_before > $1 AND state IN (SELECT unnest($2::text[])) "
        "ORDER BY hour_id FOR UPDATE) RETURNING hour_id",
        now,
        states,
    )
    sums = Sums()
    for row in ended:
        of = key_of(row["name"]).summed_under(row["license_product"])
        sums.move(of, row["state"], HourState.FROZEN, row["quantity"])
    posting = Posting(now, rules, into, sums=sums.changes())
    into_hours = [
        posting.carry(
            key_of(row["name"]),
            row["origin"],
            HourState(row["state"]),
            int(row["quantity"]),
            row["events"],
        )
        for row in stranded
    ]
    await write(db, posting.changes(), shard, no_failure)
    moved = [
        (row["key_id"], hour, row["stranded_id"])
        for row, hour in zip(stranded, into_hours, strict=True)
    ]
    await execute_for(db, MOVED_NOTES, moved)
    await db.execute(
        "DELETE FROM marketplace_metering.stranded "
        "WHERE stranded_id IN (SELECT unnest($1::bigint[]))",
        [row["stranded_id"] for row in stranded],
    )
    return len(ended) + len(stranded) + len(waiting)


async def _stranded(
    db: Connection, states: Sequence[HourState], now: int
) -> tuple[dict[UsageKey, KeyState], Sequence[Any]]:
    """Return usage that no hour carries, locked, and its keys."""
    found = await db.fetch(
        "SELECT stranded.*, usage_key.name, usage_key.license_product "
        "FROM marketplace_metering.stranded JOIN marketplace_metering.usage_key USING (key_id) "
        "WHERE stranded.state = ANY($1::text[]) "
        "ORDER BY stranded.stranded_id FOR UPDATE OF stranded",
        states,
    )
    wanted = Wanted("", hour_of(now))
    return await load(db, dict.fromkeys((key_of(row["name"]) for row in found), wanted)), found
