"""Both stores, for one suite."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from support.ledgers import (
    House,
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


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
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
