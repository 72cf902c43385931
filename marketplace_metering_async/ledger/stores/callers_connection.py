"""The connection under what a caller gives: asyncpg's own, or SQLAlchemy's over it."""

import sys
from typing import Any

from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.ledger.stores.postgresql_errors import failed

_NO_TRANSACTION = (
    "connection: begin a transaction on it first, of which usage is to be a part, such as "
    "`async with connection.transaction()` with asyncpg, `engine.begin()` or `session.begin()` "
    "with SQLAlchemy; nothing was stored"
)
_OTHER_KIND = (
    "connection: expected asyncpg's Connection, or SQLAlchemy's AsyncConnection or AsyncSession "
    "over asyncpg, got {}; nothing was stored"
)


async def connection_under(given: object, asyncpg: Any) -> Any:  # noqa: ANN401 - an extra's
    """
    Return asyncpg's connection under *given*, on which a transaction has begun.

    SQLAlchemy says that it has begun one, and does so with the first statement: that is ours then.

    Raises:
        LedgerError: it is another kind of connection, in no transaction, or of no use any more.
    """
    connection: Any = given
    if "sqlalchemy.ext.asyncio" in sys.modules:  # it is imported, if *given* is one of its
        try:
            connection = await _under_sqlalchemy(connection, sys.modules["sqlalchemy.ext.asyncio"])
        except sys.modules["sqlalchemy.exc"].SQLAlchemyError as error:
            raise failed(getattr(error, "orig", None) or error) from error
    if not isinstance(connection, asyncpg.Connection):
        kind = type(connection)
        raise LedgerError(_OTHER_KIND.format(f"{kind.__module__}.{kind.__qualname__}"))
    _require(connection.is_in_transaction())
    return connection


async def _under_sqlalchemy(connection: Any, sqlalchemy: Any) -> Any:  # noqa: ANN401
    if isinstance(connection, (sqlalchemy.AsyncSession, sqlalchemy.async_scoped_session)):
        _require(connection.in_transaction())
        connection = await connection.connection()
    if isinstance(connection, sqlalchemy.AsyncConnection):
        _require(connection.in_transaction())
        if connection.dialect.driver == "asyncpg":
            await connection.exec_driver_sql("SELECT 1")
            connection = (await connection.get_raw_connection()).driver_connection
    return connection


def _require(in_transaction: object) -> None:
    if not in_transaction:
        raise LedgerError(_NO_TRANSACTION)
