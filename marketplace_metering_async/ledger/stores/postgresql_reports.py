"""What is in a ledger in PostgreSQL: figures, the story of every hour, what may be forgotten."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.history import (
    HistoryEntry,
    HistoryQuery,
    entries_of,
    stranded_entry_of,
)
from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.model import key_of
from marketplace_metering_async.ledger.status import AtRisk, Figures
from marketplace_metering_async.ledger.stores.postgresql_connections import Connection
from marketplace_metering_async.ledger.stores.postgresql_plain import keep_sums
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
KEY_MEMBERS: Final = (
    "usage_key.product_code, usage_key.customer_aws_account_id, usage_key.customer_identifier, "
    "usage_key.license_arn, usage_key.license_product, usage_key.dimension"
)


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
    db: Connection, query: HistoryQuery, after: tuple[int, int], limit: int
) -> list[tuple[tuple[int, int], HistoryEntry]]:
    """Return the next hours *after* a place (hour, row), with their places, in order."""
    rows = await db.fetch(
        f"SELECT hour.*, {KEY_MEMBERS} "
        "FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id) "
        "WHERE hour.hour >= $1 AND hour.hour < $2 AND (hour.hour, hour.hour_id) > ($3, $4) "
        f"{_of_members(query, 6)} ORDER BY hour.hour, hour.hour_id LIMIT $5",
        query.first,
        query.end,
        *after,
        limit,
        *query.members.values(),
    )
    ids = [row["hour_id"] for row in rows]
    carried = await _by_hour(db, "carried", "origin", ids)
    attempts = await _by_hour(db, "attempt", "fence", ids)
    resolutions = await _by_hour(db, "resolution", "resolution_id", ids)
    return entries_of(rows, carried, attempts, resolutions)


def _of_members(query: HistoryQuery, first: int) -> str:
    members = enumerate(query.members, first)
    return "".join(f" AND usage_key.{name} = ${number}" for number, name in members)


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


async def stranded(db: Connection, query: HistoryQuery) -> list[HistoryEntry]:
    """Return the usage that no hour may carry."""
    rows = await db.fetch(
        f"SELECT stranded.*, stranded.origin AS hour, {KEY_MEMBERS} "
        "FROM marketplace_metering.stranded JOIN marketplace_metering.usage_key USING (key_id) "
        f"WHERE stranded.origin >= $1 AND stranded.origin < $2 {_of_members(query, 3)} "
        "ORDER BY stranded.origin, stranded.stranded_id",
        query.first,
        query.end,
        *query.members.values(),
    )
    ids = [row["stranded_id"] for row in rows]
    resolutions = await _by_hour(db, "resolution", "resolution_id", ids, "stranded_id")
    return [
        stranded_entry_of(
            {**row, "quantity": int(row["quantity"])}, resolutions.get(row["stranded_id"], ())
        )
        for row in rows
    ]


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


async def prune_events(db: Connection, before: int, after: str, limit: int) -> str | None:
    """Forget the ids of old events among the next ones *after* an id; see Store."""
    await db.execute(
        "UPDATE marketplace_metering.ledger SET event_ids_since = $1 WHERE event_ids_since < $1",
        before,
    )
    until: str | None = await db.fetchval(
        "SELECT event_id FROM marketplace_metering.event WHERE event_id > $1 "
        "ORDER BY event_id LIMIT 1 OFFSET $2",
        after,
        limit - 1,
    )
    up_to, place = ("", ()) if until is None else ("AND event_id <= $3", (until,))
    await db.execute(
        f"DELETE FROM marketplace_metering.event WHERE event_id > $1 AND added_at < $2 {up_to}",
        after,
        before,
        *place,
    )
    return until
