"""Both stores, for one suite."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.ledgers import House, house_at, new_postgres_database, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    return await new_postgres_database(request.getfixturevalue("postgres"))


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    async with house_at(url) as opened:
        yield opened
