"""To which hour, month and subscription usage belongs, and when nobody knows what became of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, hours_read, house_at

from marketplace_metering_async import EventTooOldError, HourState, InvalidRecordError
from marketplace_metering_async.events import UsageEndedUnmetered, WarningIssued
from marketplace_metering_async.ledger import operations
from marketplace_metering_async.sandbox import FaultKind, Product, Refusal

THIS_HOUR = NOON.replace(minute=0)
CUSTOMER: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


async def test_usage_that_is_late_at_a_months_end_is_billed_in_its_month(house: House) -> None:
    """
    Its own hour is sealed, and the last one waits until one o'clock. ledger H10
    """
    house.clock.set(DECEMBER - timedelta(minutes=90))
    await house.use(1)
    house.clock.set(DECEMBER + timedelta(minutes=5))
    await house.relay()
    late = await house.use(2, at=DECEMBER - timedelta(minutes=80))
    house.clock.set(DECEMBER + timedelta(minutes=59))
    later = await house.use(4, at=DECEMBER - timedelta(minutes=70))
    before = await house.relay()
    await house.relay_after(minutes=2)

    last_hour = DECEMBER - HOUR
    assert [(last_hour, True)] * 2 == [(one.hour, one.late) for one in (late, later)]
    assert 0 == before.sealed
    assert {(ACCOUNT, last_hour - HOUR): 1, (ACCOUNT, last_hour): 6} == house.metered()


@pytest.mark.parametrize("word", ["grace", "month_end_grace"])
@pytest.mark.parametrize("seconds", [-1, 14401])
def test_no_grace_is_longer_than_a_months_end_allows(word: str, seconds: Any) -> None:
    """
    Records of a month are taken until six o'clock on the first. ledger H10
    """
    with pytest.raises(ValueError, match=f"{word}: expected 0 to 14400 seconds"):
        House("sqlite:///usage.db", **{word: seconds})


async def test_a_subscription_that_had_ended_is_billed_until_its_end(house: House) -> None:
    """
    Cancelled at 12:30, told of at 14:10: the record of 12:50 is stamped 12:30, and what an hour
    later was used is not sent. ledger M1. Covers: H14
    """
    house.book.products["product"] = Product(customers={ACCOUNT: True})
    for minutes in (0, 20, 80):
        await house.use(1 + minutes, at=NOON - timedelta(hours=2) + timedelta(minutes=minutes))
    ended = NOON - 2 * HOUR
    closed = await house.ledger.close_customer(**CUSTOMER, at=ended)
    await house.relay()
    entries = [(e.state, e.hour, e.quantity) async for e in house.ledger.history()]

    assert 1 == closed
    assert [(ended, 22)] == [(r.timestamp, int(r.quantity)) for r in house.book.records]
    assert [
        (HourState.METERED, THIS_HOUR - 2 * HOUR, 22),
        (HourState.SUBSCRIPTION_OVER, THIS_HOUR - HOUR, 81),
    ] == entries
    assert 103 == (await house.balance()).recorded


async def test_what_an_hour_after_the_end_carried_goes_back(house: House) -> None:
    """
    It happened in the subscription, which has an hour for it. ledger M1
    """
    await house.use(1, at=NOON - 3 * HOUR)
    await house.relay_after(seconds=600)
    await house.use(1, at=NOON - 2 * HOUR)
    await house.use(1, at=NOON - HOUR)
    await house.relay_after(seconds=600)
    carried = await house.use(7, at=NOON - 2 * HOUR)
    await house.use(9)
    await house.ledger.close_customer(**CUSTOMER, at=NOON - 2 * HOUR)
    await house.relay()

    assert THIS_HOUR == carried.hour
    assert {HourState.SUBSCRIPTION_OVER: 16} == (await house.balance()).ended
    assert 3 == (await house.balance()).metered


async def test_an_end_ends_no_hour_of_the_other_scheme(house: House) -> None:
    """
    A customer who has moved to a license ends the agreement of before, and no more. ledger M1, M5
    """
    await house.use(1, at=NOON - HOUR)
    await house.use(5, license_arn=LICENSE)
    await house.ledger.close_customer(**CUSTOMER, at=NOON - timedelta(minutes=45))
    await house.relay()
    await house.use(6, license_arn=LICENSE)
    await house.relay_after(hours=1)

    assert {(ACCOUNT, THIS_HOUR - HOUR): 1, (ACCOUNT, THIS_HOUR): 11} == house.metered()
    assert {} == (await house.balance()).ended


async def test_an_end_reads_nothing_of_the_customers_past(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nor of another dimension what an hour of one may carry, however long ago that happened.
    """
    for dimension in ("first", "second"):
        for ago in range(40, 0, -1):
            await house.use(1, at=NOON - ago * HOUR, dimension=dimension)
    await house.relay_after(hours=1)
    await house.use(1, at=NOON - 40 * HOUR, dimension="first")
    await house.use(1, dimension="second")
    read = hours_read(monkeypatch)
    await house.ledger.close_customer(**CUSTOMER, at=NOON - 2 * HOUR)

    assert len(read) < 30
    await house.balance()


