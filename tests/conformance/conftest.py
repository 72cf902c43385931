"""Both stores, for one suite; PostgreSQL also as Debian has it, behind a pooler."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.ledgers import (
    EmptyDatabases,
    House,
    NewLedgers,
    database_at,
    forget_all,
    house_at,
    postgres_server,
)

from marketplace_metering_async.ledger import blockage, relay

_HAS_POOLER = {"METERING_TEST_POSTGRESQL", "METERING_TEST_PGBOUNCER"} <= os.environ.keys()
_POSTGRESQL = ["postgresql", "pooled"] if _HAS_POOLER else ["postgresql"]
"""The ways to PostgreSQL; without a pooler, the tests of test_ledger_pooled say what is missing."""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays look again soon, blocked or not."""
    monkeypatch.setattr(blockage, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(relay, "_LONGEST_WAIT", 0.1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(postgres: str) -> EmptyDatabases:
    return EmptyDatabases(postgres)


@pytest.fixture(scope="session")
def new_ledgers(postgres: str) -> NewLedgers:
    return NewLedgers(postgres)


@pytest.fixture
async def place(databases: EmptyDatabases) -> AsyncIterator[str]:
    """An empty database in PostgreSQL."""
    async with databases.one() as url:
        yield url


@pytest.fixture(scope="session")
def pooled_databases() -> EmptyDatabases:
    return EmptyDatabases(os.environ["METERING_TEST_POSTGRESQL"], pooled=True)


@pytest.fixture(scope="session")
def pooled_new_ledgers() -> NewLedgers:
    return NewLedgers(os.environ["METERING_TEST_POSTGRESQL"], pooled=True)


@pytest.fixture
async def pooled(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """
    An empty database behind Debian's PgBouncer in transaction mode.

    Its server is Debian's PostgreSQL, set to `synchronous_commit = off`.
    """
    if not _HAS_POOLER:
        pytest.skip(
            "METERING_TEST_POSTGRESQL and METERING_TEST_PGBOUNCER are not set: .ci/run starts "
            "Debian's servers and sets them"
        )
    async with lent(request, "pooled_databases") as url:
        yield behind_the_pooler(url)


def behind_the_pooler(url: str) -> str:
    """Return how a database of Debian's PostgreSQL is reached through its PgBouncer."""
    return database_at(os.environ["METERING_TEST_PGBOUNCER"], urlsplit(url).path[1:])


@pytest.fixture(params=_POSTGRESQL)
async def either(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An empty database in PostgreSQL, in all ways that there are here."""
    async with lent_place(request) as url:
        yield url


@pytest.fixture(params=["sqlite", *_POSTGRESQL])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/usage.db"
        return
    async with lent_place(request) as url:
        yield url


@asynccontextmanager
async def lent_place(
    request: pytest.FixtureRequest, databases: str = "databases"
) -> AsyncIterator[str]:
    """Lend the URL of a database, reached as the parameter says."""
    if request.param == "pooled":
        async with lent(request, f"pooled_{databases}") as url:
            yield behind_the_pooler(url)
        return
    async with lent(request, databases) as url:
        yield url


def lent(request: pytest.FixtureRequest, databases: str) -> AbstractAsyncContextManager[str]:
    """Lend one of the databases that a fixture has."""
    lender: EmptyDatabases = request.getfixturevalue(databases)
    return lender.one()


@pytest.fixture(params=["sqlite", "postgresql"])
async def new_url(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Give an empty place on every call; with PostgreSQL it is the same ledger, emptied."""
    if request.param == "sqlite":
        numbers = count()

        async def new_file() -> str:
            return f"sqlite:///{tmp_path}/usage-{next(numbers)}.db"

        yield new_file
        return
    async with lent_place(request, "new_ledgers") as url:

        async def emptied() -> str:
            await forget_all(url)
            return url

        yield emptied


@pytest.fixture(params=["sqlite", *_POSTGRESQL])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A ledger that nobody has used."""
    if request.param == "sqlite":
        async with house_at(f"sqlite:///{tmp_path}/usage.db") as opened:
            yield opened
        return
    async with lent_place(request, "new_ledgers") as url, house_at(url) as opened:
        yield opened
