"""Every point at which a ledger may break, broken on both stores: what is used is billed once."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, a_caller, change, house_at

from marketplace_metering_async import (
    CannotResolveError,
    HourState,
    LedgerMissingError,
    UsageLedger,
)
from marketplace_metering_async.ledger.stores import store_at
from marketplace_metering_async.sandbox import FaultKind, Rules

THIS_HOUR = NOON.replace(minute=0)
PIECES: tuple[int | str, ...] = ("1.000001", 2, "3.5", "3.499999")
"""What is used: ten units."""


class BrokenError(Exception):
    """What breaks."""


class Points:
    """Counts the points that are reached, and breaks at one of them."""

    def __init__(self, name: str | None = None, hit: int = 0) -> None:
        self.reached: dict[str, int] = {}
        self.broken = (name, hit)

    def __call__(self, name: str) -> None:
        self.reached[name] = self.reached.get(name, 0) + 1
        if (name, self.reached[name]) == self.broken:
            raise BrokenError(name)


def ledger_of(house: House, points: Points) -> UsageLedger:
    """Return a ledger on the house's database that breaks at *points*."""
    return UsageLedger(
        store_at(house.url, reach=points),
        clock=house.clock,
        grace=600,
        observer=house.warned.append,
        reach=points,
    )


async def use_and_relay(house: House, ledger: UsageLedger) -> None:
    """Add usage of two hours, some of it in a caller's transaction, and send."""
    for number, quantity in enumerate(PIECES):
        at = NOON - number % 2 * HOUR
        if number == len(PIECES) - 1 and not house.url.startswith("sqlite"):
            async with a_caller(house.url) as connection:
                await house.use(
                    quantity, ledger, at=at, event_id=f"event-{number}", connection=connection
                )
        else:
            await house.use(quantity, ledger, at=at, event_id=f"event-{number}")
    house.clock.step(hours=1)
    async with house.client() as client:
        await ledger.relay_once(client)


async def end_leases(house: House) -> None:
    """Let the time pass for which the dead relay holds its claims: PostgreSQL goes by its own."""
    await change(
        house.url, "UPDATE hour SET lease_until = 0 WHERE lease_until IS NOT NULL RETURNING 1"
    )


async def points_of(url: str, *, early: bool) -> list[tuple[str, int]]:
    """
    Return what the story reaches once a request is out: each point with its first and last hit.

    And, where *early*, what it reaches before, when nothing depends yet on what the service will
    do: the first two hits and the last.
    """
    points = Points()
    before: dict[str, int] = {}

    def note(number: int, _: Any) -> None:
        if number == 1:
            before.update(points.reached)

    async with house_at(url, note) as house, ledger_of(house, points) as ledger:
        await use_and_relay(house, ledger)
    found = []
    for name, hits in sorted(points.reached.items()):
        sent_at = before.get(name, 0)
        wanted = {sent_at + 1, hits} if sent_at < hits else set()
        if early:
            wanted |= {hit for hit in (1, 2, sent_at) if 0 < hit <= sent_at}
        found += [(name, hit) for hit in sorted(wanted)]
    return found


@pytest.mark.parametrize(
    ("resend", "fault"),
    [("duplicate", None), ("duplicate", FaultKind.RESET_AFTER), ("success", FaultKind.DROP)],
)
async def test_wherever_it_breaks_usage_is_billed_once(
    new_url: Callable[[], Any], resend: Any, fault: FaultKind | None
) -> None:
    """
    And the caller who repeats with the same event ids loses and doubles nothing. Covers: K01, K04
    """
    names = await points_of(await new_url(), early=fault is None)
    assert (30 if fault is None else 7) <= len(names)
    for name, hit in names:
        url = await new_url()
        async with house_at(url, lambda n, _: fault if n == 1 else None) as house:
            house.book.rules = Rules(identical_resend=resend)
            with suppress(BrokenError):
                async with ledger_of(house, Points(name, hit)) as ledger:
                    await use_and_relay(house, ledger)
            house.clock.set(NOON)
            await end_leases(house)
            for number, quantity in enumerate(PIECES):
                at = NOON - number % 2 * HOUR
                await house.use(quantity, at=at, event_id=f"event-{number}")
            for _ in range(4):
                await house.relay_after(hours=1)
            status = await house.balance()

            assert 10 == status.recorded, (name, hit)
            assert 10 == sum(house.metered().values()), (name, hit)
            ours = status.metered + status.ended.get(HourState.PROBABLY_METERED, 0)
            assert 10 == ours, (name, hit, status)
            assert {ACCOUNT} == {customer for customer, _ in house.metered()}
            assert THIS_HOUR - HOUR in {hour for _, hour in house.metered()}


