"""What is in a ledger: figures, the story of every hour, and what may be forgotten."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from marketplace_metering_async.ledger.history import (
    HistoryEntry,
    HistoryPlace,
    HistoryQuery,
    page_of,
)
from marketplace_metering_async.ledger.model import key_of
from marketplace_metering_async.ledger.status import AtRisk, Figures
from marketplace_metering_async.ledger.stores.database import (
    Database,
    Dialects,
    Row,
    both,
    joined,
    with_quantity,
)
from marketplace_metering_async.ledger.stores.history_pages import (
    HOURS,
    KEY_MEMBERS,
    STRANDED,
    Kind,
    Page,
)
from marketplace_metering_async.ledger.stores.identifying import identity
from marketplace_metering_async.ledger.stores.tables import TABLES
from marketplace_metering_async.ledger.sums import Sum, Sums
from marketplace_metering_async.quantities import MILLION

KEPT_SUMS: Final = Dialects(
    sqlite="kept_sum",
    postgresql="""
    (SELECT product_code, dimension, state, SUM(quantity) AS quantity,
            SUM(records)::bigint AS records, MAX(latest) AS latest
     FROM marketplace_metering.kept_sum GROUP BY product_code, dimension, state) AS sums
    """,
)
SUMS: Final = Dialects(
    sqlite=f"SELECT * FROM {KEPT_SUMS.sqlite}",
    postgresql=f"""
    SELECT * FROM {KEPT_SUMS.postgresql}
    UNION ALL
    SELECT CASE WHEN license_arn = '' THEN product_code ELSE license_product END, dimension, state,
           SUM(quantity), 0, MAX(at)
    FROM marketplace_metering.arrival CROSS JOIN (VALUES ('open'), ('recorded')) AS kept (state)
    GROUP BY 1, 2, 3
    """,
)
"""In PostgreSQL with what is not added to its hour yet, here and below: it is open."""
OLDEST: Final = Dialects(
    sqlite="""
    SELECT hour FROM hour WHERE state IN ('open', 'frozen') AND quantity > 0 ORDER BY hour LIMIT 1
    """,
    postgresql="""
    SELECT least(
        (SELECT hour FROM marketplace_metering.hour
         WHERE state IN ('open', 'frozen') AND quantity > 0 ORDER BY hour LIMIT 1),
        (SELECT MIN(at - at % 3600) FROM marketplace_metering.arrival WHERE quantity > 0))
    """,
)
FIRST_STAMP: Final = Dialects(
    sqlite="""
    SELECT MIN(stamp) FROM hour WHERE state IN ('open', 'frozen') AND quantity > 0 AND hour = $1
    """,
    postgresql="""
    SELECT least(
        (SELECT MIN(stamp) FROM marketplace_metering.hour
         WHERE state IN ('open', 'frozen') AND quantity > 0 AND hour = $1),
        (SELECT MIN(at) FROM marketplace_metering.arrival
         WHERE quantity > 0 AND at - at % 3600 = $1))
    """,
)
_TOTAL: Final = (
    f"SELECT COALESCE(SUM(quantity / {MILLION}), 0), COALESCE(SUM(quantity % {MILLION}), 0)"
)
AT_RISK: Final = Dialects(
    sqlite=f"""
    {_TOTAL} FROM hour WHERE state IN ('open', 'frozen') AND hour <= $1
        AND (COALESCE(sealed_at, seal_at) <= $2 OR stamp <= $3)
    """,
    postgresql=f"""
    {_TOTAL} FROM (
        SELECT quantity FROM marketplace_metering.hour
        WHERE state IN ('open', 'frozen') AND hour <= $1
          AND (COALESCE(sealed_at, seal_at) <= $2 OR stamp <= $3)
        UNION ALL
        SELECT quantity FROM marketplace_metering.arrival
        WHERE at - at % 3600 <= $1
          AND (greatest(at - at % 3600 + 3600, added_at) <= $2 OR at <= $3)) AS unsettled
    """,
)
CLAIMED: Final = (
    f"{_TOTAL}, MAX(lease_until) FROM marketplace_metering.hour WHERE lease_until IS NOT NULL"
)
NEXT: Final = """
    SELECT (SELECT MIN(not_before) FROM marketplace_metering.hour
            WHERE state = 'frozen' AND lease_until IS NULL),
           (SELECT MIN(seal_at) FROM marketplace_metering.hour WHERE state = 'open')
