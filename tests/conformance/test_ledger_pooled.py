"""A ledger behind PgBouncer in transaction mode, in a PostgreSQL that waits for no disk."""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from support.clusters import asked
from support.ended import claimed, fate, settle
from support.ledgers import ACCOUNT, HOUR, NOON, House, connections_of, house_at

from marketplace_metering_async import HourState, LedgerError, UsageLedger

STATES = [
    HourState.PROBABLY_METERED,
    HourState.REJECTED,
    HourState.TOO_LATE,
    HourState.UNCONFIRMED,
]
SETTING = "SELECT current_setting('synchronous_commit') AS setting"


async def test_every_add_is_stored(pooled: str) -> None:
    """
    Though each transaction gets another session of the server. ledger H2. Covers: M11
    """
    async with house_at(pooled, grace=0) as house:
        others = [house.another() for _ in range(4)]
        for other in others:
            await other.__aenter__()
        await asyncio.gather(*(add_in_turn(house, other) for other in others))
        for other in others:
            await other.aclose()
        await house.relay_after(hours=1)

        assert 120 == (await house.balance()).metered
        assert {(ACCOUNT, NOON.replace(minute=0)): 120} == house.metered()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_all_that_open_a_new_ledger_at_once_have_it(isolation: str, pooled: str) -> None:
    """
    The session that makes it may remember from another caller that there is none.
    """
    name = urlsplit(pooled).path[1:]
    await asked(
        pooled, f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{isolation}'"
    )
    sign = "&" if "?" in pooled else "?"
    for number in range(5):
        url = f"{pooled}{sign}schema=new_{number}"

        async def add(event: int, url: str = url) -> None:
            async with UsageLedger.open(url) as ledger:
                await ledger.add_usage(
                    dimension="requests",
                    quantity=1,
                    product_code="p",
                    customer_aws_account_id=ACCOUNT,
                    event_id=f"{event // 2}",
                )

        await asyncio.gather(*map(add, range(12)))
        async with UsageLedger.open(url) as ledger:
            assert 6 == (await ledger.status()).open


async def add_in_turn(house: House, ledger: UsageLedger) -> None:
    for _ in range(30):
        await house.use(1, ledger, at=NOON)


async def test_a_commit_waits_for_the_disk_and_leaves_sessions_as_they_were(pooled: str) -> None:
    """
    They are lent to others next. ledger H14
    """
    async with house_at(pooled) as house:
        during = [
            (await connections_of(house.ledger).run(lambda db: db.fetch(SETTING), once=once))[0][
                "setting"
            ]
            for once in (False, True)
        ]
        connection = await asyncpg.connect(pooled, statement_cache_size=0)
        try:
            async with connection.transaction():
                await house.use(7, connection=connection)
                during.append(await connection.fetchval(SETTING))
            after = [await connection.fetchval(SETTING) for _ in range(5)]
        finally:
            await connection.close()

        assert ["on"] * 3 == during
        assert ["off"] * 5 == after
        assert 7 == (await house.balance()).recorded


async def test_usage_rolls_back_with_the_callers_data(pooled: str) -> None:
    """
    As without a pooler. ledger C4
    """
    async with house_at(pooled) as house:
        connection = await asyncpg.connect(pooled, statement_cache_size=0)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await house.use(5, at=NOON - HOUR, connection=connection)
            await transaction.rollback()
        finally:
            await connection.close()

        assert 0 == (await house.balance()).recorded


async def test_an_operator_works_while_others_add(pooled: str) -> None:
    """
    Each word is one transaction, though its session was another one's a moment ago: resolve, write
    off, reopen, send again, rebind, end and begin a subscription, prune. Issue 21.5. Covers: M11
    """
    async with house_at(pooled, grace=0) as house:
        for n in range(len(STATES)):
            await house.use(3, customer_aws_account_id=f"{n:012d}")
        house.clock.step(hours=1)
        claims = {claim.key.customer_aws_account_id: claim for claim in await claimed(house)}
        for n, state in enumerate(STATES):
            await settle(house, fate(claims[f"{n:012d}"], state))
        adders = [house.another() for _ in range(3)]
        for other in adders:
            await other.__aenter__()
        adding = asyncio.gather(*(add_in_turn(house, other) for other in adders))
        entries = {entry.state: entry.name async for entry in house.ledger.history()}
        say = house.ledger
        await say.resolve([entries[STATES[0]]], "metered", note="found")
        await say.resolve([entries[STATES[1]]], "written_off", note="a gift")
        await say.reopen([entries[STATES[2]]], note="to be paid")
        await say.resolve([entries[STATES[3]]], "not_metered", note="not there")
        assert 1 == await say.retry(HourState.NOT_METERED)
        who: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": "7" * 12}
        assert 0 == await say.close_customer(**who)
        await say.reopen_customer(**who)
        async with house.client(endpoint_url="http://localhost:1") as other_host:
            await say.rebind(other_host, taken="billed", note="another endpoint")
        assert 0 == await say.prune(house.clock.now() - 4 * 24 * HOUR)
        await adding
        for other in adders:
            await other.aclose()
        status = await house.balance()

        assert 12 + 90 == status.recorded
        assert (3, {HourState.WRITTEN_OFF: 3}) == (status.metered, status.ended)
        assert (3, 3 + 90) == (status.frozen, status.open)


async def test_sessions_of_sqlalchemy_are_joined(pooled: str) -> None:
    """
    As without a pooler: usage commits and rolls back with the caller's rows. Issue 21.3
    """
    engine = create_async_engine(
        pooled.replace("postgresql://", "postgresql+asyncpg://"),
        poolclass=NullPool,
        connect_args={
            "statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        },
    )
    async with house_at(pooled) as house:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE orders (units integer)"))
        for units, goes_wrong in ((1, False), (2, True), (4, False)):
            with suppress(ZeroDivisionError):
                async with AsyncSession(engine) as session, session.begin():
                    await house.use(units, connection=session)
                    await session.execute(text(f"INSERT INTO orders VALUES ({units})"))
                    units // (0 if goes_wrong else 1)
        async with engine.connect() as connection:
            orders = await connection.scalar(text("SELECT sum(units) FROM orders"))

        assert 5 == orders == (await house.balance()).recorded
    await engine.dispose()


async def test_what_a_pooler_refuses_is_not_blamed_on_the_url(pooled: str) -> None:
    """
    It has one code for all: a parameter, a database, too many clients, its own shutdown.
    """
    name = urlsplit(pooled).path[1:]
    missing = pooled.replace(name, "nowhere")
    with pytest.raises(LedgerError, match='PostgreSQL cannot be used: database "nowhere"'):
        async with UsageLedger.open(missing):
            pass
