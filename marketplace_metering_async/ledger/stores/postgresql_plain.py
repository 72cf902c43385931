"""
Plain usage into a ledger in PostgreSQL: blindly, in one statement.

What such a statement expects it counts itself, and where something is otherwise it fails as a
whole, so that one round trip is enough where all of a group is plain. See plain_usage.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any, Final

from marketplace_metering_async.ledger.frozen_record import EVENT_DIGEST_BYTES
from marketplace_metering_async.ledger.hours import last_hour_of_month
from marketplace_metering_async.ledger.model import Usage
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainPart, Plan
from marketplace_metering_async.ledger.posting import PostingResult
from marketplace_metering_async.ledger.stores.database import Database, Verb
from marketplace_metering_async.ledger.stores.postgresql_transactions import (
    AT_ONCE,
    OWN_VALUES,
    AtOnce,
)
from marketplace_metering_async.ledger.whole_dimensions import concerns

_PLAIN: Final = "unnest(?::text::bigint[], ?::text::bigint[], ?::text::bigint[], ?::text::bigint[])"
"""Long columns come as one text, for which asyncpg takes a third of the time."""


def _takes(quantity: str) -> str:
    """
    Return when an hour's own row lets a *quantity* in; see plain_usage.

    It is due when this usage would make it due (see OpenHour), so that it need not be remembered.
    """
    return f"""
        hour.state = 'open' AND hour.urgent = 0 AND hour.events > 0
        AND hour.quantity BETWEEN 1 AND ?::bigint - {quantity}
        AND hour.seal_at = greatest(
            hour.opened_at + ?::bigint,
            hour.hour + 3600 + CASE WHEN hour.hour = ?::bigint THEN ?::bigint ELSE ?::bigint END)
    """


_GROW: Final = f"""
    INSERT INTO marketplace_metering.hour AS hour
        (hour_id, quantity, events, stamp, key_id, hour, opened_at, seal_at, state)
    SELECT -place, quantity, events, stamp, key_id, stamp - stamp % 3600, 0, 0, 'open'
    FROM {_PLAIN} WITH ORDINALITY AS plain (quantity, events, stamp, key_id, place)
    ORDER BY key_id, stamp
    ON CONFLICT (key_id, hour) DO UPDATE SET
        quantity = hour.quantity + excluded.quantity, events = hour.events + excluded.events,
        stamp = greatest(hour.stamp, excluded.stamp)
    WHERE {_takes("excluded.quantity")}
    RETURNING hour_id
"""
"""
By the index, row after row in one order for all, whatever the planner knows of the table. An hour
that is not there is made with a number below 0, which nobody lets be committed.
"""
_LOCK: Final = f"""
    SELECT hour.hour_id, hour.key_id, hour.hour, plain.quantity, plain.events, plain.stamp
    FROM {_PLAIN} AS plain (quantity, events, stamp, key_id)
    JOIN marketplace_metering.hour
        ON hour.key_id = plain.key_id AND hour.hour = plain.stamp - plain.stamp % 3600
    WHERE {_takes("plain.quantity")}
    ORDER BY hour.key_id, hour.hour FOR NO KEY UPDATE OF hour
"""
"""Locked in one order for all, and looked at again once the lock is there."""
GROW_PLAIN_HOURS: Final = """
    UPDATE marketplace_metering.hour SET quantity = hour.quantity + plain.quantity,
        events = hour.events + plain.events, stamp = greatest(hour.stamp, plain.stamp)
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
        AS plain (hour_id, quantity, events, stamp)
    WHERE hour.hour_id = plain.hour_id
"""
_NAME: Final = f"""
    INSERT INTO marketplace_metering.event (event_id, digest, added_at)
    SELECT event_id, substring(?::bytea FROM {EVENT_DIGEST_BYTES} * (place::integer - 1) + 1
                               FOR {EVENT_DIGEST_BYTES}), ?::bigint
    FROM pg_catalog.unnest(?::text::text[]) WITH ORDINALITY AS named (event_id, place)
