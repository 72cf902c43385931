"""A whole ledger from one database to another: every row as it is, the digests among them."""

from collections.abc import Sequence
from typing import Any, Final

from marketplace_metering_async.errors import LedgerUnusableError
from marketplace_metering_async.ledger.identity import require_here
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

    The source is closed to usage before it is copied, so that the copy lacks nothing. Where nothing
    is copied in the end, the source is opened again.

    Raises:
        LedgerUnusableError: the target is not new, or the source is none that may move.
        LedgerError: a database cannot be used. If even the source cannot be opened again, it stays
            closed until it is moved once more.
    """
    try:
        return await target.run(lambda tx: _take(tx, source), once=True)
    except BaseException:
        await target.run(lambda tx: _give_back(tx, source))
        raise


async def _take(tx: Transaction, source: Database) -> int:
    own = await _alone(tx)
    if await _has_usage(tx):
        raise LedgerUnusableError("only a new ledger can take over another one")
    old = await source.run(lambda old: _retire(old, own["ledger_id"]))
    columns = ("region_name", "host", "guarded_since", "last_success_at")
    await tx.rows(
        f"UPDATE ledger SET {', '.join(f'{column} = :{column}' for column in columns)}",
        **{column: old[column] for column in columns},
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


async def _give_back(tx: Transaction, source: Database) -> None:
    """Open the source again, unless this ledger has taken it over after all."""
    own = await _alone(tx)
    if not await _has_usage(tx):
        undo = "UPDATE ledger SET moved_to = NULL WHERE moved_to = :name"
        await source.run(lambda old: old.rows(undo, name=_name_of(own["ledger_id"])))


async def _alone(tx: Transaction) -> Row:
    """Return the ledger's row, once nobody else adds or moves into it, even in doubt."""
    await tx.rows("LOCK TABLE marketplace_metering.usage_key IN EXCLUSIVE MODE")
    return await require_here(tx)


async def _has_usage(tx: Transaction) -> bool:
    return bool(await tx.rows("SELECT 1 AS one FROM usage_key LIMIT 1"))


async def _retire(tx: Transaction, new: str) -> Row:
    """Close the old ledger to usage and relays; return its row."""
    found = await tx.rows("SELECT * FROM ledger")
    if not found:
        raise LedgerUnusableError("there is no ledger at the URL of the old one")
    (ledger,) = found
    if ledger["ledger_id"] == new:
        raise LedgerUnusableError("name another ledger: one cannot take over itself")
    if ledger["moved_to"] not in (None, _name_of(new)):
        raise LedgerUnusableError(f"the old ledger has moved to {ledger['moved_to']} already")
    await tx.rows("UPDATE ledger SET moved_to = :name", name=_name_of(new))
    await tx.rows("UPDATE hour SET lease_until = NULL, ambiguous = 1 WHERE lease_until IS NOT NULL")
    return ledger


def _name_of(ledger_id: str) -> str:
    return f"ledger {ledger_id}"


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
