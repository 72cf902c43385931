"""A transaction of SQLite as the verbs that both stores share know it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from marketplace_metering_async.ledger.model import UsageKey
from marketplace_metering_async.ledger.open_hours import KeyState
from marketplace_metering_async.ledger.posting import Changes, Wanted
from marketplace_metering_async.ledger.stores import sqlite_adding
from marketplace_metering_async.ledger.stores.database import (
    Database,
    Dialects,
    Row,
    Statement,
    Verb,
    without_schema,
)
from marketplace_metering_async.ledger.stores.sqlite_file import Connection
from marketplace_metering_async.ledger.stores.words import no_failure
from marketplace_metering_async.ledger.sums import Sum

T = TypeVar("T")


class SqliteDatabase(Database):
    """See Database; nothing of it waits."""

    def __init__(self, db: Connection) -> None:
        """Run statements on *db*, in a transaction that has begun."""
        self._db = db

    async def fetch(self, statement: Statement, *values: object) -> Sequence[Row]:
        """See Database."""
        text = statement if isinstance(statement, str) else statement.sqlite
        named = {
            str(number): json.dumps(value) if isinstance(value, list | tuple) else value
            for number, value in enumerate(values, 1)
        }
        rows: Sequence[Row] = self._db.execute(without_schema(text), named).fetchall()
        return rows

    async def for_each(self, statement: Dialects, rows: Sequence[Sequence[Any]]) -> None:
        """See Database."""
        self._db.executemany(statement.sqlite, rows)

    async def outside(self, work: Callable[[], T]) -> T:
        """See Database: it has a thread of its own to wait in."""
        return work()

    async def load(self, wanted: Mapping[UsageKey, Wanted]) -> dict[UsageKey, KeyState]:
        """See Database."""
        return sqlite_adding.load(self._db, wanted)

    async def write(self, changes: Changes) -> None:
        """See Database."""
        sqlite_adding.write(self._db, changes, no_failure)

    async def keep_sums(self, changes: Sequence[Sum]) -> None:
        """See Database."""
        sqlite_adding.keep_sums(self._db, changes)


def run(db: Connection, verb: Verb[T]) -> T:
    """Return what a *verb* returns: it ends at once, for it waits for nothing else."""
    try:
        next(verb(SqliteDatabase(db)).__await__())
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a verb waits for its database alone")
