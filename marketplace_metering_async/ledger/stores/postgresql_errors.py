"""What an error of PostgreSQL, or of the way to it, says of a transaction."""

from typing import Any, Final

from marketplace_metering_async.errors import (
    LedgerError,
    LedgerOutcomeUnknownError,
    UsageRefusedError,
)

_LEFT_IN_DOUBT: Final = frozenset({"08", "57", "58", "XX"})
"""Classes of SQLSTATE that may come though a COMMIT took place: lost, shut down, broken inside."""

_OF_A_ROW: Final = frozenset({"22", "23", "54"})
"""Those of what is in a row: no such value, against a constraint, too large."""

_PASSING: Final = frozenset({"08", "40", "57", "23505", "25006", "53300"})
"""
Classes of SQLSTATE and single ones: of a connection that is lost, or never was; of another
transaction that was met; of a server that is shut down or not up yet; of a row that another one was
first with, which is seen the next time; of a standby, which others have replaced; of too many
connections.
"""

_CANCELED: Final = "57014"
"""Such as by the server's statement_timeout: it has done nothing."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
_OTHERS: Final = "others have locked what the ledger needs (pg_stat_activity names them)"


def text_of(error: BaseException) -> str:
    """Return what an error says: of a server's but the message, for its details show the row."""
    if isinstance(error, TimeoutError):
        return f"no answer in time: the server cannot be reached, or {_OTHERS}"
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return f"{_OTHERS}: {text}" if _state_of(error) == _LOCK_NOT_AVAILABLE else text


def errors_of(pg: Any) -> tuple[type[BaseException], ...]:  # noqa: ANN401 - asyncpg, an extra's
    """Return all that asyncpg and the network raise."""
    return (OSError, pg.PostgresError, pg.InterfaceError, pg.InternalClientError)


def first_of(error: BaseException, pg: Any) -> BaseException:  # noqa: ANN401
    """Return what came first: a lost connection cannot be rolled back, which says nothing."""
    while isinstance(error, pg.InterfaceError) and isinstance(error.__context__, errors_of(pg)):
        error = error.__context__
    return error


def is_passing(error: BaseException, pg: Any) -> bool:  # noqa: ANN401
    """Whether another try may succeed."""
    if isinstance(error, pg.InterfaceError) and isinstance(error, ValueError):
        return False  # a value that cannot be sent
    if isinstance(error, pg.InvalidCachedStatementError):  # of before an upgrade; prepared anew
        return True
    state = _state_of(error)
    return state != _CANCELED and (state[:2] in _PASSING or state in _PASSING)


def is_otherwise(error: BaseException, pg: Any) -> bool:  # noqa: ANN401
    """Whether a statement has divided by 0, or found a row, for not all was as expected."""
    return isinstance(error, (pg.DivisionByZeroError, pg.UniqueViolationError))


def is_of_a_parameter(error: BaseException, pg: Any) -> bool:  # noqa: ANN401
    """Whether the server, or a pooler, does not know what a URL has sent it."""
    if isinstance(error, pg.ProtocolViolationError):  # a pooler's for all that it refuses
        return "startup parameter" in str(error)
    return isinstance(error, pg.UndefinedObjectError)


def _state_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error; that of a lost connection where the server said nothing."""
    return getattr(error, "sqlstate", None) or "08000"


def names_no_value(error: LedgerError) -> bool:
    """Whether the database has no such values as it was asked for, so that none can be there."""
    return error.__cause__ is not None and _state_of(error.__cause__)[:2] == "22"


def was_kept_waiting(error: LedgerError) -> bool:
    """Whether others took longer than a transaction's patience, and nothing was stored."""
    cause = error.__cause__
    if cause is None or isinstance(error, LedgerOutcomeUnknownError):
        return False
    return _state_of(cause) == _LOCK_NOT_AVAILABLE


def may_be_committed(error: BaseException) -> bool:
    """Whether a COMMIT that ended with *error* may have taken place all the same."""
    state = _state_of(error)
    return state[:2] in _LEFT_IN_DOUBT and state != _CANCELED


def failed(error: BaseException, *, in_doubt: bool = False) -> LedgerError:
    """Return the ledger's word for an error: what is unknown *in_doubt*, and what is certain."""
    if in_doubt:
        return LedgerOutcomeUnknownError(
            f"PostgreSQL: {text_of(error)}; it went away at the commit, and whether this was "
            "stored is unknown"
        )
    kind = UsageRefusedError if _state_of(error)[:2] in _OF_A_ROW else LedgerError
    return kind(f"PostgreSQL: {text_of(error)}; nothing was stored")
