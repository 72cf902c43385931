"""
The story of a restored ledger.

Five units are metered, the ledger is backed up, a hundred more come late and are metered with a
later hour, and then the backup is put back. Whoever adds the hundred again has no way to know that
they are metered: the ledger has.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from marketplace_metering_async import RetryPolicy
from marketplace_metering_async.events import WarningIssued
from support.ledgers import NOON, House


def watermark_in(folder: Path) -> Path:
    """Return the one watermark in a folder."""
    (found,) = folder.glob("*.watermark")
    return found


def warnings_of(house: House) -> list[str]:
    return [event.text for event in house.warned if isinstance(event, WarningIssued)]


async def an_hour_later(house: House) -> Any:
    """Relay with a client that waits for a machine that is busy."""
    house.clock.step(hours=1)
    return await house.relay(retry=RetryPolicy(timeout=60))


async def first_five(house: House) -> None:
    """Meter five units in the hour of noon."""
    await house.use(5, event_id="early", at=NOON)
    await an_hour_later(house)
    assert 5 == billed(house)


async def sealed(house: House) -> None:
    """Freeze five units, whose hour is over."""
    await house.use(5)
    house.clock.step(hours=1)
    await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")


async def late_hundred(house: House) -> None:
    """Add a hundred units of the hour of noon, whose record is gone."""
    await house.use(100, event_id="late", at=NOON)


def billed(house: House) -> int:
    return sum(int(units) for units in house.metered().values())


async def lost_timeline(house: House) -> None:
    """Meter the hundred with a later hour, and then be no more."""
    await late_hundred(house)
    await an_hour_later(house)
    assert 105 == billed(house)


async def repeated(house: House) -> None:
    """Let the producers repeat all that they know, and some hours go by with usage of their own."""
    await house.use(5, event_id="early", at=NOON)
    await late_hundred(house)
    for _ in range(3):
        await an_hour_later(house)


async def adopted(house: House) -> None:
    """Go on with the copy, and see that new usage is metered."""
    before = billed(house)
    await house.ledger.adopt_copy()
    house.clock.step(hours=1)
    await house.use(7, event_id="new")
    for _ in range(3):
        await an_hour_later(house)
    assert before + 7 == billed(house)


def again(house: House, url: str) -> House:
    """Return a house of the same service and clock at a restored ledger."""
    other = House(url)
    other.clock, other.service = house.clock, house.service
    other.ledger = other.another()
    return other


async def idle_meanwhile(
    house: House, back_up: Callable[[], None], put_back: Callable[[], None]
) -> None:
    """Let a relay that had nothing to do while the story went on be the first one after it."""
    await first_five(house)
    async with house.another() as idle:
        back_up()
        await lost_timeline(house)
        await house.ledger.aclose()
        put_back()
        house.ledger = idle
        await repeated(house)
        assert (await house.balance()).is_unconfirmed_copy
        assert 105 == billed(house)