"""
"""Without ON CONFLICT, which costs two thirds more: an id that is there makes it fail."""
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
NEW_EVENTS: Final = numbered(f"{_NAME} ON CONFLICT DO NOTHING RETURNING event_id")
KEPT_SUMS: Final = numbered(_KEEP)
_ALL: Final = numbered(
    AT_ONCE.format(
        parts=f"""
            grown AS ({_GROW}), named AS ({_NAME} RETURNING 1), kept AS ({_KEEP} RETURNING 1)
        """,
        unless="""
            WHEN event_ids_since > ? THEN 0
            WHEN EXISTS (SELECT 1 FROM marketplace_metering.whole_dimension
                         WHERE dimension IN (SELECT pg_catalog.unnest(?::text[]))) THEN 0
            WHEN (SELECT COUNT(*) FROM grown WHERE hour_id > 0) <> ? THEN 0
            WHEN (SELECT COUNT(*) FROM named) <> ? THEN 0
            WHEN (SELECT COUNT(*) FROM kept) <> ? THEN 0
        """,
    ),
    first=OWN_VALUES + 1,
)
"""Hours first, then events, then sums, as the careful way."""


def at_once(
    group: Sequence[Usage],
    plan: Plan,
    rules: PostingRules,
    shard: int,
    rest: Verb[list[PostingResult]],
) -> AtOnce[list[PostingResult]] | None:
    """
    Return what adds all of *group* that is plain in one statement; None: nothing is.

    The *rest* of the plan, where there is any, has the sums of both.
    """
    if not plan.parts:
        return None
    events, sums = plan.events(), [] if plan.careful else plan.sums()
    fractions = [*{usage.key.dimension for usage in group if concerns(usage)}]
    values = (
        *_of_hours(plan, rules),
        *_of_events(events, plan.now),
        shard,
        *_columns(sums, 6),
        plan.ids_since,
        fractions,
        len(plan.parts),
        len(events),
        len(sums),
    )
    return AtOnce(_ALL, values, rest, is_all=not plan.careful)


def _of_hours(plan: Plan, rules: PostingRules) -> tuple[str | int, ...]:
    """Return what the plain hours of a plan, one at least, are changed by: _PLAIN and _takes."""
    parts = plan.parts
    return (
        _numbers([part.quantity for part in parts]),
        _numbers([len(part.places) for part in parts]),
        _numbers([part.stamp for part in parts]),
        _numbers([part.into.key_id for part in parts]),
        plan.most,
        rules.grace,
        last_hour_of_month(min([part.into.hour for part in parts])),  # they are of one day
        max(rules.grace, rules.month_end_grace),
        rules.grace,
    )


def _of_events(events: Mapping[str, bytes], at: int) -> tuple[bytes, int, str]:
    return b"".join(events.values()), at, _texts(events)


def _numbers(column: list[int]) -> str:
    return f"{{{str(column)[1:-1]}}}"


def _texts(column: Collection[str]) -> str:
    """Return texts, in none of which there is a NUL, as one of an array."""
    joined = "\0".join(column).replace("\\", r"\\").replace('"', r"\"")
    return '{"' + joined.replace("\0", '","') + '"}' if column else "{}"


def _columns(rows: Sequence[Sequence[Any]], width: int) -> Sequence[Sequence[Any]]:
    return [*zip(*rows, strict=True)] or [()] * width


async def name_events(db: Database, events: Mapping[str, bytes], at: int) -> list[str]:
    """See Database."""
    if not events:
        return []
    new = {row["event_id"] for row in await db.fetch(NEW_EVENTS, *_of_events(events, at))}
    return [name for name in events if name not in new]


async def grow(db: Database, plan: Plan, rules: PostingRules) -> list[PlainPart]:
    """Add the parts of a plan, one at least, to their hours; return those that changed no row."""
    plain = await db.fetch(PLAIN_HOURS, *_of_hours(plan, rules))
    if grown := [(hour_id, *added) for hour_id, _, _, *added in plain]:
        await db.fetch(GROW_PLAIN_HOURS, *zip(*grown, strict=True))
    changed = {(row["key_id"], row["hour"]) for row in plain}
    return [part for part in plan.parts if (part.into.key_id, part.into.hour) not in changed]