async def test_a_subscription_that_will_end_is_billed_until_then(house: House) -> None:
    """
    All that is used in its last hour, and before, is one record each. ledger M2
    """
    ends = NOON + timedelta(minutes=75)
    await house.ledger.close_customer(**CUSTOMER, at=ends)
    for _ in range(8):
        await house.use(1)
        await house.relay()
        house.clock.step(minutes=10)
    await house.relay()

    assert {(ACCOUNT, THIS_HOUR): 3, (ACCOUNT, THIS_HOUR + HOUR): 5} == house.metered()
    assert {} == (await house.balance()).ended
    after = await house.use(1)
    assert HourState.SUBSCRIPTION_OVER is after.ended


async def test_the_end_of_a_subscription_is_an_aware_time(house: House) -> None:
    """
    A naive one would be of the machine's zone. ledger M2
    """
    with pytest.raises(InvalidRecordError, match="at: expected a time with a time zone"):
        await house.ledger.close_customer(**CUSTOMER, at=NOON.replace(tzinfo=None))


@pytest.mark.parametrize("month", [NOON.replace(tzinfo=None), NOON.date()])
async def test_a_month_of_the_history_is_of_an_aware_time(house: House, month: Any) -> None:
    """
    A naive one would be of the machine's zone, and maybe another month.
    """
    with pytest.raises(InvalidRecordError, match="month: expected a time with a time zone"):
        await anext(house.ledger.history(month=month))


@pytest.mark.parametrize(
    "second",
    [
        Refusal("InvalidLicenseException", "", 400),
        Refusal("TimestampOutOfBoundsException", "", 400),
        "not subscribed",
        "too late",
    ],
)
async def test_what_may_be_metered_is_never_called_unmetered(url: str, second: Any) -> None:
    """
    An answer was lost, and the record is refused later, for its time or state. ledger H11
    """
    lost = iter([FaultKind.RESET_AFTER] * 9)
    refusal: list[Any] = []

    def fault(number: int, body: Any) -> Any:
        return next(lost, None) or (refusal[0] if refusal else None)

    async with house_at(url, fault) as house:
        await house.use(3)
        await house.relay_after(hours=5)
        for _ in lost:
            pass
        if isinstance(second, Refusal):
            refusal.append(second)
        elif second == "not subscribed":
            house.book.records.clear()
            house.book.products["product"] = Product(customers={ACCOUNT: False})
        await house.relay_after(hours=20 if second == "too late" else 1)
        (entry,) = [e async for e in house.ledger.history()]

        assert (HourState.UNCONFIRMED, True) == (entry.state, entry.in_doubt)
        assert {HourState.UNCONFIRMED: 3} == (await house.balance()).ended


async def test_an_event_counts_once_however_often_ids_are_pruned(house: House) -> None:
    """
    Late usage is carried for a month, and its id is known as long; what is older is refused,
    neither added nor stranded. ledger H15
    """
    house.clock.set(datetime(2026, 11, 1, 12, tzinfo=UTC))
    first = house.clock.now()
    await house.use(100, event_id="first")
    for days in (4, 30):
        house.clock.set(first + timedelta(days=days - 1, hours=20))
        await house.relay()
        await house.ledger.prune(house.clock.now() - timedelta(days=3))
        assert (await house.use(100, event_id="first", at=None)).repeated
    house.clock.set(first + timedelta(days=33))
    await house.ledger.prune(house.clock.now() - timedelta(days=3))

    with pytest.raises(EventTooOldError, match="'first' may be of usage that was added before"):
        await house.use(100, event_id="first", at=first)
    assert 100 == (await house.balance()).recorded
    await house.use(1, event_id="new")
    assert 101 == (await house.balance()).recorded


async def test_what_was_pruned_by_a_clock_that_was_ahead_keeps_nothing_new_out(
    house: House,
) -> None:
    """
    Only usage of the time whose ids are forgotten is refused, and not all until that clock is
    right. ledger H15
    """
    first = house.clock.now()
    await house.use(1, event_id="first")
    house.clock.step(days=1500)
    await house.ledger.prune(house.clock.now() - timedelta(days=400))
    house.clock.set(first + timedelta(hours=1))

    assert 13 == (await house.use(2, event_id="new")).hour.hour
    with pytest.raises(EventTooOldError):
        await house.use(1, event_id="first", at=first)
    assert 3 == (await house.balance()).recorded


async def test_ids_are_kept_for_longer_where_somebody_asks(house: House) -> None:
    """
    Those of the hours that are kept. ledger H15
    """
    first = house.clock.now()
    await house.use(100, event_id="first", at=first)
    house.clock.step(days=100)
    await house.ledger.prune(first)

    assert (await house.use(100, event_id="first", at=first)).repeated


