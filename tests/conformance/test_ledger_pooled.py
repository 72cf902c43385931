"""A ledger behind PgBouncer in transaction mode, in a PostgreSQL that waits for no disk."""

import asyncio

import asyncpg
from support.ledgers import ACCOUNT, HOUR, NOON, House, connections_of, house_at

from marketplace_metering_async import UsageLedger

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
        house.clock.step(hours=1)
        await house.relay()

        assert 120 == (await house.balance()).metered
        assert {(ACCOUNT, NOON.replace(minute=0)): 120} == house.metered()


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
