"""The way into a ledger: usage to hours, blindly where that is plain, or under locks."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from marketplace_metering_async.ledger.model import (
    HourState,
    ProductDimension,
    Usage,
    UsageKey,
    key_of,
    name_of,
)
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, PostingRules, key_state
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import (
    Changes,
    KnownEvents,
    Posting,
    PostingResult,
    Wanted,
    first_hours,
    introduce_rivals,
    lost_hours,
    new_key,
    wanted_by,
)
from marketplace_metering_async.ledger.stores.database import Database, Dialects, both, for_rows
from marketplace_metering_async.ledger.stores.words import FailPoint, no_failure
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, concerns
from marketplace_metering_async.quantities import MILLION


def _keys_by(column: str) -> Dialects:
    return both(
        f"""
        SELECT name, key_id, closed_at, license_product,
               CASE WHEN other_scheme <> 0 THEN billed_as END,
               (SELECT held_through FROM marketplace_metering.ledger)
        FROM marketplace_metering.usage_key WHERE {column} IN ({{texts}}) {{lock}}
        """,
        lock="ORDER BY key_id FOR UPDATE",
    )


KEYS: Final = _keys_by("name")
RIVALS: Final = _keys_by("billed_as")
NEW_KEYS: Final = for_rows(
    """
    INSERT INTO marketplace_metering.usage_key
        (key_id, name, product_code, customer_aws_account_id, customer_identifier, license_arn,
         dimension, license_product, billed_as)
    {values} ON CONFLICT (name) DO NOTHING
    """,
    "key_id bigint, name text, product_code text, customer_aws_account_id text, "
    "customer_identifier text, license_arn text, dimension text, license_product text, "
    "billed_as text",
)
CLOSED_BEFORE: Final = both("""
    UPDATE marketplace_metering.usage_key SET closed_at = closed.closed_at
    FROM marketplace_metering.customer AS closed
    WHERE usage_key.name IN ({texts})
      AND closed.product_code = usage_key.product_code
      AND closed.customer_aws_account_id = usage_key.customer_aws_account_id
      AND closed.customer_identifier = usage_key.customer_identifier
      AND closed.license_arn = usage_key.license_arn
""")
OTHER_SCHEMES: Final = both("""
    UPDATE marketplace_metering.usage_key SET other_scheme = 1
    WHERE other_scheme = 0 AND billed_as IN ({texts}) AND EXISTS (
        SELECT 1 FROM marketplace_metering.usage_key AS other
        WHERE other.billed_as = usage_key.billed_as
          AND (other.license_arn = '') <> (usage_key.license_arn = ''))
