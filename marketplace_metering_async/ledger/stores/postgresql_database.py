"""A transaction of PostgreSQL as the verbs that both stores share know it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from marketplace_metering_async.ledger.model import UsageKey
from marketplace_metering_async.ledger.open_hours import KeyState
from marketplace_metering_async.ledger.posting import Changes, Wanted
from marketplace_metering_async.ledger.stores import (
    postgresql_adding,
    postgresql_keys,
    postgresql_plain,
)
from marketplace_metering_async.ledger.stores.database import Database, Dialects, Row, Statement
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.stores.words import no_failure
from marketplace_metering_async.ledger.sums import Sum

T = TypeVar("T")


class PostgresDatabase(Database):
    """See Database."""

    def __init__(self, db: Connection, shard: int) -> None:
        """Run statements on *db*, in a transaction that has begun; keep sums in a *shard*."""
        self._db = db
        self._shard = shard

    async def fetch(self, statement: Statement, *values: object) -> Sequence[Row]:
        """See Database."""
        text = statement if isinstance(statement, str) else statement.postgresql
        rows: Sequence[Row] = await self._db.fetch(text, *values)
        return rows

    async def for_each(self, statement: Dialects, rows: Sequence[Sequence[Any]]) -> None:
        """See Database."""
        await postgresql_plain.execute_for(self._db, statement.postgresql, rows)

    async def outside(self, work: Callable[[], T]) -> T:
        """See Database."""
        return await asyncio.to_thread(work)

    async def load(self, wanted: Mapping[UsageKey, Wanted]) -> dict[UsageKey, KeyState]:
        """See Database."""
        return await postgresql_keys.load(self._db, wanted)

    async def write(self, changes: Changes) -> None:
        """See Database."""
        await postgresql_adding.write(self._db, changes, self._shard, no_failure)

    async def keep_sums(self, changes: Sequence[Sum]) -> None:
        """See Database."""
        await postgresql_plain.keep_sums(self._db, changes, self._shard)
