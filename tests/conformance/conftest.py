"""Both stores, for one suite; PostgreSQL also as Debian has it, behind a pooler."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.ledgers import (
    House,
    database_at,
    empty_postgres_database,
    house_at,
    new_postgres_database,
    postgres_server,
)

_HAS_POOLER = {"METERING_TEST_POSTGRESQL", "METERING_TEST_PGBOUNCER"} <= os.environ.keys()
_POSTGRESQL = ["postgresql", "pooled"] if _HAS_POOLER else ["postgresql"]
"""The ways to PostgreSQL; without a pooler, the tests of test_ledger_pooled say what is missing."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture
async def place(postgres: str) -> str:
    """An empty database in PostgreSQL."""
    return await new_postgres_database(postgres)


@pytest.fixture
async def pooled() -> str:
    """An empty database behind a pooler."""
    if not _HAS_POOLER:
        pytest.skip(
            "METERING_TEST_POSTGRESQL and METERING_TEST_PGBOUNCER are not set: .ci/run starts "
            "Debian's servers and sets them"
        )
    return await new_pooled_database()


async def new_pooled_database() -> str:
    """
    Return the URL of an empty database behind Debian's PgBouncer in transaction mode.

    Its server is Debian's PostgreSQL, set to `synchronous_commit = off`.
    """
    made = await new_postgres_database(os.environ["METERING_TEST_POSTGRESQL"])
    return database_at(os.environ["METERING_TEST_PGBOUNCER"], urlsplit(made).path[1:])


async def new_place(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database, reached as the parameter says."""
    if request.param == "pooled":
        return await new_pooled_database()
    return await new_postgres_database(request.getfixturevalue("postgres"))


@pytest.fixture(params=_POSTGRESQL)
async def either(request: pytest.FixtureRequest) -> str:
    """An empty database in PostgreSQL, in all ways that there are here."""
    return await new_place(request)


@pytest.fixture(params=["sqlite", *_POSTGRESQL])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    return await new_place(request)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Awaitable[str]]:
    """Give an empty place on every call; with PostgreSQL it is the same one, emptied."""
    numbers = count()
    made: list[str] = []

    async def make() -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/usage-{next(numbers)}.db"
        if made:
            await empty_postgres_database(made[0])
        else:
            made.append(await new_postgres_database(request.getfixturevalue("postgres")))
        return made[0]

    return make


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    async with house_at(url) as opened:
        yield opened
