"""What is in a ledger in PostgreSQL: figures, the story of every hour, what may be forgotten."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.history import (
    HistoryEntry,
    HistoryPlace,
    HistoryQuery,
    entries_of,
    page_of,
    stranded_entries_of,
)
from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import key_of
from marketplace_metering_async.ledger.status import AtRisk, Figures
from marketplace_metering_async.ledger.stores.history_pages import (
    HOURS,
    KEY_MEMBERS,
    STRANDED,
    Kind,
    Page,
)
from marketplace_metering_async.ledger.stores.postgresql_plain import keep_sums, numbered
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.sums import Sum, Sums

SUMS: Final = """
    SELECT product_code, dimension, state, SUM(quantity), SUM(records)::bigint, MAX(latest)
    FROM marketplace_metering.kept_sum GROUP BY product_code, dimension, state
    UNION ALL
    SELECT CASE WHEN license_arn = '' THEN product_code ELSE license_product END, dimension, state,
           SUM(quantity), 0, MAX(at)
    FROM marketplace_metering.arrival CROSS JOIN (VALUES ('open'), ('recorded')) AS kept (state)
    GROUP BY 1, 2, 3
"""
"""What is not added to its hour yet is open."""
OLDEST: Final = """
    SELECT least(
        (SELECT hour FROM marketplace_metering.hour
         WHERE state IN ('open', 'frozen') AND quantity > 0 ORDER BY hour LIMIT 1),
        (SELECT MIN(at - at % 3600) FROM marketplace_metering.arrival WHERE quantity > 0))
"""
FIRST_STAMP: Final = """
    SELECT least(
        (SELECT MIN(stamp) FROM marketplace_metering.hour
         WHERE state IN ('open', 'frozen') AND quantity > 0 AND hour = $1),
        (SELECT MIN(at) FROM marketplace_metering.arrival
         WHERE quantity > 0 AND at - at % 3600 = $1))
"""
AT_RISK: Final = """
    SELECT COALESCE(SUM(quantity), 0) FROM (
        SELECT quantity FROM marketplace_metering.hour
        WHERE state IN ('open', 'frozen') AND hour <= $1
          AND (COALESCE(sealed_at, seal_at) <= $2 OR stamp <= $3)
        UNION ALL
        SELECT quantity FROM marketplace_metering.arrival
        WHERE at - at % 3600 <= $1
          AND (greatest(at - at % 3600 + 3600, added_at) <= $2 OR at <= $3)) AS unsettled
"""
CLAIMED: Final = """
    SELECT COALESCE(SUM(quantity), 0), MAX(lease_until) FROM marketplace_metering.hour
    WHERE lease_until IS NOT NULL
"""
NEXT: Final = """
    SELECT (SELECT MIN(not_before) FROM marketplace_metering.hour
            WHERE state = 'frozen' AND lease_until IS NULL),
           (SELECT MIN(seal_at) FROM marketplace_metering.hour WHERE state = 'open')
"""
HOURS_AT_NEXT_SEAL: Final = """
    SELECT COUNT(*) FROM marketplace_metering.hour WHERE state = 'open' AND seal_at < $1 + 60
"""
BY_TIME: Final = f"""
    SELECT {{table}}.*, {KEY_MEMBERS}
    FROM marketplace_metering.{{table}} JOIN marketplace_metering.usage_key USING (key_id)
    WHERE {{where}} {{members}} ORDER BY {{order}} LIMIT ?
"""
BY_KEY: Final = f"""
    SELECT {{table}}.*, {KEY_MEMBERS}
    FROM marketplace_metering.usage_key CROSS JOIN LATERAL (
        SELECT * FROM marketplace_metering.{{table}}
        WHERE {{table}}.key_id = usage_key.key_id AND {{where}} ORDER BY {{order}} LIMIT ?
    ) AS {{table}}
    WHERE true {{members}} ORDER BY {{order}} LIMIT ?
"""
"""Of each key no more than may be on the page."""
OLD_NOTES: Final = """
    DELETE FROM marketplace_metering.posting WHERE posting_id IN (
        SELECT posting_id FROM marketplace_metering.posting
        WHERE posted_at < now() - interval '7 days' LIMIT $1)
    RETURNING posting_id
