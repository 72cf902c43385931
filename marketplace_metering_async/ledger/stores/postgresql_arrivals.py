"""
Usage in a transaction of a caller: a row of its own, which relays add to its hour once they see it.

It locks no key, hour or sum, since its transaction may be open for long. Only its event id is taken
at once, with a lock by which others know whom they would wait for.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from attrs import evolve

from marketplace_metering_async.errors import LedgerError, MeteringError
from marketplace_metering_async.ledger.history import HistoryEntry, HistoryQuery, arrived_entry_of
from marketplace_metering_async.ledger.model import HourState, Usage, UsageKey, key_of, name_of
from marketplace_metering_async.ledger.open_hours import KeyState, PostingRules, key_state
from marketplace_metering_async.ledger.posting import (
    AddedUsage,
    Posting,
    PostingResult,
    introduce_rivals,
    wanted_by,
)
from marketplace_metering_async.ledger.stores.adding import (
    HOURS,
    known_events,
    load,
    load_hours,
    whole_for,
    write,
)
from marketplace_metering_async.ledger.stores.database import Database, with_quantity
from marketplace_metering_async.ledger.stores.subscriptions import CUSTOMER
from marketplace_metering_async.ledger.stores.words import FailPoint

_LOCK: Final = "hashtextextended('marketplace_metering.event ' || event_id, 7305803390)"
"""Of an event id in this schema."""
HOLD: Final = f"""
    SELECT pg_advisory_xact_lock({_LOCK}),
        set_config('metering.events_held', (1 + coalesce(
            nullif(current_setting('metering.events_held', true), ''), '0')::bigint)::text, true
            )::bigint AS held,
        current_setting('max_locks_per_transaction')::bigint
            * current_setting('max_connections')::bigint / 2 AS most
    FROM (SELECT $1::text AS event_id) AS one
