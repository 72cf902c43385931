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
    return await new_pooled_database()


@pytest.fixture(params=["postgresql", "pooled"])
async def either(request: pytest.FixtureRequest) -> str:
    """An empty database in PostgreSQL, reached in both ways."""
    if request.param == "pooled":
        return await new_pooled_database()
    return await new_postgres_database(request.getfixturevalue("postgres"))


async def new_pooled_database() -> str:
    """
    Return the URL of an empty database behind Debian's PgBouncer in transaction mode.

    Its server is Debian's PostgreSQL, set to `synchronous_commit = off`.
    """
    servers = [os.environ.get(f"METERING_TEST_{name}") for name in ("POSTGRESQL", "PGBOUNCER")]
    if None in servers:
        pytest.skip(
            "METERING_TEST_POSTGRESQL and METERING_TEST_PGBOUNCER are not set: .ci/run starts "
            "Debian's servers and sets them"
        )
    server, pooler = map(str, servers)
    return database_at(pooler, urlsplit(await new_postgres_database(server)).path[1:])


@pytest.fixture(params=["sqlite", "postgresql", "pooled"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    if request.param == "pooled":
        return await new_pooled_database()
    return await new_postgres_database(request.getfixturevalue("postgres"))


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
