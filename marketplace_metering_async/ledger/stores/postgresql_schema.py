"""The schema of PostgreSQL that a ledger lies in, and a connection whose statements name it."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from marketplace_metering_async.errors import ConfigurationError
from marketplace_metering_async.ledger.stores.url_parameters import taken_from

USUAL: Final = "marketplace_metering"
"""The schema of a URL that names none; all statements are written with it."""
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def schema_in(url: str) -> tuple[str, str]:
    """
    Return *url* without the parameter `schema`, which is ours, and the schema that it names.

    Raises:
        ConfigurationError: for a name that would have to be quoted.
    """
    rest, schema = taken_from(url, "schema")
    if schema is None:
        return url, USUAL
    if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ConfigurationError(
            "ledger URL: expected a schema of small letters, digits and _, at most 63, that "
            f"begins with no digit and not with pg_; got {schema[:80]!r}"
        )
    return rest, schema


@lru_cache(maxsize=1_000)
def _named(statement: str, schema: str) -> str:
    return statement.replace(f"{USUAL}.", f"{schema}.")


class SchemaConnection:
    """asyncpg's connection, for statements on tables of one schema."""

    def __init__(self, connection: Any, schema: str) -> None:  # noqa: ANN401 - an extra's
        self._connection = connection
        self._schema = schema

    async def execute(self, statement: str, *values: object) -> str:
        """Run a statement, and return the server's word on it."""
        done: str = await self._connection.execute(_named(statement, self._schema), *values)
        return done

    async def executemany(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each of *rows*."""
        await self._connection.executemany(_named(statement, self._schema), rows)

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        """Return all rows."""
        rows: list[Any] = await self._connection.fetch(_named(statement, self._schema), *values)
        return rows

    async def fetchrow(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - an extra's
        """Return the first row, or None."""
        return await self._connection.fetchrow(_named(statement, self._schema), *values)

    async def fetchval(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - of any type
        """Return the first value of the first row, or None."""
        return await self._connection.fetchval(_named(statement, self._schema), *values)
