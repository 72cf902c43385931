"""Which ledger a database holds: the region it serves, and whether it is a copy of another one."""

from uuid import uuid4

from marketplace_metering_async.errors import LedgerRegionMismatchError, LedgerUnusableError
from marketplace_metering_async.ledger.sql import Row, Transaction

_COPY = (
    "this ledger is a copy, such as a restored backup: its open hours wait until somebody "
    "adopts it (ledger.adopt_copy(), or `ledger adopt-copy URL`)"
)


async def introduce(tx: Transaction, region_name: str | None, mark: str, now: int) -> str | None:
    """
    Enter the ledger's one row, or compare with the one that is there.

    *mark* tells one place of a database from another: a ledger that finds a foreign one is a copy,
    such as a restored backup, and is guarded from then on. One that has moved can only be read.

    Returns: what a person should know about it; None where there is nothing.

    Raises:
        LedgerRegionMismatchError: its records go to another region than *region_name*.
    """
    found = await tx.rows("SELECT * FROM ledger")
    if not found:
        await tx.rows(
            "INSERT INTO ledger (one, ledger_id, created_at, region_name, mark) "
            "VALUES (1, :ledger_id, :now, :region_name, :mark) ON CONFLICT DO NOTHING",
            ledger_id=str(uuid4()),
            now=now,
            region_name=region_name,
            mark=mark,
        )
        return None
    (ledger,) = found
    if ledger["moved_to"] is not None:
        return f"this ledger has moved to {ledger['moved_to']}; it can only be read"
    if region_name is not None and ledger["region_name"] not in (None, region_name):
        raise LedgerRegionMismatchError(
            f"the ledger's records go to {ledger['region_name']}, not to {region_name}"
        )
    if ledger["mark"] == mark:
        return None if ledger["guarded_since"] is None else _COPY
    await tx.rows("UPDATE ledger SET mark = :mark, guarded_since = :now", mark=mark, now=now)
    return _COPY


async def require_here(tx: Transaction) -> Row:
    """
    Return the ledger's one row, of a ledger that has not moved.

    Raises:
        LedgerUnusableError: it has moved to another database, and can only be read.
    """
    (ledger,) = await tx.rows("SELECT * FROM ledger")
    if ledger["moved_to"] is not None:
        raise LedgerUnusableError(f"this ledger has moved to {ledger['moved_to']}; use that one")
    return ledger
