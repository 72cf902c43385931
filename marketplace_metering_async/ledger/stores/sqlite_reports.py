"""What is in a ledger in SQLite: figures, the story of every hour, and what may be forgotten."""

import json
from collections.abc import Mapping, Sequence
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
from marketplace_metering_async.ledger.stores.sqlite_adding import keep_sums
from marketplace_metering_async.ledger.stores.sqlite_file import Connection
from marketplace_metering_async.ledger.stores.tables import TABLES
from marketplace_metering_async.ledger.sums import Sum, Sums
from marketplace_metering_async.quantities import MILLION

TIMES: Final = """
    SELECT (SELECT MAX(lease_until) FROM hour WHERE lease_until IS NOT NULL) AS claimed_until,
           (SELECT MIN(not_before) FROM hour WHERE state = 'frozen' AND lease_until IS NULL)
               AS next_send,
           (SELECT MIN(seal_at) FROM hour WHERE state = 'open') AS next_seal,
           (SELECT COUNT(*) FROM hour WHERE state = 'open' AND seal_at <
               60 + (SELECT MIN(seal_at) FROM hour WHERE state = 'open')) AS hours_at_next_seal
"""
OLDEST: Final = """
    SELECT hour FROM hour WHERE state IN ('open', 'frozen') AND quantity > 0 ORDER BY hour LIMIT 1
"""
TOTAL: Final = (
    f"SELECT COALESCE(SUM(quantity / {MILLION}), 0), COALESCE(SUM(quantity % {MILLION}), 0) "
    "FROM hour"
)
BY_TIME: Final = f"""
    SELECT {{table}}.*, {KEY_MEMBERS} FROM {{table}}
    CROSS JOIN usage_key ON usage_key.key_id = {{table}}.key_id
    WHERE {{where}} {{members}} ORDER BY {{order}} LIMIT ?
"""
"""SQLite has a CROSS JOIN begin with the table that is named first."""
BY_KEY: Final = f"""
    SELECT {{table}}.*, {KEY_MEMBERS} FROM usage_key
    CROSS JOIN {{table}} ON {{table}}.{{row}} IN (
        SELECT {{row}} FROM {{table}} WHERE {{table}}.key_id = usage_key.key_id AND {{where}}
        ORDER BY {{order}} LIMIT ?)
    WHERE true {{members}} ORDER BY {{order}} LIMIT ?
"""
"""Of each key no more than may be on the page."""
FORGET: Final = """
    DELETE FROM event WHERE event_id IN (
        SELECT event_id FROM event WHERE added_at < ? ORDER BY added_at LIMIT ?)
"""


def figures(db: Connection, ledger: Identity, now: int) -> Figures:
    """Return the figures of the whole ledger."""
    found = db.execute(OLDEST).fetchone()
    oldest = None if found is None else found["hour"]
    (first_stamp,) = db.execute(
        "SELECT MIN(stamp) FROM hour "
        "WHERE state IN ('open', 'frozen') AND quantity > 0 AND hour = ?",
        (oldest,),
    ).fetchone()
    at_risk = db.execute(
        f"{TOTAL} WHERE state IN ('open', 'frozen') AND hour <= ? "
        "AND (COALESCE(sealed_at, seal_at) <= ? OR stamp <= ?)",
        AtRisk.at(now),
    ).fetchone()
    in_flight = db.execute(f"{TOTAL} WHERE lease_until IS NOT NULL").fetchone()
    return Figures(
        ledger=ledger,
        sums=[
            Sum(product, dimension, state, _joined(units, millionths), records, latest)
            for product, dimension, state, units, millionths, records, latest in db.execute(
                "SELECT product_code, dimension, state, units, millionths, records, latest "
                "FROM kept_sum"
            )
        ],
        oldest_hour=oldest,
        first_stamp=first_stamp,
        at_risk=_joined(*at_risk),
        in_flight=_joined(*in_flight),
        **db.execute(TIMES).fetchone(),
    )


