"""Usage of an hour that a process remembers, which others have changed since it added to it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, house_at

from marketplace_metering_async import AddedUsage, EventConflictError, HourState
from marketplace_metering_async.limits import MAX_QUANTITY

THIS_HOUR = NOON.replace(minute=0)
WHO: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
MINUTE = timedelta(minutes=1)


async def test_a_remembered_hour_grows_without_a_look_at_it(house: House) -> None:
    """
    By its quantity, its events and its latest moment, and so do the sums; nothing else changes.
    """
    columns = "SELECT state, seal_at, opened_at, urgent, quantity, events, stamp FROM hour"
    await house.use(1, at=NOON - MINUTE)
    ((*before, quantity, events, stamp),) = await change(house.url, columns)
    await asyncio.gather(house.use("0.25", at=NOON), house.use(2, at=NOON - 2 * MINUTE))
    ((*after, more, pieces, latest),) = await change(house.url, columns)

    assert before == after
    assert (2_250_000, 2, 60) == (more - quantity, pieces - events, latest - stamp)
    status = await house.balance()
    assert "3.25" == str(status.recorded)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=7, hours=11), timedelta(days=7.5)])
async def test_what_belongs_to_a_remembered_hour_does_not_look_for_its_key(
    house: House, ahead: timedelta
) -> None:
    """
    Nor in the last hour of a month, which is due later, or the first one. ledger H3
    """
    house.clock.set(NOON + ahead)
    await house.use(1)
    await change(house.url, "UPDATE usage_key SET name = '[\"hidden\"]'")
    await asyncio.gather(house.use(2), house.use(4))

    assert [(7_000_000,)] == await change(house.url, "SELECT quantity FROM hour")


async def test_an_hour_that_was_sealed_meanwhile_takes_nothing(house: House) -> None:
    """
    Its usage is late, and its event is stored once.
    """
    await house.use(1)
    house.clock.step(hours=1)
    async with house.another() as other:
        await other._store.seal_due(other._now(), 10, "us-east-1")
    late = await house.use(2, at=NOON, event_id="late")
    again = await house.use(2, at=NOON, event_id="late")

    assert AddedUsage(hour=THIS_HOUR + HOUR, late=True) == late
    assert AddedUsage(repeated=True) == again
    status = await house.balance()
    assert (3, 1, 2) == (status.recorded, status.frozen, status.open)


@pytest.mark.parametrize("after", [timedelta(0), -HOUR])
async def test_an_hour_of_a_customer_who_left_meanwhile_takes_what_is_due(
    house: House, after: timedelta
) -> None:
    """
    Usage up to the end, and none after it; also where the hour is after the end, and gone.
    """
    await house.use(1)
    house.clock.step(minutes=10)
    async with house.another() as other:
        await other.close_customer(**WHO, at=NOON + after)
    before, behind = await asyncio.gather(house.use(2, at=NOON), house.use(4))

    over = AddedUsage(ended=HourState.SUBSCRIPTION_OVER)
    assert over == behind
    assert before == (over if after else AddedUsage(hour=THIS_HOUR))
    status = await house.balance()
    assert 7 == status.recorded
    assert (7 if after else 4) == status.ended[HourState.SUBSCRIPTION_OVER]


async def test_an_hour_that_a_person_gave_to_a_customer_who_left_takes_nothing_else(
    house: House,
) -> None:
    """
    It has the number of the hour that was remembered.
    """
    await house.use(1)
    house.clock.step(minutes=10)
    async with house.another() as other:
        await other.close_customer(**WHO, at=NOON - HOUR)
        assert 1 == await other.retry(HourState.SUBSCRIPTION_OVER)
    added = await house.use(2)

    assert HourState.SUBSCRIPTION_OVER is added.ended
    assert 1 == (await house.balance()).open


async def test_an_hour_that_is_due_when_its_customer_leaves_takes_nothing_of_later(
    house: House,
) -> None:
    """
    In the very second in which it is due, so that this is as it was.
    """
    await house.use(1, at=NOON)
    house.clock.set(THIS_HOUR + HOUR + 10 * MINUTE)
    async with house.another() as other:
        await other.close_customer(**WHO, at=NOON)

    assert HourState.SUBSCRIPTION_OVER is (await house.use(2, at=NOON + MINUTE)).ended


async def test_a_subscription_that_ends_later_changes_nothing_until_then(house: House) -> None:
    """
    An hour that is sealed before the end goes on.
    """
    await house.use(1)
    async with house.another() as other:
        await other.close_customer(**WHO, at=NOON + 3 * HOUR)

    assert AddedUsage(hour=THIS_HOUR) == await house.use(2)
    assert [(0, 3_000_000)] == await change(house.url, "SELECT urgent, quantity FROM hour")


async def test_a_process_with_another_grace_seals_by_its_own(house: House) -> None:
    """
    Whoever adds last says when.
    """
    due = "SELECT seal_at FROM hour"
    await house.use(1)
    (before,) = await change(house.url, due)
    async with house.another(grace=1200) as other:
        await house.use(1, other)
        (between,) = await change(house.url, due)
    await house.use(1)

    assert 600 == between[0] - before[0]
    assert before == (await change(house.url, due))[0]


async def test_an_hour_that_others_have_filled_takes_no_more(house: House) -> None:
    """
    What a group brings for a key is looked at as a whole.
    """
    await house.use(1)
    async with house.another() as other:
        await house.use(MAX_QUANTITY - 3, other)
    outcomes = await asyncio.gather(house.use(1), house.use(2))

    assert [THIS_HOUR, THIS_HOUR + HOUR] == [one.hour for one in outcomes]
    found = await change(house.url, "SELECT quantity FROM hour ORDER BY hour")
    assert [(MAX_QUANTITY - 1) * 1_000_000, 2_000_000] == [quantity for (quantity,) in found]
    await house.balance()


async def test_an_event_that_another_process_has_added_adds_nothing(house: House) -> None:
    """
    Beside others of the same hour, and in conflict where it said something else.
    """
    await house.use(1)
    async with house.another() as other:
        await asyncio.gather(*(house.use(2, other, event_id=name) for name in ("same", "other")))
    outcomes: Any = await asyncio.gather(
        house.use(2, event_id="same"),
        house.use(4, event_id="new"),
        house.use(8, event_id="other"),
        house.use(16),
        return_exceptions=True,
    )

    assert AddedUsage(repeated=True) == outcomes[0]
    assert isinstance(outcomes[2], EventConflictError)
    assert [AddedUsage(hour=THIS_HOUR)] * 2 == [outcomes[1], outcomes[3]]
    assert 25 == (await house.balance()).recorded


async def test_a_dimension_that_others_declare_whole_is_so_at_once(url: str) -> None:
    """
    Also for who has added to the hour before.
    """
    async with house_at(url) as house:
        await house.use("0.5")
        async with house.another(whole=["requests"]):
            pass
        outcomes = await asyncio.gather(house.use("0.5"), house.use(1), return_exceptions=True)

        assert "declared whole" in str(outcomes[0])
        assert AddedUsage(hour=THIS_HOUR) == outcomes[1]
        assert "1.5" == str((await house.balance()).recorded)