""")
HOURS: Final = Dialects(
    sqlite="""
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM json_each($1) AS first JOIN hour ON key_id = CAST(first.key AS INTEGER)
        AND hour >= first.value
    """,
    postgresql="""
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM unnest($1::bigint[], $2::bigint[]) AS wanted (key_id, first)
    JOIN marketplace_metering.hour USING (key_id) WHERE hour.hour >= wanted.first
    ORDER BY key_id, hour FOR UPDATE OF hour
    """,
)
LOST_HOURS: Final = Dialects(
    sqlite="""
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM json_each($1) AS lost JOIN hour ON key_id = json_extract(lost.value, '$[0]')
        AND hour = json_extract(lost.value, '$[1]')
    """,
    postgresql="""
    SELECT key_id, hour, state = 'open', quantity, events, stamp, opened_at, seal_at, urgent <> 0,
           hour_id
    FROM pg_catalog.json_array_elements($1::json) AS lost (pair)
    JOIN marketplace_metering.hour ON key_id = (pair ->> 0)::bigint AND hour = (pair ->> 1)::bigint
    """,
)
GROWN_HOURS: Final = Dialects(
    sqlite="""
    UPDATE hour SET urgent = ?, quantity = ?, events = ?, stamp = ?, opened_at = ?, seal_at = ?
    WHERE hour_id = ?
    """,
    postgresql="""
    UPDATE marketplace_metering.hour SET urgent = grown.urgent, quantity = grown.quantity,
        events = grown.events, stamp = grown.stamp, opened_at = grown.opened_at,
        seal_at = grown.seal_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[])
        AS grown (urgent, quantity, events, stamp, opened_at, seal_at, hour_id)
    WHERE hour.hour_id = grown.hour_id
    """,
)
NEW_HOURS: Final = for_rows(
    """
    INSERT INTO marketplace_metering.hour
        (urgent, quantity, events, stamp, opened_at, seal_at, key_id, hour, state)
    {values}
    """,
    "urgent bigint, quantity bigint, events bigint, stamp bigint, opened_at bigint, "
    "seal_at bigint, key_id bigint, hour bigint, state text",
)
REMOVED_HOURS: Final = tuple(
    both(f"DELETE FROM marketplace_metering.{table} WHERE hour_id IN ({{rows}})")
    for table in ("carried", "hour")
)
CARRIED: Final = for_rows(
    """
    INSERT INTO marketplace_metering.carried (hour_id, origin, quantity, events)
    SELECT hour.hour_id, given.origin, given.quantity, given.events
    FROM {given} JOIN marketplace_metering.hour
        ON hour.key_id = given.key_id AND hour.hour = given.hour WHERE true
    ON CONFLICT (hour_id, origin) DO UPDATE SET
        quantity = carried.quantity + excluded.quantity, events = carried.events + excluded.events
    """,
    "key_id bigint, hour bigint, origin bigint, quantity bigint, events bigint",
)
STRANDED_USAGE: Final = Dialects(
    sqlite="""
    INSERT INTO stranded (key_id, origin, state, units, millionths, events, since)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key_id, origin, state) DO UPDATE SET units = units + excluded.units,
        millionths = millionths + excluded.millionths, events = events + excluded.events
    """,
    postgresql=f"""
    INSERT INTO marketplace_metering.stranded (key_id, origin, state, quantity, events, since)
    SELECT key_id, origin, state, {MILLION} * units::numeric + millionths, events, since
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::bigint[]) AS new (key_id, origin, state, units, millionths, events, since)
    ON CONFLICT (key_id, origin, state) DO UPDATE SET
        quantity = stranded.quantity + excluded.quantity, events = stranded.events + excluded.events
    """,
)
NEW_EVENTS: Final = for_rows(
    """
    INSERT INTO marketplace_metering.event (event_id, digest, added_at) {values}
    """,
    "event_id text, digest bytea, added_at bigint",
)
KNOWN_EVENTS: Final = both("""
    SELECT event_id, digest, 0 FROM marketplace_metering.event WHERE event_id IN ({texts})
    UNION ALL SELECT NULL, NULL, event_ids_since FROM marketplace_metering.ledger
