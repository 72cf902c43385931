"""Roles that may do little, schemas of other names, and servers that only read."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from support.clusters import clusters
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    change,
    database_at,
    execute,
    house_at,
    new_postgres_database,
    upgraded,
)

from marketplace_metering_async import (
    ConfigurationError,
    LedgerError,
    LedgerMissingError,
    LedgerRegionMismatchError,
    LedgerUnusableError,
    UsageLedger,
)
from marketplace_metering_async.ledger.stores import postgresql_connections
from marketplace_metering_async.ledger.stores.postgresql import PostgresStore


async def as_role(place: str, *grants: str) -> str:
    """Return the URL of a new role that may do what *grants* say."""
    role = f"role_{uuid4().hex}"
    await execute(
        place,
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        *(f"GRANT {grant} TO {role}" for grant in grants),
    )
    parts = urlsplit(place)
    return parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}").geturl()


ADDING = (
    "USAGE ON SCHEMA marketplace_metering",
    "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA marketplace_metering",
)
READING = (
    "USAGE ON SCHEMA marketplace_metering",
    "SELECT ON ALL TABLES IN SCHEMA marketplace_metering",
)


async def test_a_role_that_may_make_nothing_does_all(place: str) -> None:
    """
    Once another one has made the ledger: it adds, relays, closes, prunes. ledger M7
    """
    async with house_at(place):
        pass
    async with house_at(await as_role(place, *ADDING)) as house:
        await house.use(3, event_id="e")
        assert 1 == (await house.relay_after(hours=1)).metered
        await house.ledger.close_customer(product_code="product", customer_aws_account_id=ACCOUNT)
        await house.ledger.prune(NOON - 400 * 24 * HOUR)
        connection = await asyncpg.connect(house.url)
        try:
            async with connection.transaction():
                added = await house.use(4, connection=connection)
        finally:
            await connection.close()

        assert added.hour is not None
        assert 7 == (await house.balance()).recorded


async def test_a_role_may_make_a_ledger_in_a_schema_of_its_own(place: str) -> None:
    """
    That an administrator has made for it: it may make none in the database. ledger M7
    """
    await execute(place, "CREATE SCHEMA marketplace_metering")
    url = await as_role(place, "ALL ON SCHEMA marketplace_metering")
    async with house_at(url) as house:
        await house.use(3)

        assert 3 == (await house.balance()).recorded


async def test_a_role_that_may_not_make_a_ledger_is_refused(place: str) -> None:
    """
    In plain words. ledger M7
    """
    with pytest.raises(LedgerError, match="permission denied for database"):
        async with UsageLedger.open(await as_role(place)):
            pass


@pytest.mark.parametrize("how", ["role", "server"])
async def test_who_may_only_read_reads(place: str, how: str) -> None:
    """
    Status and history, of a role or a server that only reads, such as a standby; nothing is written
    to find that out. What writes says that it may not. ledger M7
    """
    async with house_at(place) as house:
        await house.use(3)
        url = await as_role(place, *(READING if how == "role" else ADDING))
        if how == "server":
            role = urlsplit(url).username
            await execute(place, f"ALTER ROLE {role} SET default_transaction_read_only = on")
        async with house.another() as _, UsageLedger.open(url, create=False) as reader:
            status = await reader.status()
            entries = [entry async for entry in reader.history()]
            with pytest.raises(LedgerError, match=r"permission denied|read-only transaction"):
                await reader.add_usage(
                    dimension="requests",
                    quantity=1,
                    product_code="product",
                    customer_aws_account_id=ACCOUNT,
                )
            async with house.client() as client:
                with pytest.raises(LedgerError, match="open the ledger again"):
                    reader.relaying(client)

        assert (3, 3) == (status.recorded, entries[0].quantity)
        assert 3 == (await house.balance()).recorded


async def test_a_standby_of_a_serializable_database_reads() -> None:
    """
    A standby refuses every statement that does not ask for less than that.
    """
    with clusters("primary", "standby") as (primary, standby):
        primary.make()
        place = await new_postgres_database(primary.url)
        name = urlsplit(place).path[1:]
        async with house_at(place) as house:
            await house.use(3)
            standby.follow(primary)
            await execute(
                primary.url,
                f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
            )
            await standby.caught_up(primary)
            url = database_at(standby.url, name)
            async with UsageLedger.open(url, create=False) as reader:
                status = await reader.status()

    assert 3 == status.recorded


async def test_who_may_write_later_looks_then_which_ledger_it_is(place: str) -> None:
    """
    As all others do when they open it. ledger M7
    """
    async with house_at(place, region_name="us-east-1"):
        pass
    url = await as_role(place, *READING)
    async with UsageLedger.open(url, region_name="eu-west-1") as ledger:
        tables = "ALL TABLES IN SCHEMA marketplace_metering"
        await execute(
            place, f"GRANT INSERT, UPDATE, DELETE ON {tables} TO {urlsplit(url).username}"
        )
        with pytest.raises(LedgerRegionMismatchError):
            await ledger.prune(NOON - 400 * 24 * HOUR)


async def test_a_schema_has_the_name_that_the_url_gives(place: str) -> None:
    """
    Two ledgers in one database do not see each other; the caller's transaction finds its own.
    ledger M7
    """
    other = f"{place}{'&' if '?' in place else '?'}schema=usage_of_staging"
    async with house_at(place) as first, house_at(other) as second:
        await first.use(1, event_id="e")
        await second.use(2, event_id="e")
        connection = await asyncpg.connect(place)
        try:
            async with connection.transaction():
                await second.use(4, connection=connection)
        finally:
            await connection.close()
        await second.relay_after(hours=1)

        assert 1 == (await first.balance()).recorded
        assert 6 == (await second.ledger.status()).metered
    await execute(place, "DROP SCHEMA marketplace_metering CASCADE")
    with pytest.raises(LedgerMissingError):
        async with UsageLedger.open(place, create=False):
            pass
    async with UsageLedger.open(other, create=False) as ledger:
        assert 6 == (await ledger.status()).recorded
    with pytest.raises(LedgerMissingError, match=r", schema usage_of_nobody$"):
        async with UsageLedger.open(other.replace("staging", "nobody"), create=False):
            pass


@pytest.mark.parametrize("name", ["user", "order", "table"])
async def test_a_schema_may_be_called_as_a_word_of_sql(place: str, name: str) -> None:
    """
    Statements quote it.
    """
    async with house_at(f"{place}{'&' if '?' in place else '?'}schema={name}") as house:
        await house.use(1)
        await house.relay_after(hours=1)

        assert 1 == (await house.ledger.status()).metered
    await execute(place, f'DROP SCHEMA "{name}" CASCADE')


@pytest.mark.parametrize("name", ["", "Usage", "1st", "a-b", "a b", "pg_usage", "z" * 64, '"'])
def test_a_schema_that_would_have_to_be_quoted_is_refused(name: str) -> None:
    """
    Statements name it as it is. ledger M7
    """
    with pytest.raises(ConfigurationError, match="expected a schema of small letters"):
        UsageLedger.open(f"postgresql://user@host/database?schema={name}")


async def test_an_upgrade_that_a_role_may_not_do_says_so(place: str) -> None:
    """
    The ledger is opened once by a role that may. ledger M7, M9
    """
    async with house_at(place):
        pass
    await execute(place, "UPDATE marketplace_metering.ledger SET version = -1")
    url = await as_role(place, *ADDING)
    with pytest.raises(LedgerUnusableError, match="a role that may upgrade it"):
        async with UsageLedger.open(url):
            pass


async def test_an_upgrade_takes_as_long_as_it_takes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Neither our own limit of a statement nor one that the role has ends it, nor its limit of a wait,
    a transaction or an idle session; those that open the ledger meanwhile wait. ledger M9
    """
    later = "SELECT pg_sleep(2.5);\nUPDATE {schema}ledger SET min_compatible = 2;\n"
    async with house_at(place) as house:
        name = urlsplit(place).path[1:]
        known = await change(place, "SELECT name FROM pg_settings WHERE name LIKE '%\\_timeout'")
        limits = {
            "statement_timeout",
            "lock_timeout",
            "transaction_timeout",
            "idle_session_timeout",
        }
        for limit in limits & {one[0] for one in known}:
            await execute(place, f"ALTER DATABASE {name} SET {limit} = '1500ms'")
        monkeypatch.setattr(postgresql_connections, "_COMMAND_SECONDS", 1.5)
        first = upgraded(house, tmp_path, later)
        second = UsageLedger(PostgresStore(place, schema=tmp_path / "schema"))
        await asyncio.gather(first.__aenter__(), second.__aenter__())
        statuses = [await ledger.status() for ledger in (first, second)]
        await asyncio.gather(first.aclose(), second.aclose())

    assert [0, 0] == [status.recorded for status in statuses]
