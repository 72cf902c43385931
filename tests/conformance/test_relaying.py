"""The relay as a service: beside a block, for as long as that lasts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, house_at

from marketplace_metering_async import (
    LedgerRegionMismatchError,
    LedgerUnusableError,
    MarketplaceMeteringException,
    NoCredentialsError,
    NoRegionError,
)
from marketplace_metering_async.events import RelayWorking
from marketplace_metering_async.ledger import relay
from marketplace_metering_async.sandbox import FaultKind, Refusal

THIS_HOUR = NOON.replace(minute=0)
DENIED = Refusal("AccessDeniedException", "not authorized", 400)


pytestmark = pytest.mark.usefixtures("_impatient")


async def test_it_relays_beside_a_block_and_ends_with_it(url: str) -> None:
    """
    What is on the wire at the end is awaited and written down. Newcomer H3
    """
    async with house_at(url, lambda number, body: FaultKind.SLOW if number == 2 else None) as house:
        await house.use(3, at=NOON - HOUR)
        house.clock.step(minutes=11)
        async with house.client(retry=None) as client, house.ledger.relaying(client) as relaying:
            await house.until(lambda: len(house.metered()) == 1)
            await house.use(4, at=NOON - 2 * HOUR)
            house.clock.step(minutes=11)
            await house.until(lambda: len(house.service.requests) == 2)
        await relaying.wait()

        assert None is relaying.problem
        assert {(ACCOUNT, THIS_HOUR - HOUR): 3, (ACCOUNT, THIS_HOUR - 2 * HOUR): 4} == (
            house.metered()
        )
        assert 7 == (await house.balance()).metered


async def test_what_passes_is_outlived_and_said(url: str) -> None:
    """
    An ERROR at once with the amount and the time of the first loss. Newcomer H3, ledger H12
    """
    async with house_at(url, lambda number, body: DENIED if number <= 3 else None) as house:
        await house.use(3)
        house.clock.step(hours=1)
        async with house.client() as client, house.ledger.relaying(client) as relaying:
            await house.until(lambda: relaying.problem is not None)
            await house.until(lambda: bool(house.metered()))
            await house.until(lambda: relaying.problem is None)
        (said,) = house.blocked

        assert "AccessDeniedException" == getattr(said.error, "code", "")
        assert (3, NOON + 24 * HOUR) == (said.units, said.first_loss_at)


async def test_entering_raises_what_no_time_cures(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    Another region or host, no region, a ledger that has moved, a word that is none. Newcomer H3
    """
    await house.relay()
    for settings in ({"region_name": "eu-west-1"}, {"endpoint_url": "http://localhost:1"}):
        async with house.client(**settings) as client:
            with pytest.raises(LedgerRegionMismatchError):
                async with house.ledger.relaying(client):
                    pytest.fail("it was entered")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with house.client(region_name=None) as nowhere:
        with pytest.raises(NoRegionError):
            async with house.ledger.relaying(nowhere):
                pytest.fail("it was entered")
    async with house.client() as client:
        with pytest.raises(ValueError, match="expected 'retry' or 'raise'"):
            house.ledger.relaying(client, on_account_error="panic")  # type: ignore[arg-type]
        await change(house.url, "UPDATE ledger SET moved_to = 'x' RETURNING 1")
        with pytest.raises(LedgerUnusableError, match="has moved to x"):
            async with house.ledger.relaying(client):
                pytest.fail("it was entered")


@pytest.fixture
def keyless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return {"aws_access_key_id": None, "aws_secret_access_key": None}


async def test_missing_credentials_are_said_at_once_and_waited_for(
    house: House, keyless: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A role may take a while to reach a new machine; raised where that is asked for. Newcomer H3,
    ledger H12
    """
    await house.use(3)
    house.clock.step(hours=1)
    async with house.client(**keyless) as client:
        with pytest.raises(NoCredentialsError):
            async with house.ledger.relaying(client, on_account_error="raise"):
                pytest.fail("it was entered")
        async with house.ledger.relaying(client):
            await house.until(lambda: bool(house.blocked))
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            await house.until(lambda: bool(house.metered()))

    assert isinstance(house.blocked[0].error, NoCredentialsError)


async def test_a_relay_that_raises_cancels_the_block(url: str) -> None:
    """
    Nobody would notice a relay that is over. Newcomer H3
    """
    async with house_at(url, lambda number, body: DENIED) as house:
        await house.use(3)
        house.clock.step(hours=1)
        async with house.client() as client:
            with pytest.raises(MarketplaceMeteringException, match="AccessDenied"):
                async with house.ledger.relaying(client, on_account_error="raise"):
                    await asyncio.sleep(60)


async def test_the_blocks_own_error_is_raised(house: House) -> None:
    """
    As it is, after the relay has ended well.
    """
    async with house.client() as client:
        with pytest.raises(ZeroDivisionError):
            async with house.ledger.relaying(client) as relaying:
                raise ZeroDivisionError
        await relaying.wait()


async def test_cancelling_the_block_ends_the_relay(url: str) -> None:
    """
    And loses no answer.
    """
    async with house_at(url, lambda number, body: FaultKind.SLOW) as house:
        await house.use(3)
        house.clock.step(hours=1)

        async def serve() -> None:
            async with house.client(retry=None) as client, house.ledger.relaying(client):
                await asyncio.sleep(60)

        serving = asyncio.create_task(serve())
        await house.until(lambda: bool(house.service.requests))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

        assert 3 == (await house.balance()).metered


async def test_a_relay_that_works_notes_it_and_says_it(url: str) -> None:
    """
    Not while the account is at fault, with work or without: then it is silent. Issue 26
    """
    async with house_at(url, lambda number, body: DENIED if number <= 2 else None) as house:
        before = (await house.ledger.status()).last_relay_seconds
        await house.use(3)
        house.clock.step(hours=1)
        async with house.client() as client:
            for _ in range(2):
                await house.ledger.relay_once(client)
            denied = (await house.ledger.status()).last_relay_seconds
            await house.ledger.relay_once(client)
        house.clock.step(minutes=2)
        status = await house.ledger.status()

        assert (None, None, 120) == (before, denied, status.last_relay_seconds)
        assert (
            "marketplace_metering_ledger_last_relay_seconds 120\n" in await house.ledger.metrics()
        )
        assert [(1, 3)] == [(e.metered, e.units) for e in house.warned if type(e) is RelayWorking]


async def test_a_lane_without_work_says_nothing_while_another_one_sends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The account may be at fault, which is not known before there is a response. Issue 26
    """
    monkeypatch.setattr(relay, "_SEALED_AT_ONCE", 2)
    async with house_at(url, lambda number, body: DENIED) as house:
        for number in range(2):
            await house.use(3, customer_aws_account_id=f"{number:012d}")
        house.clock.step(hours=1)
        for _ in range(2):
            await house.relay()

        assert (await house.ledger.status()).last_relay_seconds is None
        assert [] == [event for event in house.warned if type(event) is RelayWorking]
