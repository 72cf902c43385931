"""What a ledger says of what comes next: when it seals, when it sends again, whose claims end."""

from datetime import timedelta

from support.ended import claim_rules
from support.ledgers import HOUR, NOON, House, house_at

from marketplace_metering_async.sandbox import FaultKind

OVER = NOON.replace(minute=0) + HOUR


async def test_the_next_hour_to_be_sealed_is_shown(house: House) -> None:
    """
    An hour's grace counts from its end, or from the first usage of one that is over. Newcomer M5.
    """
    assert (await house.balance()).next_seal_at is None
    await house.use(1)
    assert OVER + timedelta(minutes=10) == (await house.balance()).next_seal_at
    await house.use(1, at=NOON - HOUR)
    assert NOON + timedelta(minutes=10) == (await house.balance()).next_seal_at


async def test_what_is_to_be_sent_again_is_shown(url: str) -> None:
    """
    With the time before which nobody sends it. Newcomer H4.
    """
    async with house_at(url, lambda number, body: FaultKind.ERROR_500) as house:
        await house.use(1)
        house.clock.set(OVER + HOUR)
        await house.relay()
        status = await house.balance()

    assert (1, 0, None) == (status.frozen, status.in_flight, status.claimed_until)
    assert status.next_send_at is not None
    assert timedelta(0) < status.next_send_at - house.clock.now() <= timedelta(minutes=5)


async def test_what_somebody_claims_is_shown(house: House) -> None:
    """
    With the time at which the last claim ends, whether its relay lives or not. Newcomer H4.
    """
    await house.use(1)
    await house.use(2, dimension="other")
    house.clock.set(OVER + HOUR)
    now = int(house.clock.now().timestamp())
    store = house.ledger._store
    await store.bind("us-east-1", "127.0.0.1")
    await store.seal_due(now, 10, "us-east-1")
    before = await house.balance()
    for lease in (60.0, 120.0):
        await store.claim(now, claim_rules(now, lease, limit=1))
    after = await house.balance()

    assert (0, None) == (before.in_flight, before.claimed_until)
    assert (3, None) == (after.in_flight, after.next_send_at)
    assert after.claimed_until is not None
    if house.url.startswith("sqlite"):  # PostgreSQL's claims go by its own clock
        assert timedelta(seconds=120) == after.claimed_until - house.clock.now()