@pytest.mark.parametrize(("point", "hit"), [("migrate: statement", 3), ("migrate: done", 1)])
async def test_a_process_that_is_killed_while_it_makes_the_tables_leaves_none(
    url: str, point: str, hit: int
) -> None:
    """
    And the next one makes them all. Covers: K12
    """
    with pytest.raises(BrokenError):
        async with UsageLedger(store_at(url, reach=Points(point, hit))):
            pass

    with pytest.raises(LedgerMissingError):
        async with UsageLedger.open(url, create=False):
            pass
    async with house_at(url) as house:
        await house.use(1)
        assert 1 == (await house.balance()).recorded


async def refused_and_ended(house: House, ledger: UsageLedger) -> str:
    """Use three units of a customer who has not subscribed, and return the name of the hour."""
    house.service.world.declare_product("product", customers={ACCOUNT: False})
    await house.use(3, ledger)
    house.clock.step(hours=1)
    async with house.client() as client:
        await ledger.relay_once(client)
    house.service.world.set_subscribed("product", ACCOUNT, subscribed=True)
    ((name, state),) = [(entry.name, entry.state) async for entry in ledger.history()]
    assert HourState.NOT_SUBSCRIBED is state
    return name


async def send_again(ledger: UsageLedger, name: str) -> None:
    del name
    await ledger.retry()


async def bill_anew(ledger: UsageLedger, name: str) -> None:
    await ledger.resolve([name], "not_metered", note="looked")
    await ledger.reopen([name], note="to be paid")


@pytest.mark.parametrize("verb", [send_again, bill_anew])
async def test_an_operators_word_that_breaks_off_may_be_repeated(
    new_url: Callable[[], Any], verb: Callable[[UsageLedger, str], Any]
) -> None:
    """
    Wherever it was: the usage is billed once, and what was done already is refused or adds nothing.
    Covers: K14
    """
    points = Points()
    async with house_at(await new_url()) as house:
        name = await refused_and_ended(house, house.ledger)
        async with ledger_of(house, points) as ledger:
            points.reached.clear()
            await verb(ledger, name)
    assert points.reached
    for point, hits in points.reached.items():
        async with house_at(await new_url()) as house:
            name = await refused_and_ended(house, house.ledger)
            breaking = Points()
            async with ledger_of(house, breaking) as ledger:
                breaking.reached.clear()
                breaking.broken = (point, hits)
                with pytest.raises(BrokenError):
                    await verb(ledger, name)
            with suppress(CannotResolveError):
                await verb(house.ledger, name)
            for _ in range(3):
                await house.relay_after(hours=1)
            status = await house.balance()

            assert 3 == sum(house.metered().values()), (point, hits)
            assert (3, 0, 0) == (status.metered, status.open, status.frozen), (point, hits)


async def test_a_relay_that_is_killed_while_it_searches_is_followed_by_another(
    house: House,
) -> None:
    """
    It finds the same record at fault, which an earlier relay may have sent alone for all that it
    knows, and meters all others once. Covers: K11
    """
    house.service.world.declare_product("product", dimensions=["requests"])
    for number in range(12):
        await house.use(1, customer_aws_account_id=f"{number:012d}")
    await house.use(5, dimension="unknown")
    house.clock.step(hours=1)
    async with house.another() as dying, house.client() as client:
        searching = asyncio.create_task(dying.relay_once(client))
        await house.until(lambda: len(house.service.requests) >= 3)
        dead: Any = dying._store
        dead.settle = dead.return_claims = _says_nothing
        searching.cancel()
        await asyncio.gather(searching, return_exceptions=True)
    await end_leases(house)
    house.clock.step(hours=1)

    await house.relay()
    status = await house.balance()

    assert 12 == status.metered + status.ended.pop(HourState.PROBABLY_METERED, 0)
    assert {HourState.UNCONFIRMED: 5} == status.ended
    assert [1] * 12 == [int(record.quantity) for record in house.book.records]


async def _says_nothing(*_: Any) -> list[Any]:
    return []