""")
"""Both in one look: an id that is forgotten meanwhile is known, or known to be too old."""
FORGET_EVENTS: Final = both("DELETE FROM marketplace_metering.event WHERE event_id IN ({texts})")
DECLARE_ALONE: Final = both(
    "{lock}", lock="LOCK TABLE marketplace_metering.whole_dimension IN SHARE ROW EXCLUSIVE MODE"
)


async def post(
    db: Database,
    group: Sequence[Usage],
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
    reach: FailPoint,
) -> list[PostingResult]:
    """Add a group of usage, blindly where *hours* are remembered; see Store."""
    whole = await whole_for(db, group)
    since = await db.fetchval("SELECT event_ids_since FROM marketplace_metering.ledger")
    plan = hours.plan(group, now, rules, whole=whole, since=since)
    if there := await db.name_events(plan.events(), plan.now):
        plan.known((await events_named(db, there)).digests)
    if plan.parts and (others := await db.grow(plan, rules)):
        await db.fetch(FORGET_EVENTS, plan.miss(others))
    reach("post: blindly")
    if not plan.careful:
        await db.keep_sums(plan.sums())
        reach("post: sums written")
    return await post_the_rest(db, plan, now, rules, hours, reach=reach)


async def post_the_rest(
    db: Database,
    plan: Plan,
    now: int,
    rules: PostingRules,
    hours: PlainHours,
    *,
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
    whole = await whole_for(db, careful)
    keys = await load(db, wanted_by(careful, now), "NOWAIT" if plan.parts else "")
    known = await known_events(db, careful)
    reach("post: loaded")
    posting = Posting(now, rules, keys, known, plan.sums(), whole=whole)
    results = [posting.post(usage) for usage in careful]
    await write(db, posting.changes(), reach)
    hours.remember(keys, rules, now)
    return plan.results(results)


async def load(
    db: Database, wanted: Mapping[UsageKey, Wanted], wait: str = ""
) -> dict[UsageKey, KeyState]:
    """
    Return keys with their hours from the first one on, all locked; new ones get their rows.

    It *waits* for whoever has them, or, by NOWAIT, for nobody.
    """
    by_name = {name_of(key): key for key in wanted}
    found = await _keys(db, KEYS, [*by_name], wait)
    if missing := sorted(by_name.keys() - found.keys()):  # one order for all who make them
        new = [
            new_key(name, by_name[name], wanted[by_name[name]].license_product) for name in missing
        ]
        pairs = sorted({str(row[-1]) for row in new if row[-1] is not None})
        await db.lock_new([by_name[name].customer for name in missing], pairs)
        await db.for_each(NEW_KEYS, new)
        await db.fetch(CLOSED_BEFORE, missing)
        await db.fetch(OTHER_SCHEMES, pairs)
        found |= await _keys(db, KEYS, missing, wait)
    if rivalled := {key.billed_as for key in found.values() if key.billed_as is not None}:
        # Those before knew of no other scheme.
        found |= await _keys(db, RIVALS, sorted(rivalled), wait)
        introduce_rivals(found.values())
    keys = {by_name.get(name) or key_of(name): state for name, state in found.items()}
    await load_hours(db, keys, wanted, _waiting(HOURS, wait))
    return keys


async def load_hours(
    db: Database,
    keys: Mapping[UsageKey, KeyState],
    wanted: Mapping[UsageKey, Wanted],
    statement: Dialects,
) -> None:
    """Give *keys*, rivals too, those of their hours that *wanted* asks for, by this *statement*."""
    by_id = {state.key_id: state for state in keys.values()}
    rows = [*await db.fetch_pairs(statement, first_hours(keys, wanted))]
    if lost := lost_hours(keys, wanted):
        rows += await db.fetch(LOST_HOURS, json.dumps(lost))
    for key_id, *hour in rows:
        by_id[key_id].hours[hour[0]] = OpenHour(*hour)


async def _keys(
    db: Database, statement: Dialects, values: Sequence[str], wait: str
) -> dict[str, KeyState]:
    rows = await db.fetch(_waiting(statement, wait), values)
    return {row[0]: key_state(row) for row in rows}


def _waiting(statement: Dialects, wait: str) -> Dialects:
    return statement._replace(postgresql=f"{statement.postgresql} {wait}")


async def write(db: Database, changes: Changes, reach: FailPoint = no_failure) -> None:
    """Write down what a posting changes."""
    stranded = [
        (key_id, origin, state, *divmod(quantity, MILLION), events, since)
        for key_id, origin, state, quantity, events, since in changes.stranded
    ]
    await db.for_each(GROWN_HOURS, changes.grown_hours)
    await db.for_each(NEW_HOURS, [(*row, HourState.OPEN) for row in changes.new_hours])
    await db.for_each(CARRIED, changes.carried)
    await db.for_each(STRANDED_USAGE, stranded)
    if changes.removed_hours:
        for statement in REMOVED_HOURS:
            await db.fetch(statement, changes.removed_hours)
    reach("post: hours written")
    await db.for_each(NEW_EVENTS, changes.events)
    reach("post: events written")
    await db.keep_sums(changes.sums)
    reach("post: sums written")


async def known_events(db: Database, group: Sequence[Usage]) -> KnownEvents:
    """Return what is known of the events of a *group*."""
    names = [usage.event_id for usage in group if usage.event_id is not None]
    return await events_named(db, names) if names else KnownEvents()


async def events_named(db: Database, names: Sequence[str]) -> KnownEvents:
    """Return what is known of the event ids *names*."""
    known, since = dict[str, bytes](), 0
    for name, digest, forgotten_before in await db.fetch(KNOWN_EVENTS, names):  # in any order
        if name is None:
            since = forgotten_before
        else:
            known[name] = digest
    return KnownEvents(known, since)


async def whole_dimensions(db: Database) -> WholeDimensions:
    """Return the dimensions that are declared whole."""
    found = await db.fetch(
        "SELECT product_code, dimension FROM marketplace_metering.whole_dimension"
    )
    return frozenset(ProductDimension(*row) for row in found)


async def whole_for(db: Database, group: Sequence[Usage]) -> WholeDimensions:
    """Return the dimensions that are declared whole, where any usage of a *group* asks for them."""
    return await whole_dimensions(db) if any(map(concerns, group)) else frozenset()


async def declare_whole(db: Database, whole: WholeDimensions, now: int) -> None:
    """Let these dimensions be whole, and no others; whoever declares waits for another one."""
    await db.fetch(DECLARE_ALONE)
    kept = await whole_dimensions(db)
    for one in kept - whole:
        await db.fetch(
            "DELETE FROM marketplace_metering.whole_dimension "
            "WHERE product_code = $1 AND dimension = $2",
            *one,
        )
    for one in whole - kept:
        await db.fetch(
            "INSERT INTO marketplace_metering.whole_dimension "
            "(product_code, dimension, declared_at) VALUES ($1, $2, $3)",
            *one,
            now,
        )
