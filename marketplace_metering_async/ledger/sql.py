"""
How the ledger's operations talk to a database, whichever it is.

An operation is a coroutine over a Transaction, written once. SQLite's transaction never suspends,
so its operations run from end to end in the thread that owns the connection; PostgreSQL's run on
the event loop. Statements name their parameters (`:now`).
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol, TypeVar

from attrs import frozen

T = TypeVar("T")

SCHEMAS: Final = "marketplace_metering_async.ledger"


class Row(Protocol):
    """What a statement found: its values in order, each by its column's name, too."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401
        """Return the value in a column."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values."""
        ...

    def keys(self) -> Iterable[str]:
        """Return the names of the columns."""
        ...


@frozen
class Dialect:
    """
    What the two databases say differently.

    Attributes:
        name: Of the folder with its schema.
        integers: Turns a parameter's name into a list of integers to look in.
        texts: The same for texts.
        for_update: Locks what a SELECT finds until the transaction ends.
        skip_locked: The same, leaving out what somebody else holds.
        now: Seconds since 1970 by the clock that leases go by; `:now` is the caller's clock.
    """

    name: str
    integers: Callable[[str], str]
    texts: Callable[[str], str]
    for_update: str
    skip_locked: str
    now: str


class Transaction(Protocol):
    """Statements that take effect together or not at all."""

    @property
    def dialect(self) -> Dialect:
        """How this database says things."""
        ...

    async def rows(self, statement: str, **parameters: Any) -> Sequence[Row]:  # noqa: ANN401
        """Run a statement and return what it finds or returns."""
        ...

    async def many(self, statement: str, parameters: Iterable[Mapping[str, Any]]) -> None:
        """Run a statement once for each set of parameters."""
        ...

    async def for_each(self, statement: str, given: Sequence[tuple[Any, ...]]) -> Sequence[Row]:
        """Run a statement that reads from the table `given`, and return what it returns."""
        ...


Operation = Callable[[Transaction], Awaitable[T]]

FailPoint = Callable[[str], None]
"""Called with the name of each point at which a process may die; a seam for fault injection."""


def no_failure(point: str, /) -> None:
    """Pass every point by."""


class Database(Protocol):
    """Where a ledger is kept."""

    shares_quota: bool
    """Whether relays on other machines use the same quota, and agree on it here."""

    async def open(self) -> None:
        """
        Connect, and bring the schema up to date under a lock.

        Raises:
            LedgerError: if it cannot be used; the text says why.
        """
        ...

    async def run(self, operation: Operation[T], *, once: bool = False) -> T:
        """
        Run *operation* in one durable transaction.

        With *once* it surely takes place at most once, even if the connection is lost at the commit
        and the operation is one that could be done twice.

        Raises:
            LedgerOutcomeUnknownError: if it failed at the commit, and nobody can be asked.
            LedgerError: if the database cannot do it; nothing has happened then.
        """
        ...

    async def read(self, operation: Operation[T]) -> T:
        """
        Run *operation*, which only reads.

        Raises:
            LedgerError: if the database cannot be read.
        """
        ...

    async def mark(self) -> str:
        """Return what tells this database from a copy of it."""
        ...

    async def tidy(self) -> bool:
        """
        Remove some notes of its own that nobody needs any more; return whether there are others.

        Raises:
            LedgerError: as `run`.
        """
        ...

    async def aclose(self) -> None:
        """Let go of it; twice is fine."""
        ...


_GIVEN: Final = re.compile(r"\bgiven \(([^)]*)\)")


@frozen
class Given:
    """
    A statement that reads from the table `given`.

    Attributes:
        before: Its part before the table.
        columns: Name to type, of the table.
        after: Its part after the table.
    """

    before: str
    columns: dict[str, str]
    after: str

    @classmethod
    def of(cls, statement: str) -> "Given":
        """Take *statement* apart."""
        before, inside, after = _GIVEN.split(statement)
        columns = (column.split(maxsplit=1) for column in inside.split(","))
        return cls(before, dict(columns), after)


def migrations(dialect: Dialect) -> list[tuple[int, list[str]]]:
    """Return the versions of the schema in order, each with its statements."""
    folder = files(SCHEMAS) / "schema" / dialect.name
    found = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), _statements(entry.read_text("utf-8"))) for name, entry in found]


def _statements(script: str) -> list[str]:
    return [statement for part in script.split(";\n") if (statement := part.strip())]