"""
"""
Also counts, for the transaction alone, how many it has: all sessions of the server share one table
of locks, and where that is full, the statements of strangers fail.
"""
HELD: Final = f"""
    SELECT event_id FROM pg_catalog.unnest($1::text[]) AS event_id WHERE {_LOCK} IN (
        SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
"""Those of these event ids that callers' open transactions have."""
KEYS: Final = f"""
    SELECT name, key_id, closed_at, license_product, billed_as,
           (SELECT held_through FROM marketplace_metering.ledger)
    FROM marketplace_metering.usage_key WHERE name = $5 OR billed_as = $7
    UNION ALL
    SELECT $5::text, 0, (SELECT closed_at FROM marketplace_metering.customer WHERE {CUSTOMER}),
           $6::text, $7::text, held_through
    FROM marketplace_metering.ledger
    ORDER BY key_id
"""
"""The first one is the key as it were if it was new."""
SEEN_HOURS: Final = HOURS._replace(postgresql=HOURS.postgresql.replace("FOR UPDATE OF hour", ""))
ARRIVE: Final = """
    WITH named AS (
        INSERT INTO marketplace_metering.event (event_id, digest, added_at)
        SELECT $1::text, $2::bytea, $3::bigint WHERE $1::text IS NOT NULL
        ON CONFLICT DO NOTHING RETURNING event_id)
    INSERT INTO marketplace_metering.arrival
        (added_at, name, product_code, customer_aws_account_id, customer_identifier, license_arn,
         dimension, license_product, at, quantity)
    SELECT $3::bigint, $4, $5, $6, $7, $8, $9, $10, $11::bigint, $12::bigint
    WHERE $1::text IS NULL OR EXISTS (SELECT 1 FROM named)
    RETURNING arrival_id
"""
ARRIVED: Final = """
    SELECT arrival_id FROM marketplace_metering.arrival WHERE arrival_id > $1
    ORDER BY arrival_id LIMIT $2
"""
TAKE: Final = """
    DELETE FROM marketplace_metering.arrival WHERE arrival_id IN (
        SELECT arrival_id FROM marketplace_metering.arrival
        WHERE arrival_id IN (SELECT pg_catalog.unnest($1::bigint[])) FOR UPDATE SKIP LOCKED)
    RETURNING name, license_product, at, quantity
"""
"""SKIP LOCKED leaves what another relay takes."""
ENTRIES: Final = """
    SELECT MIN(arrival_id) AS arrival_id, 'open' AS state, product_code, customer_aws_account_id,
           customer_identifier, license_arn, license_product, dimension, at - at % 3600 AS hour,
           SUM(quantity) AS quantity, COUNT(*) AS events, MAX(at) AS stamp
    FROM marketplace_metering.arrival WHERE at >= $1 AND at < $2 {members}
    GROUP BY 3, 4, 5, 6, 7, 8, 9 ORDER BY hour, arrival_id
"""


async def arrive(
    db: Database, usage: Usage, now: int, rules: PostingRules, reach: FailPoint
) -> PostingResult:
    """Add usage in the transaction of a caller; return what is to become of it, as it looks now."""
    if usage.event_id is not None:
        _, held, most = await db.fetchrow(HOLD, usage.event_id)
        if held > most:
            raise LedgerError(
                f"commit, and begin another transaction: this one has {most} event ids, and with "
                "them half of the server's locks (max_locks_per_transaction x max_connections); "
                "nothing was stored"
            )
    known = await known_events(db, [usage])
    whole = await whole_for(db, [usage])
    keys = await _seen_keys(db, usage, now)
    result = Posting(now, rules, keys, known, whole=whole).post(usage)
    if isinstance(result, MeteringError) or result.repeated:
        return result
    reach("arrive: seen")
    stored = await db.fetchval(
        ARRIVE,
        usage.event_id,
        usage.digest,
        now,
        name_of(usage.key),
        *usage.key,
        usage.license_product,
        usage.at,
        usage.quantity,
    )
    if stored is None:  # a group had the event id, and is committed now
        return await arrive(db, usage, now, rules, reach)
    reach("arrive: written")
    return result


async def _seen_keys(db: Database, usage: Usage, now: int) -> dict[UsageKey, KeyState]:
    """Return the key of *usage* and its rivals, as they look now: nothing is locked."""
    key, name = usage.key, name_of(usage.key)
    billed_as = key.billed_as(usage.license_product)
    rows = await db.fetch(KEYS, *key.customer, name, usage.license_product, billed_as)
    found = {row[0]: key_state(row) for row in rows}
    introduce_rivals(found.values())
    keys = {key_of(name): state for name, state in found.items()}
    await load_hours(db, keys, wanted_by([usage], now), SEEN_HOURS)
    return keys


async def fold(
    db: Database,
    ids: Sequence[int],
    now: int,
    rules: PostingRules,
    reach: FailPoint,
) -> Counter[HourState]:
    """Add rows to their hours, and remove them; return how many have ended, by state."""
    taken = [
        Usage(key_of(name), license_product, at, quantity, None, b"")
        for name, license_product, at, quantity in await db.fetch(TAKE, ids)
    ]
    reach("fold: taken")
    keys = await load(db, wanted_by(taken, now))
    posting = Posting(now, evolve(rules, late="carry"), keys)  # it was not late when it was taken
    added = [posting.post(usage) for usage in taken]
    await write(db, posting.changes(), reach)
    reach("fold: written")
    return Counter(
        one.ended for one in added if isinstance(one, AddedUsage) and one.ended is not None
    )


async def entries(db: Database, query: HistoryQuery) -> list[HistoryEntry]:
    """Return what waits to be added to its hours, by key and hour; see Store."""
    if query.states and HourState.OPEN not in query.states:
        return []
    members = "".join(f" AND {name} = ${number}" for number, name in enumerate(query.members, 3))
    rows = await db.fetch(
        ENTRIES.format(members=members), query.first, query.end, *query.members.values()
    )
    found = [arrived_entry_of(with_quantity(row)) for row in rows]
    return found[::-1] if query.newest_first else found
