"""
Plain usage into a ledger in PostgreSQL: blindly, in one statement where all of a group is plain.

What such a statement expects it counts itself, and where something is otherwise it fails as a
whole, so that one round trip is enough. See plain_usage.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from marketplace_metering_async.ledger.model import Usage
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import KnownEvents, PostingResult
from marketplace_metering_async.ledger.stores.postgresql_connections import (
    AT_ONCE,
    OWN_VALUES,
    AtOnce,
    Connection,
)
from marketplace_metering_async.ledger.sums import Sum
from marketplace_metering_async.ledger.whole_dimensions import concerns

KNOWN_EVENTS: Final = """
    SELECT event_id, digest, 0 FROM marketplace_metering.event
    WHERE event_id IN (SELECT unnest($1::text[]))
    UNION ALL SELECT NULL, NULL, event_ids_since FROM marketplace_metering.ledger
"""
"""Both in one look: an id that is forgotten meanwhile is known, or known to be too old."""
FORGET_EVENTS: Final = """
    DELETE FROM marketplace_metering.event WHERE event_id IN (SELECT unnest($1::text[]))
"""
_PLAIN: Final = """
    unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[],
           ?::bigint[], ?::bigint[], ?::bigint[])
"""


def _takes(given: str, least: str, most: str) -> str:
    """Return when an hour's own row lets what is *given* in; see plain_usage."""
    return f"""
        hour.state = 'open' AND hour.urgent = 0 AND hour.events > 0
        AND hour.opened_at = {given}.opened_at AND hour.seal_at = {given}.seal_at
        AND hour.quantity BETWEEN {given}.{least} AND {given}.{most}
    """


_GROW: Final = f"""
    INSERT INTO marketplace_metering.hour AS hour
        (hour_id, quantity, events, stamp, key_id, hour, opened_at, seal_at, sealed_at, deadline,
         state)
    SELECT -place, quantity, events, stamp, key_id, hour, opened_at, seal_at, least, most, 'open'
    FROM {_PLAIN} WITH ORDINALITY AS plain
        (quantity, events, stamp, key_id, hour, opened_at, seal_at, least, most, place)
    ORDER BY key_id, hour
    ON CONFLICT (key_id, hour) DO UPDATE SET
        quantity = hour.quantity + excluded.quantity, events = hour.events + excluded.events,
        stamp = greatest(hour.stamp, excluded.stamp)
    WHERE {_takes("excluded", "sealed_at", "deadline")}
    RETURNING hour_id
"""
"""
By the index, row after row in one order for all, whatever the planner knows of the table. An hour
that is not there is made with a number below 0, which nobody lets be committed.
"""
_LOCK: Final = f"""
    SELECT hour.hour_id, hour.key_id, hour.hour, plain.quantity, plain.events, plain.stamp
    FROM {_PLAIN} AS plain (quantity, events, stamp, key_id, hour, opened_at, seal_at, least, most)
    JOIN marketplace_metering.hour USING (key_id, hour)
    WHERE {_takes("plain", "least", "most")}
    ORDER BY key_id, hour FOR NO KEY UPDATE OF hour
"""
"""Locked in one order for all, and looked at again once the lock is there."""
GROW_PLAIN_HOURS: Final = """
    UPDATE marketplace_metering.hour SET quantity = hour.quantity + plain.quantity,
        events = hour.events + plain.events, stamp = greatest(hour.stamp, plain.stamp)
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
        AS plain (hour_id, quantity, events, stamp)
    WHERE hour.hour_id = plain.hour_id
"""
_NAME: Final = """
    INSERT INTO marketplace_metering.event (event_id, digest, added_at)
    SELECT * FROM unnest(?::text[], ?::bytea[], ?::bigint[])
    ON CONFLICT DO NOTHING RETURNING event_id
"""
_KEEP: Final = """
    INSERT INTO marketplace_metering.kept_sum
        (product_code, dimension, state, quantity, records, latest, shard)
    SELECT *, ?::bigint
    FROM unnest(?::text[], ?::text[], ?::text[], ?::numeric[], ?::bigint[], ?::bigint[])
    ON CONFLICT (product_code, dimension, state, shard) DO UPDATE SET
        quantity = kept_sum.quantity + excluded.quantity,
        records = kept_sum.records + excluded.records,
        latest = greatest(kept_sum.latest, excluded.latest)
"""


