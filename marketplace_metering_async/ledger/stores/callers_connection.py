"""The connection under what a caller gives: asyncpg's own, or SQLAlchemy's over it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from marketplace_metering_async.errors import LedgerError, LedgerOutcomeUnknownError
from marketplace_metering_async.ledger.stores.postgresql_errors import failed, text_of

_SECONDS: Final = 60.0
"""For which a cancelled caller waits for one statement at most: it may be a server that is gone."""
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


@asynccontextmanager
async def savepoint(connection: Any, asyncpg: Any) -> AsyncIterator[None]:  # noqa: ANN401
    """
    Take back what is done on *connection* within, and fails; its transaction goes on.

    Raises:
        LedgerOutcomeUnknownError: it cannot be taken back.
    """
    cancelled = await _whole(connection, "SAVEPOINT marketplace_metering")
    try:
        if cancelled is not None:
            raise cancelled  # noqa: TRY301 - and is taken back
        yield
        cancelled = await _whole(connection, "RELEASE SAVEPOINT marketplace_metering")
    except BaseException as error:
        if not await _taken_back(connection, asyncpg) and isinstance(error, Exception):
            raise LedgerOutcomeUnknownError(
                "connection: roll back its transaction, and await each call before the next: "
                "something else was asked on it meanwhile, and whether this was stored is unknown "
                f"({text_of(error)})"
            ) from error
        raise
    if cancelled is not None:  # too late: it is stored
        raise cancelled


async def _taken_back(connection: Any, asyncpg: Any) -> bool:  # noqa: ANN401
    """Return whether nothing is left of what was done since the savepoint."""
    try:
        cancelled = await _whole(
            connection,
            "ROLLBACK TO SAVEPOINT marketplace_metering; RELEASE SAVEPOINT marketplace_metering",
        )
    except (asyncpg.InterfaceError, asyncpg.InternalClientError):  # it has not left
        return bool(connection.is_closed())
    except (OSError, asyncpg.PostgresError):  # the whole transaction cannot be committed any more
        return True
    if cancelled is not None:
        raise cancelled
    return True


async def _whole(connection: Any, statement: str) -> asyncio.CancelledError | None:  # noqa: ANN401
    """
    Let a *statement* end, within a minute, and return what has cancelled the caller meanwhile.

    Broken off, it would leave a transaction that has failed, or one whose savepoint nobody knows
    of; and what fails commits nothing, which neither the server nor a driver calls an error.
    """
    executing = asyncio.ensure_future(connection.execute(statement, timeout=_SECONDS))
    cancelled = None
    while not executing.done():
        try:
            await asyncio.wait((executing,))
        except asyncio.CancelledError as error:  # and maybe once more
            cancelled = error
    executing.result()
    return cancelled