def _joined(units: int, millionths: int) -> int:
    return units * MILLION + millionths


def history(
    db: Connection, query: HistoryQuery, after: HistoryPlace, limit: int
) -> list[tuple[HistoryPlace, HistoryEntry]]:
    """Return the next entries *after* a place, with their places, in order."""
    hours = _rows(db, HOURS, query, after, limit)
    ids = json.dumps([row["hour_id"] for row in hours])
    entries = entries_of(
        hours,
        _by_hour(db, "carried", "origin", ids),
        _by_hour(db, "attempt", "fence", ids),
        _by_hour(db, "resolution", "resolution_id", ids),
    )
    stranded = _rows(db, STRANDED, query, after, limit)
    ids = json.dumps([row["stranded_id"] for row in stranded])
    entries += stranded_entries_of(
        map(_with_quantity, stranded),
        _by_hour(db, "resolution", "resolution_id", ids, "stranded_id"),
    )
    return page_of(entries, query, limit)


def _rows(
    db: Connection, kind: Kind, query: HistoryQuery, after: HistoryPlace, limit: int
) -> list[Any]:
    page = Page.of(kind, query, after)
    given = {"where": page.where, "members": page.members, "order": page.order}
    if query.is_of_customer:
        statement, values = BY_KEY, [*page.values, limit, *page.member_values, limit]
    else:
        statement, values = BY_TIME, [*page.values, *page.member_values, limit]
    statement = statement.format(table=kind.table, row=kind.row, **given)
    rows: list[Any] = db.execute(statement, values).fetchall()
    return rows


def _by_hour(
    db: Connection, table: str, order: str, ids: str, column: str = "hour_id"
) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in db.execute(
        f"SELECT * FROM {table} WHERE {column} IN (SELECT value FROM json_each(?)) "
        f"ORDER BY {order}",
        (ids,),
    ):
        found.setdefault(row[column], []).append(row)
    return found


def _with_quantity(row: Any) -> dict[str, Any]:  # noqa: ANN401
    found = dict(row)
    return found | {"quantity": _joined(found.pop("units"), found.pop("millionths"))}


def prune(db: Connection, before: int, limit: int) -> int:
    """Remove some hours settled before *before*, but for their sums; return how many."""
    old = db.execute(
        "SELECT hour.hour_id, hour.state, usage_key.name, usage_key.license_product FROM hour "
        "JOIN usage_key ON usage_key.key_id = hour.key_id "
        "WHERE hour.settled_at < ? ORDER BY hour.settled_at LIMIT ?",
        (before, limit),
    ).fetchall()
    sums = Sums()
    for row in old:
        sums.add(key_of(row["name"]).summed_under(row["license_product"]), row["state"], 0, -1)
    keep_sums(db, sums.changes())
    for table in ("attempt", "carried", "resolution", "hour"):
        db.executemany(f"DELETE FROM {table} WHERE hour_id = ?", [(row["hour_id"],) for row in old])
    return len(old)


def prune_events(db: Connection, before: int, limit: int) -> int:
    """Forget some ids of events that were added before *before*; return how many."""
    db.execute("UPDATE ledger SET event_ids_since = max(event_ids_since, ?)", (before,))
    forgotten: int = db.execute(FORGET, (before, limit)).rowcount
    return forgotten


def dump(
    db: Connection,
    table: str,
    after: tuple[Any, ...] | None,
    limit: int,
) -> Sequence[Mapping[str, Any]]:
    """Return the next rows of a table *after* a key, in the order of its key."""
    key = ", ".join(TABLES[table].key)
    place = "" if after is None else f"WHERE ({key}) > ({', '.join('?' for _ in after)})"
    rows = db.execute(
        f"SELECT * FROM {table} {place} ORDER BY {key} LIMIT ?", (*(after or ()), limit)
    )
    return [_with_quantity(row) if "units" in row.keys() else dict(row) for row in rows]  # noqa: SIM118
