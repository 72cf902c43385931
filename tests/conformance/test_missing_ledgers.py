"""A ledger that is not there: made for those who add usage, named to those who only look."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.ledgers import new_postgres_database

from marketplace_metering_async import LedgerMissingError, LedgerUnusableError, UsageLedger


def place_of(url: str) -> str:
    """What a person looks for: the file, or the database without a password."""
    return url.removeprefix("sqlite:///").partition("?")[0].rpartition("@")[2]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_who_only_looks_makes_no_ledger(url: str) -> None:
    """
    Twice in a row it is missing; afterwards it can be made as ever. Newcomer H6.
    """
    for _ in range(2):
        with pytest.raises(LedgerMissingError) as caught:
            async with UsageLedger.open(url, create=False):
                pass
        assert place_of(url) in str(caught.value)

    async with UsageLedger.open(url):
        pass
    async with UsageLedger.open(url, create=False) as found:
        assert 0 == (await found.status()).recorded


async def test_no_file_comes_into_being(tmp_path: Path) -> None:
    """
    Nor does an empty one, or one of somebody else, become a ledger. Newcomer H6.
    """
    path = tmp_path / "usage.db"
    with pytest.raises(LedgerMissingError):
        async with UsageLedger.open(f"sqlite:///{path}", create=False):
            pass
    with pytest.raises(LedgerMissingError):
        async with UsageLedger.open(f"sqlite:///{tmp_path}/nowhere/usage.db", create=False):
            pass
    assert [] == names_in(tmp_path)

    path.touch()
    with pytest.raises(LedgerMissingError):
        async with UsageLedger.open(f"sqlite:///{path}", create=False):
            pass
    assert [path.name] == names_in(tmp_path)
    assert 0 == path.stat().st_size


@pytest.mark.parametrize("create", [True, False])
async def test_a_database_of_something_else_is_left_as_it_is(
    tmp_path: Path, *, create: bool
) -> None:
    """
    Down to the way in which it keeps its log. Newcomer H6.
    """
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE theirs (id INTEGER)")
    before = path.read_bytes()

    with pytest.raises(LedgerUnusableError, match="something else"):
        async with UsageLedger.open(f"sqlite:///{path}", create=create):
            pass

    assert before == path.read_bytes()


async def test_a_password_is_not_in_the_text(postgres: str) -> None:
    """
    The place of a database is named by host and database alone.
    """
    url = await new_postgres_database(postgres)
    secret = url.replace("postgres:@", "postgres:hush-hush@")
    assert secret != url

    with pytest.raises(LedgerMissingError) as caught:
        async with UsageLedger.open(secret, create=False):
            pass

    assert "hush" not in str(caught.value)


async def test_a_ledger_that_is_missing_is_not_taken_over(postgres: str, tmp_path: Path) -> None:
    """
    A mistyped path moves nothing, and makes no file. Newcomer H6.
    """
    async with UsageLedger.open(await new_postgres_database(postgres)) as ledger:
        with pytest.raises(LedgerMissingError, match=r"none\.db"):
            await ledger.take_over(f"sqlite:///{tmp_path}/none.db")

    assert [] == names_in(tmp_path)
