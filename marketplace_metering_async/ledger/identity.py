"""Which ledger a database holds: the region it serves, and whether it is a copy of another one."""

from uuid import uuid4

from marketplace_metering_async.errors import LedgerElsewhereError, LedgerUnusableError
from marketplace_metering_async.ledger.sql import Transaction


async def introduce(tx: Transaction, region_name: str | None, mark: str, now: int) -> bool:
    """
    Enter the ledger's one row, or compare with the one that is there.

    *mark* tells one place of a database from another: a ledger that finds a foreign one is a copy,
    such as a restored backup, and is guarded from then on.

    Returns: whether it is guarded.

    Raises:
        LedgerUnusableError: it has moved to another database.
        LedgerElsewhereError: its records go to another region than *region_name*.
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
        return False
    (ledger,) = found
    if ledger["moved_to"] is not None:
        raise LedgerUnusableError(f"this ledger has moved to {ledger['moved_to']}; use that one")
    if region_name is not None and ledger["region_name"] not in (None, region_name):
        raise LedgerElsewhereError(
            f"the ledger's records go to {ledger['region_name']}, not to {region_name}"
        )
    if ledger["mark"] == mark:
        return ledger["guarded_since"] is not None
    await tx.rows("UPDATE ledger SET mark = :mark, guarded_since = :now", mark=mark, now=now)
    return True