"""
HOURS_AT_NEXT_SEAL: Final = """
    SELECT COUNT(*) FROM marketplace_metering.hour
    WHERE state = 'open' AND seal_at < 60 + CAST($1 AS bigint)
"""
OLD_HOURS: Final = both(
    """
    SELECT hour.hour_id, hour.state, usage_key.name, usage_key.license_product
    FROM marketplace_metering.hour JOIN marketplace_metering.usage_key USING (key_id)
    WHERE hour.settled_at < $1 AND hour.state IN ('metered', 'written_off', 'reopened')
    ORDER BY hour.settled_at LIMIT $2 {lock}
    """,
    lock="FOR UPDATE OF hour",
)
"""What has ended otherwise waits for a person, who has to know what it is."""
_IS_OLD: Final = """
    origin < {0} AND state IN ('metered', 'written_off') AND NOT EXISTS (
        SELECT 1 FROM marketplace_metering.resolution
        WHERE resolution.stranded_id = stranded.stranded_id AND resolution.at >= {0})
"""
OLD_STRANDED: Final = f"""
    SELECT stranded_id FROM marketplace_metering.stranded WHERE {_IS_OLD.format("$1")}
"""
STILL_OLD: Final = both(
    f"""
    SELECT stranded_id FROM marketplace_metering.stranded
    WHERE stranded_id IN ({{rows}}) AND {_IS_OLD.format("$2")} {{lock}}
    """,
    lock="FOR UPDATE OF stranded",
)
FORGET: Final = Dialects(
    sqlite="""
    DELETE FROM event WHERE added_at < $1 AND number IN (
        SELECT number FROM event WHERE number > 0 AND added_at <= $2 ORDER BY number LIMIT $3)
    RETURNING added_at
    """,
    postgresql="""
    DELETE FROM marketplace_metering.event WHERE event_id IN (
        SELECT event_id FROM marketplace_metering.event
        WHERE added_at < least($1::bigint, $2::bigint)
        ORDER BY added_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING added_at
    """,
)
"""
SQLite looks at the first ones that were added, from the first number on, but for those of a clock
that is ahead: others whose time is later than it should be are waited for.
"""

FORGOTTEN: Final = """
    UPDATE marketplace_metering.ledger SET event_ids_since = $1 WHERE event_ids_since < $1
"""


async def figures(db: Database, now: int) -> Figures:
    """Return the figures of the whole ledger."""
    oldest = await db.fetchval(OLDEST)
    *in_flight, claimed_until = await db.fetchrow(CLAIMED)
    next_send, next_seal = await db.fetchrow(NEXT)
    return Figures(
        ledger=await identity(db),
        sums=[Sum(**with_quantity(row)) for row in await db.fetch(SUMS)],
        oldest_hour=oldest,
        first_stamp=await db.fetchval(FIRST_STAMP, oldest),
        at_risk=joined(*await db.fetchrow(AT_RISK, *AtRisk.at(now))),
        in_flight=joined(*in_flight),
        claimed_until=claimed_until,
        next_send=next_send,
        next_seal=next_seal,
        hours_at_next_seal=await db.fetchval(HOURS_AT_NEXT_SEAL, next_seal),
    )


async def history(
    db: Database, query: HistoryQuery, after: HistoryPlace, limit: int
) -> list[tuple[HistoryPlace, HistoryEntry]]:
    """Return the next entries *after* a place, with their places, in order."""
    entries = []
    for kind in (HOURS, STRANDED):
        rows = await _rows(db, kind, query, after, limit)
        ids = [row[kind.row] for row in rows]
        belongs = [
            await _by_row(db, table, kind.row, order, ids) for table, order in kind.belongs.items()
        ]
        for row, number in zip(map(with_quantity, rows), ids, strict=True):
            place = HistoryPlace(row[kind.hour], is_stranded=kind is STRANDED, row=number)
            entry = kind.entry_of(row, *(found.get(number, ()) for found in belongs))
            entries.append((place, entry))
    return page_of(entries, query, limit)


async def _rows(
    db: Database, kind: Kind, query: HistoryQuery, after: HistoryPlace, limit: int
) -> Sequence[Row]:
    page = Page.of(kind, query, after, limit)
    statement = _page_by_key(kind, page) if query.is_of_customer else _page_by_time(kind, page)
    return await db.fetch(statement, *page.values)


def _page_by_time(kind: Kind, page: Page) -> Dialects:
    return both(f"""
        SELECT {kind.table}.*, {KEY_MEMBERS} FROM marketplace_metering.{kind.table}
        {{join}} marketplace_metering.usage_key ON usage_key.key_id = {kind.table}.key_id
        WHERE {page.where} {page.members} ORDER BY {page.order} LIMIT $1
    """)


def _page_by_key(kind: Kind, page: Page) -> Dialects:
    """Of each key no more than may be on the page."""
    table, row = kind.table, kind.row
    return Dialects(
        sqlite=f"""
        SELECT {table}.*, {KEY_MEMBERS} FROM usage_key CROSS JOIN {table} ON {table}.{row} IN (
            SELECT {row} FROM {table} WHERE {table}.key_id = usage_key.key_id AND {page.where}
            ORDER BY {page.order} LIMIT $1)
        WHERE true {page.members} ORDER BY {page.order} LIMIT $1
        """,
        postgresql=f"""
        SELECT {table}.*, {KEY_MEMBERS}
        FROM marketplace_metering.usage_key CROSS JOIN LATERAL (
            SELECT * FROM marketplace_metering.{table}
            WHERE {table}.key_id = usage_key.key_id AND {page.where}
            ORDER BY {page.order} LIMIT $1
        ) AS {table}
        WHERE true {page.members} ORDER BY {page.order} LIMIT $1
        """,
    )


async def _by_row(
    db: Database, table: str, column: str, order: str, ids: Sequence[int]
) -> Mapping[int, Sequence[Row]]:
    statement = both(
        f"SELECT * FROM marketplace_metering.{table} WHERE {column} IN ({{rows}}) ORDER BY {order}"
    )
    found: dict[int, list[Row]] = {}
    for row in await db.fetch(statement, ids):
        found.setdefault(row[column], []).append(row)
    return found


async def dump(
    db: Database, table: str, after: tuple[Any, ...] | None, limit: int
) -> Sequence[Mapping[str, Any]]:
    """Return the next rows of a table *after* a key, in the order of its key."""
    key = ", ".join(TABLES[table].key)
    numbers = ", ".join(f"${number}" for number, _ in enumerate(TABLES[table].key, 2))
    place = "" if after is None else f"WHERE ({key}) > ({numbers})"
    rows_of = KEPT_SUMS if table == "kept_sum" else both(f"marketplace_metering.{table}")
    statement = Dialects(
        *(f"SELECT * FROM {name} {place} ORDER BY {key} LIMIT $1" for name in rows_of)
    )
    return [with_quantity(row) for row in await db.fetch(statement, limit, *(after or ()))]


async def prune(db: Database, before: int, limit: int) -> int:
    """Remove some hours decided before *before*, but for their sums; return how many."""
    old = await db.fetch(OLD_HOURS, before, limit)
    await _remove(db, HOURS, [row["hour_id"] for row in old])
    sums = Sums()
    for row in old:
        sums.add(key_of(row["name"]).summed_under(row["license_product"]), row["state"], 0, -1)
    await db.keep_sums(sums.changes())
    return len(old)


async def old_stranded(db: Database, before: int) -> list[int]:
    """Return rows of usage that no hour carries, decided before *before*; see Store."""
    return sorted(row["stranded_id"] for row in await db.fetch(OLD_STRANDED, before))


async def prune_stranded(db: Database, rows: Sequence[int], before: int) -> int:
    """Remove what is decided among *rows*, but for its sums; see Store."""
    old = [row["stranded_id"] for row in await db.fetch(STILL_OLD, rows, before)]
    await _remove(db, STRANDED, old)
    return len(old)


async def _remove(db: Database, kind: Kind, ids: Sequence[int]) -> None:
    for table in (*kind.belongs, kind.table):
        await db.fetch(
            both(f"DELETE FROM marketplace_metering.{table} WHERE {kind.row} IN ({{rows}})"), ids
        )


async def prune_events(db: Database, before: int, now: int, limit: int) -> int:
    """
    See Store.

    Usage of before the latest one that is forgotten is refused from then on: whatever a clock
    that is ahead says, that is no time to come.
    """
    forgotten = [added_at for (added_at,) in await db.fetch(FORGET, before, now, limit)]
    if forgotten:
        await db.fetch(FORGOTTEN, max(forgotten) + 1)
    return len(forgotten)
