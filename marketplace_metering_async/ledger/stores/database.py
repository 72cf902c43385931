"""
What the verbs that both stores share ask of a database, in one transaction of it.

Both databases understand most statements: `$1`, `$2`, … are values, and tables are named with their
schema, which SQLite does without. What they call by other names stands in braces: see `both`.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from marketplace_metering_async.ledger.model import CustomerKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainPart, Plan
from marketplace_metering_async.ledger.sums import Sum
from marketplace_metering_async.quantities import MILLION

T = TypeVar("T")

Row = Any
"""One of sqlite3 or asyncpg: its values by the names of the columns, or in their order."""


class Dialects(NamedTuple):
    """A statement that each database has in words of its own."""

    sqlite: str
    postgresql: str


Statement = str | Dialects
"""For both databases."""

_WORDS: Final = {
    # The first value is a list, of numbers or of texts.
    "rows": Dialects("SELECT value FROM json_each($1)", "SELECT pg_catalog.unnest($1::bigint[])"),
    "texts": Dialects("SELECT value FROM json_each($1)", "SELECT pg_catalog.unnest($1::text[])"),
    "least": Dialects("min", "least"),
    "greatest": Dialects("max", "greatest"),
    # SQLite begins it with the table that is named first.
    "join": Dialects("CROSS JOIN", "JOIN"),
}


def both(statement: str, *, lock: str = "", clock: str = "") -> Dialects:
    """
    Return a statement with the words of each database in place of those in braces.

    `{lock}` is what PostgreSQL locks its rows with: SQLite has one writer at a time. `{clock}` is
    the time that leases go by: the value *clock* in SQLite, and in PostgreSQL the server's at the
    moment when it looks at a row, so that it is later than the beginning of any lease that it sees.
    """
    return _worded(statement, lock=Dialects("", lock), clock=_clock(clock))


def for_rows(statement: str, columns: str, *, clock: str = "") -> Dialects:
    """
    Return a statement for `Database.for_each`, in which `{given}` is the table `given` of its rows.

    Its *columns* are names with their types. SQLite has one row at a time, PostgreSQL all of them.
    `{values}` are all columns of a row to insert: from a table, SQLite takes twice as long.
    `{clock}` is as in `both`.
    """
    types = dict(column.split(maxsplit=1) for column in columns.split(", "))
    row = ", ".join(f"? AS {name}" for name in types)
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types.values(), 1))
    all_rows = f"unnest({arrays}) AS given ({', '.join(types)})"
    given = Dialects(f"(SELECT {row}) AS given", all_rows)
    values = Dialects(f"VALUES ({', '.join('?' for _ in types)})", f"SELECT * FROM {all_rows}")
    return _worded(statement, given=given, values=values, clock=_clock(clock))


def _clock(sqlite: str) -> Dialects:
    return Dialects(sqlite, "EXTRACT(EPOCH FROM clock_timestamp())")


def _worded(statement: str, **more: Dialects) -> Dialects:
    words = {**_WORDS, **more}
    sqlite = statement.format(**{name: word.sqlite for name, word in words.items()})
    postgresql = statement.format(**{name: word.postgresql for name, word in words.items()})
    return Dialects(without_schema(sqlite), postgresql)


@lru_cache(maxsize=1_000)
def without_schema(statement: str) -> str:
    """Return a statement as SQLite knows it."""
    return statement.replace("marketplace_metering.", "")


class Database(ABC):
    """One transaction of a database."""

    @abstractmethod
    async def fetch(self, statement: Statement, *values: object) -> Sequence[Row]:
        """Run a statement, and return all its rows."""

    async def fetchrow(self, statement: Statement, *values: object) -> Row:
        """Return the first row, or None."""
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetchval(self, statement: Statement, *values: object) -> Any:  # noqa: ANN401 - of any type
        """Return the first value of the first row, or None."""
        row = await self.fetchrow(statement, *values)
        return None if row is None else row[0]

    @abstractmethod
    async def for_each(self, statement: Dialects, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement, as `for_rows` makes them, for each of *rows*, if there are any."""

    @abstractmethod
    async def outside(self, work: Callable[[], T]) -> T:
        """Do what waits for something else than the database, such as a file; return its result."""

    @abstractmethod
    async def lock_new(self, customers: Sequence[CustomerKey], pairs: Sequence[str]) -> None:
        """Keep others from making keys of these *customers*, and keys billed as one of *pairs*."""

    @abstractmethod
    async def fetch_pairs(self, statement: Dialects, pairs: dict[int, int]) -> Sequence[Row]:
        """Return all rows of a statement on *pairs*: one value in SQLite, in PostgreSQL two."""

    @abstractmethod
    async def name_events(self, events: Mapping[str, bytes], at: int) -> list[str]:
        """Store a plan's events but for those whose ids are there already; return these."""

    @abstractmethod
    async def grow(self, plan: Plan, rules: PostingRules) -> Sequence[PlainPart]:
        """Add a plan's parts, one at least, to their hours; return those that changed no row."""

    @abstractmethod
    async def keep_sums(self, changes: Sequence[Sum]) -> None:
        """Add *changes* to the kept sums."""


Verb = Callable[[Database], Awaitable[T]]
"""What a transaction does."""


def with_quantity(row: Row) -> dict[str, Any]:
    """Return a row; a sum of many records in it, which no integer may hold, as one of Python's."""
    found = dict(row)
    if "units" in found:
        found["quantity"] = joined(found.pop("units"), found.pop("millionths"))
    if "quantity" in found:
        found["quantity"] = int(found["quantity"])
    return found


def joined(units: int, millionths: int) -> int:
    """Return the millionths of a sum that is kept or was made in two parts."""
    return int(units) * MILLION + int(millionths)