"""
FORGET: Final = """
    DELETE FROM marketplace_metering.event WHERE event_id IN (
        SELECT event_id FROM marketplace_metering.event WHERE added_at < $1
        ORDER BY added_at LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING 1
"""


async def figures(db: Connection, ledger: Identity, now: int) -> Figures:
    """Return the figures of the whole ledger."""
    oldest = await db.fetchval(OLDEST)
    in_flight, claimed_until = await db.fetchrow(CLAIMED)
    next_send, next_seal = await db.fetchrow(NEXT)
    return Figures(
        ledger=ledger,
        sums=[
            Sum(product, dimension, state, int(quantity), records, latest)
            for product, dimension, state, quantity, records, latest in await db.fetch(SUMS)
        ],
        oldest_hour=oldest,
        first_stamp=await db.fetchval(FIRST_STAMP, oldest),
        at_risk=int(await db.fetchval(AT_RISK, *AtRisk.at(now))),
        in_flight=int(in_flight),
        claimed_until=claimed_until,
        next_send=next_send,
        next_seal=next_seal,
        hours_at_next_seal=await db.fetchval(HOURS_AT_NEXT_SEAL, next_seal),
    )


async def history(
    db: Connection, query: HistoryQuery, after: HistoryPlace, limit: int
) -> list[tuple[HistoryPlace, HistoryEntry]]:
    """Return the next entries *after* a place, with their places, in order."""
    hours = await _rows(db, HOURS, query, after, limit)
    ids = [row["hour_id"] for row in hours]
    entries = entries_of(
        hours,
        await _by_hour(db, "carried", "origin", ids),
        await _by_hour(db, "attempt", "fence", ids),
        await _by_hour(db, "resolution", "resolution_id", ids),
    )
    stranded = await _rows(db, STRANDED, query, after, limit)
    ids = [row["stranded_id"] for row in stranded]
    entries += stranded_entries_of(
        [{**row, "quantity": int(row["quantity"])} for row in stranded],
        await _by_hour(db, "resolution", "resolution_id", ids, "stranded_id"),
    )
    return page_of(entries, query, limit)


async def _rows(
    db: Connection, kind: Kind, query: HistoryQuery, after: HistoryPlace, limit: int
) -> list[Any]:
    page = Page.of(kind, query, after)
    given = {"table": kind.table, "where": page.where, "members": page.members, "order": page.order}
    if query.is_of_customer:
        statement, values = BY_KEY, [*page.values, limit, *page.member_values, limit]
    else:
        statement, values = BY_TIME, [*page.values, *page.member_values, limit]
    rows: list[Any] = await db.fetch(numbered(statement.format(**given)), *values)
    return rows


async def _by_hour(
    db: Connection, table: str, order: str, ids: Sequence[int], column: str = "hour_id"
) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in await db.fetch(
        f"SELECT * FROM marketplace_metering.{table} "
        f"WHERE {column} IN (SELECT unnest($1::bigint[])) ORDER BY {order}",
        ids,
    ):
        found.setdefault(row[column], []).append(row)
    return found


async def prune(db: Connection, before: int, limit: int, shard: int) -> int:
    """Remove some hours settled before *before*, but for their sums; return how many."""
    old = await db.fetch(
        "SELECT hour.hour_id, hour.state, usage_key.name, usage_key.license_product "
        "FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id) "
        "WHERE hour.settled_at < $1 ORDER BY hour.settled_at LIMIT $2 FOR UPDATE OF hour",
        before,
        limit,
    )
    ids = [row["hour_id"] for row in old]
    for table in ("attempt", "carried", "resolution", "hour"):
        await db.execute(
            f"DELETE FROM marketplace_metering.{table} "
            "WHERE hour_id IN (SELECT unnest($1::bigint[]))",
            ids,
        )
    sums = Sums()
    for row in old:
        sums.add(key_of(row["name"]).summed_under(row["license_product"]), row["state"], 0, -1)
    await keep_sums(db, sums.changes(), shard)
    return len(old)


async def prune_events(db: Connection, before: int, limit: int) -> int:
    """Forget some ids of events that were added before *before*; return how many."""
    await db.execute(
        "UPDATE marketplace_metering.ledger SET event_ids_since = $1 WHERE event_ids_since < $1",
        before,
    )
    forgotten = await db.fetch(FORGET, before, limit)
    return len(forgotten)


async def tidy(db: Connection, limit: int) -> int:
    """Remove notes of processes that have ended; return how many."""
    return len(await db.fetch(OLD_NOTES, limit))
