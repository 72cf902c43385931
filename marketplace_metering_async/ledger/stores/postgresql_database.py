"""A transaction of PostgreSQL as the verbs that both stores share know it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from marketplace_metering_async.ledger.model import CustomerKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainPart, Plan
from marketplace_metering_async.ledger.stores import postgresql_plain
from marketplace_metering_async.ledger.stores.database import Database, Dialects, Row, Statement
from marketplace_metering_async.ledger.stores.postgresql_schema import USUAL
from marketplace_metering_async.ledger.stores.postgresql_transactions import Connection
from marketplace_metering_async.ledger.sums import Sum

T = TypeVar("T")

NEW_CUSTOMERS: Final = """
    INSERT INTO marketplace_metering.customer
        (product_code, customer_aws_account_id, customer_identifier, license_arn)
    SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    ORDER BY 1, 2, 3, 4
    ON CONFLICT DO NOTHING
"""
LOCKED_CUSTOMERS: Final = """
    SELECT 1 FROM marketplace_metering.customer JOIN
        unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS wanted
            (product_code, customer_aws_account_id, customer_identifier, license_arn)
        USING (product_code, customer_aws_account_id, customer_identifier, license_arn)
    ORDER BY product_code, customer_aws_account_id, customer_identifier, license_arn
    FOR SHARE OF customer
"""
"""Whoever closes one of them waits, and then sees the keys that are made now."""
ONE_BY_ONE: Final = """
    SELECT pg_advisory_xact_lock(730580339, part) FROM (
        SELECT DISTINCT (hashtextextended(billed_as, 0) & 63)::integer AS part
        FROM pg_catalog.unnest($1::text[]) AS billed_as ORDER BY part) AS parts
"""
"""
Two who make keys of one customer by different schemes would not see each other's. All sessions of
the server share its table of locks, which has no room for one of each of many new keys.
"""


@lru_cache(maxsize=1_000)
def _named(statement: str, schema: str) -> str:
    """Return a statement on another schema: quoted, as it may be called as a word of SQL."""
    return statement if schema == USUAL else statement.replace(f"{USUAL}.", f'"{schema}".')


class PostgresDatabase(Database):
    """See Database; its statements are on tables of one schema, whatever the session looks at."""

    def __init__(self, connection: Connection, schema: str, shard: int = 0) -> None:
        """Run statements on *connection*, whose transaction has begun; keep sums in a *shard*."""
        self._connection = connection
        self._schema = schema
        self._shard = shard

    async def fetch(self, statement: Statement, *values: object) -> Sequence[Row]:
        """See Database."""
        text = statement if isinstance(statement, str) else statement.postgresql
        rows: Sequence[Row] = await self._connection.fetch(_named(text, self._schema), *values)
        return rows

    async def executemany(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each of *rows*."""
        await self._connection.executemany(_named(statement, self._schema), rows)

    async def for_each(self, statement: Dialects, rows: Sequence[Sequence[Any]]) -> None:
        """See Database."""
        if rows:
            await self.fetch(statement, *zip(*rows, strict=True))

    async def outside(self, work: Callable[[], T]) -> T:
        """See Database."""
        return await asyncio.to_thread(work)

    async def lock_new(self, customers: Sequence[CustomerKey], pairs: Sequence[str]) -> None:
        """See Database."""
        columns = [*zip(*customers, strict=True)]
        await self.fetch(NEW_CUSTOMERS, *columns)
        await self.fetch(LOCKED_CUSTOMERS, *columns)
        await self.fetch(ONE_BY_ONE, pairs)

    async def fetch_pairs(self, statement: Dialects, pairs: dict[int, int]) -> Sequence[Row]:
        """See Database."""
        return await self.fetch(statement, [*pairs], [*pairs.values()])

    async def name_events(self, events: Mapping[str, bytes], at: int) -> list[str]:
        """See Database."""
        return await postgresql_plain.name_events(self, events, at)

    async def grow(self, plan: Plan, rules: PostingRules) -> Sequence[PlainPart]:
        """See Database."""
        return await postgresql_plain.grow(self, plan, rules)

    async def keep_sums(self, changes: Sequence[Sum]) -> None:
        """See Database."""
        if changes:
            await self.fetch(postgresql_plain.KEPT_SUMS, self._shard, *zip(*changes, strict=True))
