"""A large ledger in PostgreSQL, made by a script; and what its verbs read of it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import patch

from attrs import field, frozen

from marketplace_metering_async.ledger.stores.database import Statement
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase

GROWING = (
    "usage_key", "customer", "event", "hour", "carried", "stranded", "attempt", "resolution",
)  # fmt: skip
"""The tables that have more rows the longer a ledger is used."""
PRODUCT = "product"
_DIMENSIONS = 4
"""Of each account."""
_SLOW = ("hour_by_time", "hour_settled", "event_by_age", "stranded_by_time")
"""Indexes that are sooner made of all rows than with each."""

_KEYS = f"""
    INSERT INTO usage_key (key_id, name, product_code, customer_aws_account_id,
        customer_identifier, license_arn, dimension, license_product, billed_as)
    SELECT abs(hashtextextended(n::text, 0) >> 2),
        '["{PRODUCT}", "' || account || '", "", "", "' || dimension || '"]', '{PRODUCT}',
        account, '', '', dimension, '',
        '["{PRODUCT}", "' || account || '", "' || dimension || '"]'
    FROM (SELECT n, lpad((n / {_DIMENSIONS})::text, 12, '0') AS account,
                 'dimension-' || n %% {_DIMENSIONS} AS dimension
          FROM generate_series(0, %(keys)s - 1) AS n) AS made ORDER BY n
"""
_CUSTOMERS = """
    INSERT INTO customer (product_code, customer_aws_account_id, customer_identifier, license_arn)
    SELECT DISTINCT product_code, customer_aws_account_id, '', '' FROM usage_key
"""
_HOURS = """
    INSERT INTO hour (key_id, hour, state, quantity, events, stamp, opened_at, seal_at, sealed_at,
        deadline, region_name, member, digest, fence, attempts, settled_at, metering_record_id,
        reason)
    SELECT key_id, at, state, 5000000, 2, at + 3590, at, at + 4200,
        CASE WHEN settled THEN at + 4200 END, CASE WHEN settled THEN at + 90000 END,
        CASE WHEN settled THEN 'us-east-1' END, CASE WHEN settled THEN 'Quantity' END,
        CASE WHEN settled THEN decode(md5(at::text), 'hex') END, settled::int, settled::int,
        CASE WHEN settled THEN at + 4260 END,
        CASE WHEN state = 'metered' THEN gen_random_uuid()::text END,
        CASE WHEN state = 'written_off' THEN 'DuplicateRecord' END
    FROM (SELECT key_id, %(hour)s - CASE WHEN ago > 0 THEN 172800 + ago * 3600 ELSE 0 END AS at,
                 ago > 0 AS settled,
                 CASE WHEN ago = 0 THEN 'open'
                      WHEN (key_id + ago) %% %(ended_each)s = 0 THEN 'written_off'
                      ELSE 'metered' END AS state
          FROM generate_series(%(ago)s - 1, 0, -1) AS ago, usage_key) AS made
    ORDER BY at, key_id
"""
_ATTEMPTS = """
    INSERT INTO attempt (hour_id, fence, at, status, error, request_id, metering_record_id)
    SELECT hour_id, 1, settled_at,
        CASE WHEN state = 'metered' THEN 'Success' ELSE 'DuplicateRecord' END, reason,
        gen_random_uuid()::text, metering_record_id
    FROM hour WHERE settled_at IS NOT NULL ORDER BY hour_id
"""
_CARRIED = """
    INSERT INTO carried (hour_id, origin, quantity, events)
    SELECT hour_id, hour - 3600, 1000000, 1 FROM hour WHERE hour_id %% 20 = 0 ORDER BY hour_id
"""
_STRANDED = """
    INSERT INTO stranded (key_id, origin, state, quantity, events, since)
    SELECT key_id, hour - 40 * 86400, 'written_off', 1000000, 1, hour FROM hour
    WHERE hour_id %% %(ended_each)s = 0 ORDER BY hour_id
"""
_RESOLUTIONS = """
    INSERT INTO resolution (hour_id, at, before, after, note)
    SELECT hour_id, hour + 7200, 'unconfirmed', 'metered', 'seen in CloudTrail' FROM hour
    WHERE hour_id %% 100 = 0 AND state = 'metered' ORDER BY hour_id
"""
_EVENTS = """
    INSERT INTO event (event_id, digest, added_at)
    SELECT gen_random_uuid()::text, decode(md5(n::text), 'hex'),
           %(hour)s - %(ago)s * 3600 + n * (%(ago)s * 3600) / %(ids)s
    FROM generate_series(0, %(ids)s - 1) AS n