@pytest.mark.parametrize(("ahead", "before"), [(3650 * 24 * HOUR, 5), (HOUR, 2)])
async def test_ids_of_a_clock_that_was_ahead_keep_no_others(
    house: House, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, before: int
) -> None:
    """
    Those of the right time that came later are forgotten all the same, the others in theirs.
    """
    monkeypatch.setattr(operations, "CHANGED_AT_ONCE", 3)
    for later, name, times in (
        (ahead, "ahead", before),
        (timedelta(0), "right", 4),
        (timedelta(days=32, minutes=1), "young", 4),
    ):
        house.clock.set(NOON + later)
        for number in range(times):
            await house.use(event_id=f"{name}-{number}")
    await house.ledger.prune(house.clock.now() - timedelta(days=4))
    names = [f"{kind}-{n}" for kind in ("ahead", "right", "young") for n in range(5)]
    known = await house.ledger._store.known_events(names)

    assert before + 4 == len(known)
    assert not [name for name in known if name.startswith("right")]


LICENSE = "arn:aws:license-manager::123456789012:license:l-0123456789abcdef"


@pytest.mark.parametrize("first", [None, LICENSE])
async def test_an_hour_is_billed_by_one_scheme(house: House, first: str | None) -> None:
    """
    By the one that came first: the other one's usage is kept, reported, and not sent; in other
    hours, and of other customers, it is. ledger M5. Covers: M17
    """
    second = LICENSE if first is None else None
    await house.use(1, license_arn=first)
    kept = await house.use(2, license_arn=second)
    await house.use(4, license_arn=first)
    later = await house.use(8, license_arn=second, at=NOON - HOUR)
    other = await house.use(16, license_arn=second, dimension="other")
    another_license = await house.use(32, license_arn=LICENSE[:-1] + "0", dimension="other")
    await house.relay_after(hours=1)

    assert (HourState.OTHER_SCHEME, None) == (kept.ended, kept.hour)
    assert [None, None] == [later.ended, other.ended]
    assert (None if second else HourState.OTHER_SCHEME) is another_license.ended
    status = await house.balance()
    assert 63 == status.recorded
    assert 2 + (0 if second else 32) == status.ended[HourState.OTHER_SCHEME]
    assert UsageEndedUnmetered(state="other_scheme", records=1) in house.warned
    assert 0 == await house.ledger.retry()


async def test_a_scheme_that_is_new_beside_the_other_one_comes_second(house: House) -> None:
    """
    In one commit with more usage of the hour that the first one has. ledger M5
    """
    await house.use(1)
    more, new = await asyncio.gather(house.use(2), house.use(4, license_arn=LICENSE))

    assert (NOON.replace(minute=0), HourState.OTHER_SCHEME) == (more.hour, new.ended)


@pytest.mark.parametrize("has_license", [False, True])
async def test_what_is_too_old_to_be_sent_reads_nothing_of_its_customers_past(
    house: House, monkeypatch: pytest.MonkeyPatch, *, has_license: bool
) -> None:
    """
    A queue that brings the usage of months ago reads no month of hours of each customer; which
    hours the other scheme had is known all the same. ledger M5
    """
    hours = 40
    for ago in range(hours):
        await house.use(1, at=NOON - ago * HOUR)
    if has_license:
        await house.use(1, license_arn=LICENSE, at=NOON + timedelta(minutes=1))
    house.clock.step(days=60)
    read = hours_read(monkeypatch)
    second = LICENSE if has_license else None
    had, had_not = await asyncio.gather(
        *(house.use(2, at=NOON - ago * HOUR, license_arn=second) for ago in (9, hours))
    )

    assert (HourState.OTHER_SCHEME if has_license else HourState.MONTH_OVER) is had.ended
    assert HourState.MONTH_OVER is had_not.ended
    assert len(read) <= has_license
    await house.balance()


async def test_what_cannot_be_the_same_is_billed(house: House) -> None:
    """
    A license of an unknown product, and a legacy identifier. ledger M5
    """
    await house.use(1)
    for who in (
        {"license_arn": LICENSE, "product_code": None},
        {"customer_identifier": "legacy", "customer_aws_account_id": None},
        {"license_arn": LICENSE[:-1] + "0", "product_code": "other"},
    ):
        assert (await house.use(2, **who)).hour is not None


async def test_what_may_be_one_customers_usage_by_two_names_is_said(house: House) -> None:
    """
    Once of a product, by the relay: by legacy identifier and by account, or with a license whose
    product nobody names. ledger M5
    """
    legacy: dict[str, Any] = {"customer_identifier": "legacy", "customer_aws_account_id": None}
    async with house.client(observer=house.warned.append) as client:
        relay = house.ledger._relay(client, None)
        for _ in range(2):
            await house.use(1)
            await house.use(2, license_arn=LICENSE, product_code=None)
            await house.use(3, **legacy)
            await house.use(4, **legacy, product_code="other")
            house.clock.step(hours=1)
            assert 4 == (await relay.once()).metered
    said = [event.text for event in house.warned if isinstance(event, WarningIssued)]

    assert 1 == sum("product product has both in one hour" in text for text in said)
    assert 1 <= sum("came with and without a license" in text for text in said)
    assert {True} == {"product product" in text or "without a license" in text for text in said}
