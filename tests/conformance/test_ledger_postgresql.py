"""What only PostgreSQL can do: the caller's transaction, one quota for many relays, taking over."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from support.ledgers import ACCOUNT, NOON, House, house_at, new_postgres_database

from marketplace_metering_async import LedgerUnusableError, MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.sandbox import Sandbox


@pytest.fixture
async def place(postgres: str) -> str:
    return await new_postgres_database(postgres)


async def test_usage_commits_with_the_callers_data(place: str) -> None:
    """
    Or rolls back with it, wherever the caller's connection looks for tables. Covers: M11
    """
    async with house_at(place) as house:
        connection = await asyncpg.connect(place, server_settings={"search_path": "pg_catalog"})
        try:
            await connection.execute("CREATE TABLE public.orders (id int)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await house.use(5, event_id="lost", connection=connection)
                    raise ZeroDivisionError
            async with connection.transaction():
                await connection.execute("INSERT INTO public.orders VALUES (1)")
                await house.use(7, event_id="kept", connection=connection)
        finally:
            await connection.close()

        assert 7 == (await house.balance()).recorded
        assert (await house.use(5, event_id="lost")).repeated is False
        assert (await house.use(7, event_id="kept")).repeated is True


async def test_many_adders_on_one_key_lose_nothing(place: str) -> None:
    """
    From several ledgers at once, while another one seals. Covers: M05, M06, M13
    """
    async with house_at(place, grace=0) as house, house.client() as client:
        others = [house.another() for _ in range(3)]
        for other in others:
            await other.__aenter__()
        for _ in range(5):
            adding = [house.use(1, other, at=NOON) for other in others for _ in range(20)]
            await asyncio.gather(*adding, house.ledger.relay_once(client))
            house.clock.step(minutes=61)
        await house.ledger.relay_once(client)
        for other in others:
            await other.aclose()
        house.clock.step(hours=3)
        await house.ledger.relay_once(client)

        assert 300 == (await house.balance()).metered
        assert 300 == sum(house.metered().values())


async def test_relays_share_the_quota(place: str) -> None:
    """
    Four of them together keep within what one would have, and are hardly throttled.
    """
    async with house_at(place, grace=0) as house, Sandbox(calls_per_second=50, burst=3) as box:
        house.clock.set(box.clock.now())
        for n in range(100):
            at = box.clock.now().replace(minute=0, second=0)
            await asyncio.gather(
                *(
                    house.use(1, at=at, customer_aws_account_id=f"{n * 25 + k:012d}")
                    for k in range(25)
                )
            )
        house.clock.step(hours=1)
        box.advance(hours=1)
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(relayed(place, house, box) for _ in range(4)))
        took = asyncio.get_running_loop().time() - begun

        assert 2_500 == len(box.book)
        assert box.refusals["ThrottlingException"] <= 15  # 30 and more where they do not share
        assert took >= 0.9 * 100 / 50


async def relayed(place: str, house: House, box: Sandbox) -> None:
    async with UsageLedger.open(place, clock=house.clock, observer=house.warned.append) as ledger:
        pacer = ledger.pacer(50)
        async with MarketplaceMeteringClient(**box.client_arguments, pacer=pacer) as client:
            await ledger.relay_once(client)


async def test_a_file_moves_in(place: str, tmp_path: Path) -> None:
    """
    With all it had, and takes no more usage; called again, it is refused. Covers: M19
    """
    old = f"sqlite:///{tmp_path}/usage.db"
    async with house_at(old) as house:
        await house.use(1, event_id="first")
        house.clock.step(hours=1)
        await house.relay()
        await house.use(2, event_id="second")
        before = await house.balance()
    async with house_at(place) as new:
        moved = await new.ledger.take_over(old)
        after = await new.balance()
        with pytest.raises(LedgerUnusableError, match="only a new ledger"):
            await new.ledger.take_over(old)
        with pytest.raises(LedgerUnusableError, match="has moved"):
            async with house_at(old):
                pass

        assert 2 == moved
        assert (before.recorded, before.metered) == (after.recorded, after.metered)
        new.clock.step(hours=1)
        assert (await new.use(1, event_id="first", at=None)).repeated
        await new.use(4, customer_aws_account_id=ACCOUNT)
        assert 7 == (await new.balance()).recorded
