"""A transaction of SQLite as the verbs that both stores share know it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from marketplace_metering_async.ledger.model import CustomerKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainPart, Plan
from marketplace_metering_async.ledger.stores import sqlite_plain
from marketplace_metering_async.ledger.stores.database import (
    Database,
    Dialects,
    Row,
    Statement,
    Verb,
    without_schema,
)
from marketplace_metering_async.ledger.stores.sqlite_plain import Connection
from marketplace_metering_async.ledger.sums import Sum
from marketplace_metering_async.quantities import MILLION

T = TypeVar("T")

KEPT_SUM: Final = """
    INSERT INTO kept_sum (product_code, dimension, state, units, millionths, records, latest)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (product_code, dimension, state) DO UPDATE SET units = units + excluded.units,
        millionths = millionths + excluded.millionths, records = records + excluded.records,
        latest = max(latest, excluded.latest)
"""


class SqliteDatabase(Database):
    """See Database; nothing of it waits."""

    def __init__(self, db: Connection) -> None:
        """Run statements on *db*, in a transaction that has begun."""
        self._db = db

    async def fetch(self, statement: Statement, *values: object) -> Sequence[Row]:
        """See Database."""
        text = statement if isinstance(statement, str) else statement.sqlite
        named = {
            str(number): json.dumps(value) if isinstance(value, list | tuple | dict) else value
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

    async def lock_new(self, customers: Sequence[CustomerKey], pairs: Sequence[str]) -> None:
        """See Database: there are no others."""

    async def fetch_pairs(self, statement: Dialects, pairs: dict[int, int]) -> Sequence[Row]:
        """See Database."""
        return await self.fetch(statement, pairs)

    async def name_events(self, events: Mapping[str, bytes], at: int) -> list[str]:
        """See Database."""
        return sqlite_plain.name_events(self._db, events, at)

    async def grow(self, plan: Plan, rules: PostingRules) -> Sequence[PlainPart]:
        """See Database."""
        return sqlite_plain.grow(self._db, plan, rules)

    async def keep_sums(self, changes: Sequence[Sum]) -> None:
        """See Database."""
        self._db.executemany(
            KEPT_SUM,
            [
                (product, dimension, state, *divmod(quantity, MILLION), records, latest)
                for product, dimension, state, quantity, records, latest in changes
            ],
        )


def run(db: Connection, verb: Verb[T]) -> T:
    """Return what a *verb* returns: it ends at once, for it waits for nothing else."""
    try:
        next(verb(SqliteDatabase(db)).__await__())
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a verb waits for its database alone")
