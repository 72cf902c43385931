"""A whole ledger from one database to another: every row as it is, the digests among them."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.errors import LedgerUnusableError
from marketplace_metering_async.ledger.sql import Database, Row, Transaction

_TABLES: Final = {
    "usage_key": ("key_id",),
    "closed_customer": (
        "product_code",
        "customer_aws_account_id",
        "customer_identifier",
        "license_arn",
    ),
    "event": ("event_id",),
    "hour": ("hour_id",),
    "carried": ("hour_id", "origin"),
    "stranded": ("stranded_id",),
    "attempt": ("hour_id", "fence"),
    "pruned": ("product_code", "dimension", "state"),
}
"""Each table, and what its rows go by; in the order in which one refers to another."""
_NUMBERED: Final = {"usage_key": "key_id", "hour": "hour_id", "stranded": "stranded_id"}
_PAGE: Final = 2_000


async def move(source: Database, target: Database) -> int:
    """
    Move everything, in one transaction of the *target*; return how many hours there were.

    The source is closed to usage first, so that nothing is added which the copy would lack.
    """
    (own,) = await target.read(lambda tx: tx.rows("SELECT ledger_id FROM ledger"))
    await source.run(lambda tx: _retire(tx, own["ledger_id"]))

    async def copy(tx: Transaction) -> int:
        (held,) = await tx.rows("SELECT COUNT(*) AS keys FROM usage_key")
        if held["keys"]:
            raise LedgerUnusableError("only a new ledger can take over another one")
        (old,) = await source.read(lambda old: old.rows("SELECT * FROM ledger"))
        await tx.rows(
            "UPDATE ledger SET region_name = :region_name, host = :host, "
            "guarded_since = :guarded_since, last_success_at = :last_success_at",
            **{
                name: old[name]
                for name in ("region_name", "host", "guarded_since", "last_success_at")
            },
        )
        hours = 0
        for table in _TABLES:
            copied = await _copy(source, tx, table)
            hours += copied if table == "hour" else 0
        for table, column in _NUMBERED.items():
            await tx.rows(
                f"SELECT setval(pg_get_serial_sequence('marketplace_metering.{table}', "
                f"'{column}'), GREATEST(1, (SELECT MAX({column}) FROM {table})))"
            )
        return hours

    return await target.run(copy)


async def _retire(tx: Transaction, new: str) -> None:
    (ledger,) = await tx.rows("SELECT moved_to FROM ledger")
    name = f"ledger {new}"
    if ledger["moved_to"] not in (None, name):
        raise LedgerUnusableError(f"the old ledger has moved to {ledger['moved_to']} already")
    await tx.rows("UPDATE ledger SET moved_to = :name", name=name)
    await tx.rows("UPDATE hour SET lease_until = NULL, ambiguous = 1 WHERE lease_until IS NOT NULL")


async def _copy(source: Database, tx: Transaction, table: str) -> int:
    order = ", ".join(_TABLES[table])
    copied = 0
    while rows := await _page(source, table, order, copied):
        columns = list(rows[0].keys())
        names, values = ", ".join(columns), ", ".join(f":{column}" for column in columns)
        await tx.many(f"INSERT INTO {table} ({names}) VALUES ({values})", [dict(r) for r in rows])
        copied += len(rows)
    return copied


async def _page(source: Database, table: str, order: str, offset: int) -> Sequence[Row]:
    async def read(tx: Transaction) -> Sequence[Row]:
        parameters: dict[str, Any] = {"limit": _PAGE, "offset": offset}
        return await tx.rows(
            f"SELECT * FROM {table} ORDER BY {order} LIMIT :limit OFFSET :offset", **parameters
        )

    return await source.read(read)