"""
_SUMS = """
    INSERT INTO kept_sum (product_code, dimension, state, shard, quantity, records, latest)
    WITH added AS (
        SELECT dimension, state, quantity, 1 AS records, 0 AS latest FROM hour JOIN usage_key
            USING (key_id)
        UNION ALL SELECT dimension, state, quantity, 0, 0 FROM stranded JOIN usage_key
            USING (key_id))
    SELECT %(product)s, dimension, state, 0, SUM(quantity), SUM(records), MAX(latest)
    FROM added GROUP BY 2, 3
    UNION ALL SELECT %(product)s, dimension, 'recorded', 0, SUM(quantity), 0, %(hour)s
    FROM added GROUP BY 2
"""


@frozen(kw_only=True)
class Size:
    """How much a large ledger has; one hour of `ended_each` has ended unmetered."""

    keys: int
    hours: int
    ids: int
    ended_each: int


async def fill(url: str, size: Size, now: datetime) -> None:
    """
    Give a new ledger in PostgreSQL so much usage.

    The hour of *now* is open; those of two days ago and before are settled.
    """
    import asyncpg  # noqa: PLC0415

    values = {
        "keys": size.keys,
        "hour": f"{int(now.timestamp()) // 3600 * 3600}::bigint",
        "ago": f"{size.hours // size.keys}::bigint",
        "ids": f"{size.ids}::bigint",
        "product": f"'{PRODUCT}'",
        "ended_each": size.ended_each,
    }
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute("SET search_path = marketplace_metering")
        await connection.execute("SET session_replication_role = replica")  # rows refer to rows
        indexes = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE indexname = ANY($1)", _SLOW
        )
        for name, _ in indexes:
            await connection.execute(f"DROP INDEX {name}")
        await connection.execute("ALTER TABLE event DROP CONSTRAINT event_pkey")
        for made in (_KEYS, _CUSTOMERS, _HOURS, _ATTEMPTS, _CARRIED, _STRANDED, _RESOLUTIONS,
                     _EVENTS, _SUMS):  # fmt: skip
            await connection.execute(made % values)
        await connection.execute("ALTER TABLE event ADD PRIMARY KEY (event_id)")
        for _, definition in indexes:
            await connection.execute(definition)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def magnify(url: str, times: int) -> None:
    """Let the server plan as if there were so many times as many rows, until it looks again."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        for table in GROWING:
            name = f"marketplace_metering.{table}"
            await connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = false)")
            await connection.execute(
                "UPDATE pg_class SET reltuples = reltuples * $2 WHERE oid = $1::regclass OR oid IN "
                "(SELECT indexrelid FROM pg_index WHERE indrelid = $1::regclass)",
                name,
                times,
            )
    finally:
        await connection.close()


@frozen
class Reading:
    """
    What the statements of a ledger in PostgreSQL read of tables that grow.

    Attributes:
        rows: The most that one statement read of a table.
        scans: Statements for which the server would read such a table whole, with their plans.
        indexes: By which it would read.
    """

    rows: dict[str, int] = field(factory=dict)
    scans: list[str] = field(factory=list)
    indexes: set[str] = field(factory=set)

    async def look(self, connection: Any, statement: str, values: Sequence[Any]) -> None:
        """Note how a statement would be run."""
        if statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
            nodes = [*_nodes(json.loads(plan)[0]["Plan"])]
            scanned = {
                node["Relation Name"]
                for node in nodes
                if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING
            }
            self.indexes.update(node["Index Name"] for node in nodes if "Index Name" in node)
            if scanned:
                self.scans.append(f"{sorted(scanned)}: {statement}\n{plan}")

    def note(self, before: dict[str, int], after: dict[str, int]) -> None:
        """Note what a statement has read."""
        for table, rows in after.items():
            read = rows - before.get(table, 0)
            self.rows[table] = max(self.rows.get(table, 0), read)


async def _rows_read(connection: Any) -> dict[str, int]:
    """Return how many rows of each table that grows this session has read of late."""
    found = await connection.fetch(
        "SELECT relname, COALESCE(seq_tup_read, 0) + COALESCE(idx_tup_fetch, 0) "
        "FROM pg_stat_xact_user_tables WHERE schemaname = 'marketplace_metering'"
    )
    return {table: rows for table, rows in found if table in GROWING}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


@contextmanager
def reading() -> Iterator[Reading]:
    """Look at each statement of a ledger in PostgreSQL."""
    read = Reading()
    fetch = PostgresDatabase.fetch

    async def looked_at(self: PostgresDatabase, statement: Statement, *values: object) -> Any:
        connection = self._connection
        text = statement if isinstance(statement, str) else statement.postgresql
        await read.look(connection, text, values)
        before = await _rows_read(connection)
        done = await fetch(self, statement, *values)
        read.note(before, await _rows_read(connection))
        return done

    with patch.object(PostgresDatabase, "fetch", looked_at):
        yield read
