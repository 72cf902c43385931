"""
The first statement of a transaction in PostgreSQL: durable, and done once by a note of its own.

It says all that whoever runs it has to know of the ledger before anything is changed.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from attrs import frozen

from marketplace_metering_async.ledger.stores.database import Verb

T = TypeVar("T")

Connection = Any
"""asyncpg's, pooled or not, whose types come with an extra."""

_DURABLE: Final = """
    CASE WHEN current_setting('synchronous_commit') <> 'remote_apply'
         THEN set_config('synchronous_commit', 'on', true) END
"""
"""For the transaction alone; remote_apply waits for even more."""
_OWN_COMMIT: Final = f"{_DURABLE}, set_config('client_min_messages', 'warning', true)"
"""Also says where somebody breaks off its wait for a standby."""
_ENDS_SOON: Final = """
    CASE WHEN current_setting('idle_in_transaction_session_timeout')::interval
              NOT BETWEEN interval '1ms' AND interval '30s'
         THEN set_config('idle_in_transaction_session_timeout', '30s', true) END
"""
"""A transaction whose client is gone holds its locks, and its COMMIT in doubt, no longer."""
_USABLE: Final = """
    (SELECT moved_to FROM marketplace_metering.ledger) AS moved_to,
    (SELECT min_compatible FROM marketplace_metering.ledger) AS min_compatible,
    (SELECT claims FROM marketplace_metering.ledger) AS claims
"""
LEDGER_ID: Final = "(SELECT ledger_id FROM marketplace_metering.ledger) AS ledger_id"
CLOCK: Final = "EXTRACT(EPOCH FROM clock_timestamp())::double precision AS clock"
_PATIENT: Final = "CASE WHEN $1::text <> '' THEN set_config('lock_timeout', $1, true) END"
BEGIN: Final = f"SELECT {_USABLE}, {CLOCK}, {_OWN_COMMIT}, {_ENDS_SOON}, {_PATIENT}"
BEGIN_ONCE: Final = f"""
    WITH previous AS (
        DELETE FROM marketplace_metering.posting
        WHERE posting_id IN (SELECT pg_catalog.unnest($3::text[]))
        RETURNING posting_id)
    INSERT INTO marketplace_metering.posting (posting_id) VALUES ($2) ON CONFLICT DO NOTHING
    RETURNING posted_at, EXISTS (SELECT 1 FROM previous) AS note_found, {_USABLE}, {CLOCK},
        {_OWN_COMMIT}, {_ENDS_SOON}, {_PATIENT}
"""
"""Waits for an earlier try that is still on its way, and returns no row where it took place."""
LANDED: Final = f"""
    UPDATE marketplace_metering.posting SET posted_at = posted_at WHERE posting_id = $1
    RETURNING posted_at, (SELECT claims FROM marketplace_metering.ledger) AS claims, {_OWN_COMMIT}
"""
"""
What an earlier try left. That may be on this server's disk alone: a commit that is to wait for a
standby is there before it waits. What is written now waits for all that was written before.
"""
BEGIN_ON: Final = f"""
    SELECT EXISTS (SELECT 1 FROM marketplace_metering.posting
                   WHERE posting_id IN (SELECT pg_catalog.unnest($1::text[]))) AS note_found,
        current_setting('transaction_isolation') = 'read committed' AS sees_all,
        {_USABLE}, {LEDGER_ID}, {_DURABLE}
"""
AT_ONCE: Final = f"""
    WITH previous AS (
        DELETE FROM marketplace_metering.posting
        WHERE posting_id IN (SELECT pg_catalog.unnest($2::text[]))
        RETURNING posting_id),
    note AS (
        INSERT INTO marketplace_metering.posting (posting_id) VALUES ($1) RETURNING posted_at),
    {{parts}}
    SELECT {CLOCK}, {_OWN_COMMIT}, {_ENDS_SOON},
        {_PATIENT.replace("$1", "$3")},
        1 / CASE
            WHEN moved_to IS NOT NULL OR coalesce(min_compatible > $4 OR claims < $5, true) THEN 0
            WHEN pg_catalog.cardinality($2::text[]) > 0
                AND NOT EXISTS (SELECT 1 FROM previous) THEN 0
            {{unless}}
            ELSE 1 END,
        (SELECT posted_at FROM note), true AS note_found, moved_to, min_compatible, claims
    FROM (SELECT) AS always LEFT JOIN marketplace_metering.ledger ON true
"""
"""
A whole transaction or its beginning, with a note: it divides by 0, and has done nothing then,
unless all is as whoever runs it expects. Its parts run in the order in which they are counted; they
would even if the ledger's own row was missing, and nothing was left to divide.
"""
OWN_VALUES: Final = 5
"""How many of the values of such a statement are not its parts'."""


@frozen
class AtOnce(Generic[T]):
    """
    What an operation does, in one statement or after one, if all is as is to be expected.

    Attributes:
        statement: AT_ONCE with its parts.
        values: Of the parts.
        rest: What is left to do, which returns what the operation does.
        is_all: Whether that asks nothing of the database.
    """

    statement: str
    values: Sequence[Any]
    rest: Verb[T]
    is_all: bool