def numbered(statement: str, first: int = 1) -> str:
    """Return a *statement* with numbers from *first* on for its question marks."""
    numbers = count(first)
    head, *parts = statement.split("?")
    return head + "".join(f"${next(numbers)}{part}" for part in parts)


PLAIN_HOURS: Final = numbered(_LOCK)
NEW_EVENTS: Final = numbered(_NAME)
KEPT_SUMS: Final = numbered(_KEEP)
_ALL: Final = numbered(
    AT_ONCE.format(
        parts=f"""
            grown AS ({_GROW}), named AS ({_NAME}), kept AS ({_KEEP} RETURNING 1)
        """,
        unless="""
            WHEN event_ids_since > ? THEN 0
            WHEN EXISTS (SELECT 1 FROM marketplace_metering.whole_dimension
                         WHERE dimension IN (SELECT unnest(?::text[]))) THEN 0
            WHEN (SELECT COUNT(*) FROM grown WHERE hour_id > 0) <> ? THEN 0
            WHEN (SELECT COUNT(*) FROM named) <> ? THEN 0
            WHEN (SELECT COUNT(*) FROM kept) <> ? THEN 0
        """,
    ),
    first=OWN_VALUES + 1,
)
"""Hours first, then events, then sums, as the careful way."""


def at_once(
    group: Sequence[Usage], now: int, rules: PostingRules, hours: PlainHours, shard: int
) -> AtOnce[list[PostingResult]] | None:
    """Return what adds *group*, all of which is plain, in one statement; None: not all of it is."""
    plan = hours.plan(group, now, rules)
    if plan.careful:
        return None
    rows, events, sums = [part.row() for part in plan.parts], plan.events(), plan.sums()
    fractions = [*{usage.key.dimension for usage in group if concerns(usage)}]
    values = (
        *_columns(rows, 9),
        *_columns(events, 3),
        shard,
        *_columns(sums, 6),
        plan.ids_since,
        fractions,
        len(rows),
        len(events),
        len(sums),
    )
    return AtOnce(_ALL, values, plan.results([]))


def _columns(rows: Sequence[Sequence[Any]], width: int) -> Sequence[Sequence[Any]]:
    return [*zip(*rows, strict=True)] or [()] * width


async def add_blindly(db: Connection, plan: Plan) -> None:
    """Add what is plain, and hand the rest back to the *plan*."""
    events = plan.events()
    new = {row["event_id"] for row in await fetch_for(db, NEW_EVENTS, events)}
    if there := [name for name, *_ in events if name not in new]:
        plan.known((await known_events(db, there)).digests)
    parts = [*plan.parts]
    plain = await fetch_for(db, PLAIN_HOURS, [part.row() for part in parts])
    grown = [(hour_id, *added) for hour_id, _, _, *added in plain]
    await execute_for(db, GROW_PLAIN_HOURS, grown)
    changed = {(row["key_id"], row["hour"]) for row in plain}
    others = [part for part in parts if (part.into.key_id, part.into.hour) not in changed]
    if taken_back := plan.miss(others):
        await db.execute(FORGET_EVENTS, taken_back)


async def known_events(db: Connection, names: Sequence[str]) -> KnownEvents:
    """Return what is known of the event ids *names*."""
    *known, (_, _, since) = await db.fetch(KNOWN_EVENTS, names)
    return KnownEvents({name: digest for name, digest, _ in known}, since)


async def fetch_for(db: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the rows of a statement that has an array for each column of *rows*, if any."""
    return await db.fetch(statement, *zip(*rows, strict=True)) if rows else []


async def execute_for(db: Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement with an array for each column of *rows*, if there are any."""
    await fetch_for(db, statement, rows)


async def keep_sums(db: Connection, changes: Sequence[Sum], shard: int) -> None:
    """Add *changes* to the kept sums."""
    if changes:
        await db.execute(KEPT_SUMS, shard, *zip(*changes, strict=True))
