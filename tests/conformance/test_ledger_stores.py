"""What holds of a ledger, on whichever database it is kept."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from support.ended import claimed, fate, settle
from support.ledgers import ACCOUNT, HOUR, NOON, House, SetClock, change, house_at
from support.memory import MemoryService

from marketplace_metering_async import (
    Customer,
    EventConflictError,
    HourState,
    InvalidRecordError,
    LateUsageError,
    LedgerClosedError,
    LedgerError,
    LedgerRegionMismatchError,
    LedgerUnusableError,
    MarketplaceMeteringException,
    RetryPolicy,
)
from marketplace_metering_async.cli.commands.ledger_status import exit_of
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger import claims, ledger, operations
from marketplace_metering_async.sandbox import Book, FaultKind, Product, Refusal, Rules

THIS_HOUR = NOON.replace(minute=0)


async def test_usage_of_an_hour_is_one_record(house: House) -> None:
    """
    Whatever came in one by one is metered as one sum, once the hour is over and its grace, too.
    """
    for quantity in (1, 2, 3):
        await house.use(quantity)

    assert 0 == (await house.relay()).sealed
    house.clock.set(THIS_HOUR + HOUR + timedelta(seconds=599))
    assert 0 == (await house.relay()).sealed
    assert 1 == (await house.relay_after(seconds=1)).metered

    assert {(ACCOUNT, THIS_HOUR): 6} == house.metered()
    assert 6 == (await house.balance()).metered


async def test_the_timestamp_is_the_latest_usage(house: House) -> None:
    """
    Inside the subscription, whenever in the hour that began or ended. Covers: H13
    """
    await house.use(at=NOON - timedelta(minutes=20))
    await house.use(at=NOON - timedelta(minutes=5))
    await house.relay_after(hours=2)

    assert [NOON - timedelta(minutes=5)] == [r.timestamp for r in house.book.records]


async def test_moments_beyond_32_bits_are_moments(house: House) -> None:
    """
    As of 2038: they are sealed, sent, counted and listed as others.
    """
    house.clock.set(datetime(2040, 1, 2, 12, tzinfo=UTC))
    await house.use(3)

    assert 1 == (await house.ledger.status()).hours_at_next_seal
    house.clock.step(hours=2)
    assert 1 == (await house.relay()).metered
    (entry,) = [entry async for entry in house.ledger.history(newest_first=True)]
    assert datetime(2040, 1, 2, 12, tzinfo=UTC) == entry.hour
    house.clock.step(days=40)
    assert 1 == await house.ledger.prune(house.clock.now() - timedelta(days=35))


async def test_an_event_counts_once(house: House) -> None:
    """
    Its id given again with the same content adds nothing, with other content it is an error.
    Covers: K02, V12
    """
    first = await house.use(5, event_id="e", at=NOON)
    again = await house.use(5, event_id="e", at=NOON)
    with pytest.raises(EventConflictError, match="'e' is known with other content"):
        await house.use(6, event_id="e", at=NOON)

    assert (False, True) == (first.repeated, again.repeated)
    assert 5 == (await house.balance()).recorded


async def test_an_event_counts_once_within_a_group(house: House) -> None:
    """
    Calls that share a commit are told apart as those that do not.
    """
    first, again, other = (
        asyncio.create_task(house.use(quantity, event_id="e")) for quantity in (5, 5, 6)
    )
    with pytest.raises(EventConflictError):
        await other

    assert (False, True) == ((await first).repeated, (await again).repeated)
    assert 5 == (await house.balance()).recorded


async def test_late_usage_goes_to_the_hour_after(house: House) -> None:
    """
    Its own hour is sealed and its record never changes; where it came from is kept.
    Covers: H16, M07
    """
    await house.use(1)
    await house.relay_after(hours=2)
    late = await house.use(7, at=NOON)
    await house.relay_after(hours=2)

    after = THIS_HOUR + HOUR
    assert (True, after) == (late.late, late.hour)
    assert {(ACCOUNT, THIS_HOUR): 1, (ACCOUNT, after): 7} == house.metered()
    entries = [entry async for entry in house.ledger.history()]
    assert [(THIS_HOUR, 7, 1)] == [
        (c.origin, c.quantity, c.events) for entry in entries for c in entry.carried
    ]
    assert 8 == (await house.balance()).metered


async def test_late_usage_may_be_refused(url: str) -> None:
    """
    With late="refuse" the caller is told, and nothing is stored.
    """
    async with house_at(url, late="refuse") as house:
        await house.use(1)
        await house.relay_after(hours=2)
        with pytest.raises(LateUsageError, match="takes no more usage"):
            await house.use(7, at=NOON)

        assert 1 == (await house.balance()).recorded


async def test_a_past_hour_without_a_record_is_opened(house: House) -> None:
    """
    Usage of it is no late usage; it is sealed when its grace is over.
    """
    added = await house.use(3, at=NOON - 5 * HOUR)
    assert 0 == (await house.relay()).sealed
    await house.relay_after(seconds=600)

    assert (False, THIS_HOUR - 5 * HOUR) == (added.late, added.hour)
    assert {(ACCOUNT, THIS_HOUR - 5 * HOUR): 3} == house.metered()


async def test_a_clock_that_goes_back_opens_no_hour(house: House) -> None:
    """
    Sealed is for ever: usage of the hour goes to the next one. Covers: H03, H04
    """
    await house.use(1)
    await house.relay_after(hours=2)
    house.clock.step(hours=-2)
    added = await house.use(2)

    assert (True, THIS_HOUR + HOUR) == (added.late, added.hour)
    assert 3 == (await house.balance()).recorded


async def test_nothing_is_carried_over_the_edge_of_a_month(house: House) -> None:
    """
    It ends in a state of its own, and a person may move it on. Covers: H17
    """
    last = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    house.clock.set(last)
    await house.use(1)
    await house.relay_after(hours=2)
    added = await house.use(4, at=last)

    assert HourState.MONTH_OVER is added.ended
    assert {HourState.MONTH_OVER: 4} == (await house.balance()).ended
    assert 1 == await house.ledger.retry(HourState.MONTH_OVER)
    await house.relay_after(hours=2)
    assert {
        (ACCOUNT, last.replace(minute=0)): 1,
        (ACCOUNT, datetime(2026, 12, 1, 1, tzinfo=UTC)): 4,
    } == (house.metered())
    assert 5 == (await house.balance()).metered


async def test_the_last_hours_of_a_month_go_first(house: House) -> None:
    """
    Records go by deadline: 06:00 UTC on the first comes before a day after yesterday's noon.
    Covers: H07
    """
    house.clock.set(datetime(2026, 12, 1, 1, 0, tzinfo=UTC))
    hours = [datetime(2026, 12, 1, 0, 10, tzinfo=UTC), datetime(2026, 11, 30, 23, 10, tzinfo=UTC)]
    for n, hour in enumerate(hours):
        await house.use(n + 1, at=hour)
    house.clock.step(minutes=30)
    await house.relay(max_concurrency=1)

    assert [2, 1] == [
        record["Quantity"] for body in house.service.requests for record in body["UsageRecords"]
    ]


async def test_the_hour_of_a_cancellation_is_sent_at_once(house: House) -> None:
    """
    Before all others; what happens after it is kept by name and can be re-armed. Covers: H14
    """
    await house.use(1, customer_aws_account_id="000000000002", at=NOON - 3 * HOUR)
    await house.use(5)
    house.clock.step(seconds=700)
    closed = await house.ledger.close_customer(
        product_code="product", customer_aws_account_id=ACCOUNT
    )
    await house.relay(max_concurrency=1)
    after = await house.use(9)

    assert 1 == closed
    assert [5, 1] == [
        record["Quantity"] for body in house.service.requests for record in body["UsageRecords"]
    ]
    assert HourState.SUBSCRIPTION_OVER is after.ended
    assert {HourState.SUBSCRIPTION_OVER: 9} == (await house.balance()).ended


async def test_a_customer_that_comes_back_is_metered(house: House) -> None:
    """
    reopen_customer() ends what close_customer() began, also for new dimensions.
    """
    customer: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
    await house.ledger.close_customer(**customer)
    house.clock.step(seconds=1)
    lost = await house.use(1, dimension="new")
    await house.ledger.reopen_customer(**customer)
    kept = await house.use(2, dimension="new")

    assert HourState.SUBSCRIPTION_OVER is lost.ended
    assert THIS_HOUR == kept.hour


@pytest.mark.parametrize("later", [None, datetime(2026, 11, 30, 23, 59, tzinfo=UTC)])
async def test_a_subscription_that_does_not_end_then_leaves_its_hours_open(
    house: House, later: datetime | None
) -> None:
    """
    They were due at an end that was taken back or put off: the last hour of a month was sealed
    then, and no other one could carry what came after.
    """
    customer: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
    end = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    house.clock.set(end - timedelta(minutes=10))
    await house.use(1, dimension="other")
    await house.use(1)
    await house.ledger.close_customer(**customer, at=end)
    if later is None:
        await house.ledger.reopen_customer(**customer)
    else:
        await house.ledger.close_customer(**customer, at=later)
    await house.relay_after(minutes=11)
    kept = [(await house.use(2, dimension=name)).hour for name in ("requests", "other", "new")]
    status = await house.ledger.status()
    await house.relay_after(hours=2)

    assert [end.replace(minute=0)] * 3 == kept
    assert (later or end + timedelta(minutes=90)) == status.next_seal_at
    assert (8, {}) == ((await house.balance()).metered, status.ended)


async def test_every_attempt_carries_the_same_bytes(url: str) -> None:
    """
    By whichever relay, and whatever is added or sealed in between. Covers: K07, H02
    """
    relays = [0]

    def lost(number: int, body: Any) -> FaultKind | None:
        del number, body
        return FaultKind.RESET_AFTER if relays[0] < 3 else None

    async with house_at(url, lost) as house:
        await house.use(3)
        house.clock.step(hours=1)
        sent: list[tuple[int, Any]] = []
        for relays[0] in range(1, 5):
            before = len(house.service.requests)
            await house.relay()
            for body in house.service.requests[before:]:
                records = [one for one in body["UsageRecords"] if one["Quantity"] == 3]
                sent += [(relays[0], record) for record in records]
            await house.use(1, at=NOON)
            house.clock.step(minutes=10)

        assert {1, 2, 3} <= {relay for relay, _ in sent}
        assert all(record == sent[0][1] for _, record in sent)


@pytest.mark.parametrize(
    ("resend", "ended", "metered"),
    [("duplicate", {HourState.PROBABLY_METERED: 3}, 0), ("success", {}, 3)],
)
async def test_a_resend_after_a_lost_answer_is_told_apart_from_anothers_record(
    url: str, resend: Any, ended: dict[HourState, int], metered: int
) -> None:
    """
    Under both readings of the service's page. Covers: S16
    """
    async with house_at(
        url, lambda number, body: FaultKind.RESET_AFTER if number == 1 else None
    ) as house:
        house.book.rules = Rules(identical_resend=resend)
        await house.use(3)
        await house.relay_after(hours=1)
        status = await house.balance()

        assert (ended, metered) == (status.ended, status.metered)
        assert {(ACCOUNT, THIS_HOUR): 3} == house.metered()


async def test_a_duplicate_of_anothers_record_is_a_conflict(house: House) -> None:
    """
    Nothing of it counts as metered. Covers: S15, M15
    """
    async with house.client() as client:
        await client.batch_meter_usage(
            [
                {
                    "Timestamp": NOON,
                    "Dimension": "requests",
                    "Quantity": 99,
                    "CustomerAWSAccountId": ACCOUNT,
                }
            ],
            product_code="product",
        )
    await house.use(3)
    await house.relay_after(hours=1)

    assert {HourState.CONFLICT: 3} == (await house.balance()).ended
    assert {(ACCOUNT, THIS_HOUR): 99} == house.metered()


async def test_a_customer_who_is_not_subscribed_is_named_and_may_be_retried(house: House) -> None:
    """
    For the service's word, where there is no error; the identical record is sent once the customer
    has subscribed. Covers: S14. Newcomer M11
    """
    product = Product(customers={ACCOUNT: False})
    house.book.products["product"] = product
    await house.use(3)
    await house.relay_after(hours=1)
    before = (await house.balance()).ended
    reasons = [entry.reason async for entry in house.ledger.history()]
    product.customers[ACCOUNT] = True
    retried = await house.ledger.retry()
    await house.relay()

    assert {HourState.NOT_SUBSCRIBED: 3} == before
    assert ["CustomerNotSubscribed"] == reasons
    assert 1 == retried
    assert 3 == (await house.balance()).metered


async def test_a_refused_record_is_named_and_costs_nobody_else(house: House) -> None:
    """
    A dimension that the product does not have. Covers: S06
    """
    house.book.products["product"] = Product(dimensions=frozenset({"requests"}))
    await house.use(2, dimension="nonsense")
    await house.use(3)
    report = await house.relay_after(hours=1)

    assert {HourState.REJECTED: 1} == dict(report.ended)
    assert {HourState.REJECTED: 2} == (await house.balance()).ended
    assert {(ACCOUNT, THIS_HOUR): 3} == house.metered()


DENIED = Refusal("AccessDeniedException", "not authorized", 400)


async def test_what_lies_with_the_account_leaves_records_alone(url: str) -> None:
    """
    The round ends and no record does; once it is put right, all is metered. Covers: S12
    """
    broken = [True]
    async with house_at(url, lambda number, body: DENIED if broken[0] else None) as house:
        await house.use(3)
        report = await house.relay_after(hours=1)
        kept = await house.balance()
        broken[0] = False
        await house.relay()

        assert report.stopped_by is not None
        assert (3, {}) == (kept.frozen, kept.ended)
        assert 3 == (await house.balance()).metered


@pytest.mark.usefixtures("_impatient")
async def test_a_blocked_relay_tries_one_record(url: str) -> None:
    """
    Each try leaves a row for each record that was claimed, and a fault may last. ledger H12
    """
    async with house_at(url, lambda number, body: DENIED if number <= 3 else None) as house:
        for n in range(60):
            await house.use(1, customer_aws_account_id=f"{n:012d}")
        house.clock.step(hours=1)

        def is_over() -> bool:
            house.clock.step(seconds=1)  # what was given back goes in a later second
            return len(house.metered()) == 60 or relaying.done()

        async with house.relaying(max_concurrency=1) as relaying:
            await house.until(is_over)

        assert [25, 1, 1, 1, 25, 25, 9] == house.service.sizes
        assert 60 == (await house.balance()).metered


async def test_a_relay_may_be_asked_to_raise(url: str) -> None:
    """
    With what lies with the account, for a program that is started again by another. ledger H12
    """
    async with house_at(url, lambda number, body: DENIED) as house:
        await house.use(3)
        house.clock.step(hours=1)
        async with house.client() as client:
            with pytest.raises(MarketplaceMeteringException, match="AccessDenied"):
                await house.ledger.relay(client, on_account_error="raise")
            with pytest.raises(ValueError, match="expected 'retry' or 'raise', got 'panic'"):
                await house.ledger.relay(client, on_account_error="panic")  # type: ignore[arg-type]

        assert [] == house.blocked


async def test_what_no_time_cures_is_raised_at_the_beginning(house: House) -> None:
    """
    Another region or host than the ledger's, and a ledger that has moved. ledger H12
    """
    await house.relay()
    async with house.client(region_name="eu-west-1") as elsewhere:
        with pytest.raises(LedgerRegionMismatchError):
            await house.ledger.relay(elsewhere)
    await change(house.url, "UPDATE ledger SET moved_to = 'x' RETURNING 1")
    async with house.client() as client:
        with pytest.raises(LedgerUnusableError, match="has moved to x"):
            await house.ledger.relay(client)

    assert [] == house.blocked


@pytest.mark.usefixtures("_impatient")
async def test_a_relay_that_has_begun_goes_on(house: House) -> None:
    """
    Whatever a ledger meets later on may be put right again. ledger H12
    """
    move = "UPDATE ledger SET moved_to = {} RETURNING 1"
    await house.use(3, at=NOON - 2 * HOUR)
    house.clock.step(minutes=11)
    async with house.relaying() as relaying:
        await house.until(lambda: len(house.metered()) == 1 or relaying.done())
        await house.use(4, at=NOON - HOUR)
        await change(house.url, move.format("'x'"))
        house.clock.step(minutes=11)
        await house.until(lambda: bool(house.blocked) or relaying.done())
        await change(house.url, move.format("NULL"))
        await house.until(lambda: len(house.metered()) == 2 or relaying.done())

    assert ["this ledger has moved to x; use that one"] == [str(e.error) for e in house.blocked]


async def test_a_relay_whose_ledger_is_closed_ends(house: House) -> None:
    """
    With an error, since nobody would notice a relay that has nothing to relay. ledger H12
    """
    async with house.client() as client, house.another() as other:
        relaying = asyncio.create_task(other.relay(client))
        await asyncio.sleep(0)
        await other.aclose()
        with pytest.raises(LedgerClosedError):
            await relaying


async def test_a_ledger_that_moved_can_only_be_read(url: str) -> None:
    """
    Everything else is refused, and says where it is now. ledger C2
    """
    customer: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
    async with house_at(url) as house:
        await house.use(3, event_id="first")
        await change(house.url, "UPDATE ledger SET moved_to = 'x' RETURNING 1")
    async with house_at(url) as moved:
        moved.clock.step(days=9)
        changes: list[Callable[[], Awaitable[Any]]] = [
            moved.use,
            lambda: moved.use(customer_aws_account_id="000000000002"),
            moved.relay,
            lambda: moved.ledger.close_customer(**customer),
            lambda: moved.ledger.reopen_customer(**customer),
            moved.ledger.retry,
            lambda: moved.ledger.prune(NOON),
            moved.ledger.adopt_copy,
        ]
        for attempt in changes:
            with pytest.raises(LedgerUnusableError, match="has moved to x"):
                await attempt()

        assert [3] == [entry.quantity async for entry in moved.ledger.history()]
        assert 3 == (await moved.balance()).open
        assert ["this ledger has moved to x; it can only be read"] == [
            event.text for event in moved.warned if isinstance(event, WarningIssued)
        ]


async def test_a_product_that_is_refused_stops_no_other(url: str) -> None:
    """
    Its records stay as they are. Covers: S10
    """
    wrong = Refusal("InvalidProductCodeException", "no such product")
    async with house_at(
        url, lambda number, body: wrong if body["ProductCode"] == "wrong" else None
    ) as house:
        await house.use(2, product_code="wrong")
        await house.use(3)
        await house.relay_after(hours=1)
        status = await house.balance()

        assert (2, 3, {}) == (status.frozen, status.metered, status.ended)


async def test_what_is_too_late_is_named(url: str) -> None:
    """
    An outage longer than the window: nothing is sent any more, and nothing vanishes. Covers: S21
    """
    async with house_at(url) as house:
        await house.use(3)
        await house.relay_after(hours=26)

        assert {HourState.TOO_LATE: 3} == (await house.balance()).ended
        assert {} == house.metered()


async def test_a_ledger_serves_one_region_and_host(house: House) -> None:
    """
    A record sent in a second region is a second charge. Covers: M16, M20
    """
    await house.use(3)
    await house.relay_after(hours=1)
    with pytest.raises(LedgerRegionMismatchError, match=r"us-east-1.*eu-west-1"):
        await house.relay(region_name="eu-west-1")
    with pytest.raises(LedgerRegionMismatchError, match=r"127\.0\.0\.1.*metering\.marketplace"):
        await house.relay(endpoint_url=None)
    with pytest.raises(LedgerRegionMismatchError, match="not to eu-west-1"):
        async with house.another(region_name="eu-west-1"):
            pass


async def test_a_stale_claim_is_fenced(house: House) -> None:
    """
    Whoever slept past its lease cannot undo what a later relay wrote down. Covers: M01, M02
    """
    await house.use(3)
    house.clock.step(hours=1)
    (stale,) = await claimed(house, lease=0.0)
    (later,) = await claimed(house)
    held = await claimed(house)
    counted = await settle(house, fate(stale, HourState.REJECTED), fate(later, HourState.METERED))

    assert [] == held
    assert (False, True) == (stale.in_doubt, later.in_doubt)
    assert [(HourState.FROZEN, HourState.METERED)] == counted
    assert 3 == (await house.balance()).metered


async def test_a_claim_that_waits_for_the_database_takes_no_lease(house: House) -> None:
    """
    Its clock is behind that of whoever did not have to wait. Covers: M04
    """
    await house.use(3)
    house.clock.step(hours=1, seconds=1)
    (held,) = await claimed(house)
    house.clock.step(seconds=-1)
    waited = await claimed(house)
    house.clock.step(hours=-1)
    went_back = await claimed(house)

    assert not held.in_doubt
    assert [] == waited
    assert ([] if house.url.startswith("postgres") else [True]) == [
        one.in_doubt for one in went_back
    ]


async def test_a_relay_takes_no_lease_that_is_longer_than_its_own(house: House) -> None:
    """
    Another one's client may wait longer for an answer. Covers: M03
    """
    await house.use(3)
    house.clock.step(hours=1)
    (held,) = await claimed(house, lease=600.0)
    taken = await claimed(house, lease=60.0)

    assert not held.in_doubt
    assert [] == taken


async def test_a_record_that_is_early_waits(house: House) -> None:
    """
    A clock that was set back makes a sealed hour lie ahead: one look a round, not an endless one.
    """
    await house.use(3)
    later = int((NOON + 2 * HOUR).timestamp())
    await house.ledger._store.seal_due(later, 10, "us-east-1")
    house.clock.step(minutes=-20)
    async with asyncio.timeout(30):
        early = await house.relay()
        again = await house.relay()
    sent = await house.relay_after(minutes=40)

    assert (1, 0) == (early.returned, again.returned)
    assert (1, 3) == (sent.metered, sent.units)


@pytest.mark.parametrize("ahead", [4, 7])
async def test_a_clock_that_is_hours_ahead_makes_nothing_too_late(house: House, ahead: int) -> None:
    """
    Not even over a month's end: what it has sealed goes out once its time has come.
    Design, Laws of the ledger
    """
    house.clock.set(datetime(2026, 11, 30, 23, 40, tzinfo=UTC))
    service = SetClock(house.clock.now() - timedelta(minutes=20))
    house.service = MemoryService(clock=service, book=Book())
    async with house.client() as client:
        await house.use(1, at=service.now() - 5 * HOUR)
        house.clock.step(minutes=11)
        await house.ledger.relay_once(client)  # whose answer shows the service's clock
        await house.use(3, at=house.clock.now() - timedelta(minutes=11))
        house.clock.step(hours=ahead)
        await house.ledger.relay_once(client)
    waits = await house.balance()
    service.step(hours=1)
    house.clock.set(service.now())
    await house.relay()
    status = await house.balance()

    assert (1, 3, {}) == (waits.metered, waits.frozen, waits.ended)
    assert (4, {}) == (status.metered, status.ended)


async def test_a_row_that_was_damaged_is_not_sent(house: House) -> None:
    """
    A flipped bit must not become a bill. Covers: D08
    """
    await house.use(3)
    house.clock.step(hours=1)
    await claimed(house, lease=0.0)
    await change(house.url, "UPDATE hour SET quantity = 1027 RETURNING 1")
    await house.relay()

    assert [HourState.DAMAGED] == [entry.state async for entry in house.ledger.history()]
    assert {} == house.metered()


async def test_a_license_whose_product_was_damaged_holds_up_no_other(house: House) -> None:
    """
    It would make no record, and claims of others would end with it. ledger section 7
    """
    license_arn = "arn:aws:license-manager::123456789012:license:l-0123456789abcdef"
    await house.use(3, license_arn=license_arn)
    await house.use(4, product_code="other")
    house.clock.step(hours=1)
    await claimed(house, lease=0.0)
    damage = "UPDATE usage_key SET license_product = 'pr%duct' WHERE license_product <> ''"
    await change(house.url, f"{damage} RETURNING 1")
    await house.relay()

    assert {HourState.DAMAGED, HourState.METERED} == {
        entry.state async for entry in house.ledger.history()
    }


async def test_two_relays_send_each_record_once(house: House) -> None:
    """
    On one database, at the same time. Covers: M01, M05
    """
    for n in range(200):
        await house.use(n + 1, customer_aws_account_id=f"{n:012d}")
    house.clock.step(hours=1)
    other = house.another()
    async with other, house.client() as one, house.client() as two:
        await asyncio.gather(house.ledger.relay_once(one), other.relay_once(two))

    assert 200 == sum(house.service.sizes)
    assert {(f"{n:012d}", THIS_HOUR): n + 1 for n in range(200)} == house.metered()


async def test_many_callers_share_commits(house: House) -> None:
    """
    And each gets an answer of its own.
    """
    commits: list[str] = []
    async with house.another() as ledger:
        post = ledger._store.post

        async def counted(*given: Any) -> Any:
            commits.append("")
            return await post(*given)

        ledger._store.post = counted  # type: ignore[method-assign, assignment]
        added = await asyncio.gather(*(house.use(1, ledger, at=NOON) for _ in range(300)))

    assert 300 == len(added)
    assert 300 == (await house.balance()).recorded
    assert 5 > len(commits)


async def test_withdrawn_usage_is_not_stored(house: House) -> None:
    """
    A caller who is cancelled before its turn leaves nothing behind. Covers: C01
    """
    first = asyncio.create_task(house.use(1))
    await asyncio.sleep(0)
    second = asyncio.create_task(house.use(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await house.use(4)

    assert second.cancelled()
    assert (await house.balance()).recorded in (5, 7)


async def test_bad_usage_is_named(house: House) -> None:
    """
    The place, what was expected, and what came.
    """
    with pytest.raises(InvalidRecordError, match=r"quantity: expected 0 to .*, got -1"):
        await house.use(-1)
    with pytest.raises(InvalidRecordError, match="quantity: expected at most 6 decimal places"):
        await house.use("0.1234567")
    number: Any = 0.1
    with pytest.raises(InvalidRecordError, match=r'an exact quantity, as "0.1" or Decimal'):
        await house.use(number)
    with pytest.raises(InvalidRecordError, match="product_code: expected the product's code"):
        await house.use(product_code=None)
    with pytest.raises(InvalidRecordError, match="product_code: expected the product's code"):
        await house.ledger.close_customer(customer_aws_account_id=ACCOUNT)
    with pytest.raises(InvalidRecordError, match="at: expected a time with a time zone"):
        await house.use(at=datetime(2026, 11, 23))  # noqa: DTZ001
    with pytest.raises(InvalidRecordError, match="at: expected at most 0:05:00 ahead"):
        await house.use(at=NOON + HOUR)
    with pytest.raises(InvalidRecordError, match="NUL"):
        await house.use(dimension="a\0b")
    with pytest.raises(InvalidRecordError, match="event_id: expected 1 to 255 characters"):
        await house.use(event_id="e" * 256)
    with pytest.raises(InvalidRecordError, match=r"event_id.*NUL"):
        await house.use(event_id="a\0b")

    assert 0 == (await house.balance()).recorded


async def test_a_closed_ledger_says_so(house: House) -> None:
    """
    Nothing is dropped in silence. Covers: C22
    """
    ledger = house.another()
    async with ledger:
        pass
    with pytest.raises(LedgerClosedError):
        await house.use(ledger=ledger)
    await ledger.aclose()


async def test_zeros_lock_an_hour_late(house: House) -> None:
    """
    A zero that is sent early would lock its hour at zero. Covers: H18
    """
    await house.use(0)
    early = await house.relay_after(hours=2)
    await house.use(3, at=NOON)
    await house.relay_after(hours=3)

    assert 0 == early.sealed
    assert {(ACCOUNT, THIS_HOUR): 3} == house.metered()


async def test_history_is_the_evidence(house: House) -> None:
    """
    Of a customer and a month: the sum, the frozen record, each attempt with its ids.
    """
    await house.use(1)
    await house.use(2)
    await house.use(9, customer_aws_account_id="000000000002")
    await house.relay_after(hours=1)
    (entry,) = [
        entry async for entry in house.ledger.history(month=NOON, customer_aws_account_id=ACCOUNT)
    ]

    assert (3, 2, THIS_HOUR, "us-east-1") == (
        entry.quantity,
        entry.events,
        entry.hour,
        entry.region_name,
    )
    assert ["Success"] == [attempt.status for attempt in entry.attempts]
    on_file = {r.customer: r.metering_record_id for r in house.book.records}
    assert on_file[ACCOUNT] == entry.metering_record_id == entry.attempts[0].metering_record_id
    assert [] == [e async for e in house.ledger.history(month=NOON + timedelta(days=31))]


async def test_history_goes_by_page_in_both_directions(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Of all, of an account, of a state; what no hour carries stands at the hour that it is of.
    """
    monkeypatch.setattr(ledger, "_PAGE", 2)
    month_ago = NOON - timedelta(days=31)
    for number in range(3):
        who = f"{number:012d}"
        await house.use(1, customer_aws_account_id=who, dimension="one", at=month_ago)
        await house.use(2, customer_aws_account_id=who, dimension="two")
        await house.relay_after(hours=1)
    await house.use(3, customer_aws_account_id=f"{2:012d}", dimension="one")
    metered, over = HourState.METERED, HourState.MONTH_OVER
    later = THIS_HOUR + timedelta(hours=3)
    expected = [
        *[(over, month_ago.replace(minute=0), 1, f"{n:012d}") for n in range(3)],
        *[(metered, THIS_HOUR + timedelta(hours=n), 2, f"{n:012d}") for n in range(3)],
        (HourState.OPEN, later, 3, f"{2:012d}"),
    ]

    for which, kept in (
        ({}, expected),
        ({"month": NOON}, expected[3:]),
        ({"month": month_ago}, expected[:3]),
        ({"product_code": "product"}, expected),
        ({"product_code": "other"}, []),
        ({"customer_aws_account_id": f"{2:012d}"}, [expected[n] for n in (2, 5, 6)]),
        ({"states": [metered]}, expected[3:6]),
        ({"states": [over, HourState.OPEN]}, [*expected[:3], expected[6]]),
        ({"states": [over]}, expected[:3]),
        ({"states": [HourState.OPEN, HourState.FROZEN]}, expected[6:]),
        ({"states": [metered], "customer_aws_account_id": f"{1:012d}"}, expected[4:5]),
    ):
        for newest_first in (False, True):
            found = [
                (e.state, e.hour, e.quantity, e.customer_aws_account_id)
                async for e in house.ledger.history(newest_first=newest_first, **which)
            ]
            assert (kept[::-1] if newest_first else kept) == found, which


async def test_pruning_keeps_the_sums(house: House) -> None:
    """
    And touches nothing that is unsettled or young. Covers: D19, K13
    """
    await house.use(1)
    await house.relay_after(hours=1)
    await house.use(2)
    with pytest.raises(ValueError, match="at least 3 days ago"):
        await house.ledger.prune(house.clock.now())
    house.clock.step(days=5)
    pruned = await house.ledger.prune(house.clock.now() - timedelta(days=4))
    status = await house.balance()

    assert 1 == pruned
    assert (3, 1, 2) == (status.recorded, status.metered, status.open)
    assert [2] == [entry.quantity async for entry in house.ledger.history()]


async def test_pruning_goes_in_small_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    And leaves out none, nor an event id that is young. Covers: D19
    """
    monkeypatch.setattr(operations, "CHANGED_AT_ONCE", 2)
    for n in range(5):
        await house.use(1, customer_aws_account_id=f"{n:012d}", event_id=f"old-{n}")
    await house.relay_after(hours=1)
    house.clock.step(days=33)
    for n in range(5):
        await house.use(1, customer_aws_account_id=f"{n:012d}", event_id=f"young-{n}")
    pruned = await house.ledger.prune(house.clock.now() - timedelta(days=4))
    first: dict[str, Any] = {"quantity": 1, "customer_aws_account_id": f"{0:012d}"}
    again = [(await house.use(**first, event_id=f"{age}-0")).repeated for age in ("old", "young")]

    assert 5 == pruned
    assert [False, True] == again
    assert 5 == (await house.balance()).metered


async def test_status_tells_no_usage_from_broken_metering(house: House) -> None:
    """
    Ages, the time to the first loss, and what is at risk.
    """
    await house.use(3)
    house.clock.step(hours=20)
    status = await house.ledger.status()

    assert 19.5 * 3600 == status.oldest_unsent_seconds
    assert 4 * 3600 == status.seconds_to_first_loss
    assert 3 == status.at_risk
    assert status.last_success_seconds is None
    assert 20 * 3600 == status.last_usage_seconds


async def test_nothing_is_at_risk_where_all_is_well(url: str) -> None:
    """
    Through a month's end with all the grace that there may be, and with hours of zeros; a relay
    that is dead for two hours is an alarm, long before its usage is lost. ledger Low
    """
    async with house_at(url, month_end_grace=4 * 3600) as house:
        house.clock.set(datetime(2026, 11, 30, 22, 5, tzinfo=UTC))
        found = []
        for _ in range(13):
            await house.use(3)
            await house.use(0, customer_aws_account_id="000000000002")
            await house.relay_after(minutes=30)
            status = await house.ledger.status()
            found.append((status.at_risk, exit_of(status)))
        house.clock.set(house.clock.now().replace(minute=9) + 3 * HOUR)
        before = await house.ledger.status()
        house.clock.step(minutes=1)
        after = await house.ledger.status()

    assert {(0, 0)} == set(found)
    assert (0, 0) == (before.at_risk, exit_of(before))
    assert (after.open, 3) == (after.at_risk, exit_of(after))
    assert after.open


async def test_what_is_soon_too_late_is_at_risk(house: House) -> None:
    """
    Though it came a while ago. ledger Low
    """
    await house.use(3, at=NOON - timedelta(hours=22, minutes=40))
    house.clock.step(minutes=19)
    before = (await house.ledger.status()).at_risk
    house.clock.step(minutes=1)

    assert 0 == before
    assert 3 == (await house.ledger.status()).at_risk


async def test_old_usage_raises_the_alarm_once(url: str) -> None:
    """
    At half of the six hours within which usage should be out, and at four fifths. Covers: S21
    """
    down = Refusal("InternalServiceErrorException", "", 500)
    async with house_at(url, lambda number, body: down) as house:
        await house.use(3)
        house.clock.step(hours=4, minutes=1)
        async with house.relaying():
            await house.until(
                lambda: any(isinstance(event, WarningIssued) for event in house.warned)
            )

        assert ["usage has been waiting to be metered for 3.5 hours"] == [
            event.text for event in house.warned if isinstance(event, WarningIssued)
        ]


@pytest.mark.parametrize(
    ("success", "ended"),
    [(-100, {HourState.QUARANTINED: 1}), (None, {}), (86_400, {})],
    ids=["others are sent", "none is", "one was by a clock that was ahead"],
)
async def test_a_record_that_kills_its_relay_is_soon_alone(
    house: House, success: int | None, ended: dict[HourState, int]
) -> None:
    """
    Claim after claim that is never settled takes fewer; in the end it is put aside. Not where
    nobody sends anything: the relays die of something else, and it goes out with the first one that
    lives. ledger section 7. Covers: K15
    """
    for n in range(8):
        await house.use(1, customer_aws_account_id=f"{n:012d}")
    house.clock.step(hours=1)
    sizes = [len(await claimed(house, lease=0.0)) for _ in range(claims.MOST_CRASHES)]
    if success is not None:
        at = int(house.clock.now().timestamp()) + success
        await change(house.url, f"UPDATE ledger SET last_success_at = {at} RETURNING 1")
    await house.relay()
    await house.relay()
    status = await house.balance()

    assert [8, 2, 1, 1] == sizes[:4]
    assert ended == status.ended
    assert 8 - sum(ended.values()) == status.metered


async def test_a_customer_stands_for_its_ids(house: House) -> None:
    """
    In every call that names one; beside ids of its own it is refused, and nothing is stored.
    """
    customer = Customer(customer_aws_account_id="123456789012", product_code="product")
    ids: dict[str, Any] = {"customer_aws_account_id": "123456789012", "product_code": "product"}

    await house.ledger.add_usage(dimension="requests", quantity=1, customer=customer)
    await house.ledger.add_usage(dimension="requests", quantity=2, **ids)
    with pytest.raises(InvalidRecordError, match="product_code: expected None beside customer"):
        await house.ledger.add_usage(
            dimension="requests", quantity=4, customer=customer, product_code="another"
        )

    assert [3] == [e.quantity async for e in house.ledger.history(customer=customer)]
    assert [] == [
        e async for e in house.ledger.history(customer=evolve(customer, product_code="another"))
    ]
    assert 1 == await house.ledger.close_customer(customer=customer)
    await house.ledger.reopen_customer(customer=customer)
    assert 3 == (await house.balance()).recorded


async def test_known_event_ids_are_named(house: House) -> None:
    """
    Newcomer H5. With what was said under each, and no others.
    """
    for name, quantity in (("a", 1), ("b", 1), ("c", 2)):
        await house.use(quantity, event_id=name, at=NOON)

    known = await house.ledger.known_events(["a", "b", "c", "d"])
    with_others = await house.ledger.known_events(["a", "\0", "b", "\ud800", "c"])

    assert {"a", "b", "c"} == known.keys() == with_others.keys()
    assert known["a"] == known["b"] != known["c"]


async def test_a_ledger_that_is_opened_again_goes_on_with_the_hour(house: House) -> None:
    """
    What was added before and after a restart is one record. Covers: B07
    """
    await house.use(2)
    await house.ledger.aclose()
    async with house.another() as house.ledger:
        await house.use(3)
        await house.relay_after(hours=1)

        assert {(ACCOUNT, THIS_HOUR): 5} == house.metered()
        assert 5 == (await house.balance()).metered


async def test_a_claim_outlasts_the_longest_request(house: House) -> None:
    """
    However patient the client is: nobody else sends what may still be on its way. Covers: M03
    """
    await house.use(1)
    house.clock.step(hours=1)
    house.service.round_trip = 5
    async with house.client(retry=RetryPolicy(attempt_timeout=1_000)) as client:
        relay = asyncio.create_task(house.ledger.relay_once(client))
        await house.until(lambda: bool(house.service.requests))
        until = (await house.ledger.status()).claimed_until
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)

    assert until is not None
    now = datetime.now(UTC) if house.url.startswith("postgresql") else house.clock.now()
    assert until - now > timedelta(seconds=1_000)


async def test_a_ledger_that_is_open_is_not_opened_again(house: House) -> None:
    """
    As by every request of a web app: the first to leave would close it for all others, which then
    waited without an end. It says so, and whoever has it open goes on.
    """

    async def enter() -> None:
        async with house.ledger:
            await house.use(1)

    for outcome in await asyncio.gather(*[enter() for _ in range(3)], return_exceptions=True):
        assert isinstance(outcome, LedgerError)
        assert str(outcome).startswith("the ledger is open already: enter it once")
    await house.use(2)
    assert 2 == (await house.balance()).recorded

    await house.ledger.aclose()
    await enter()
    async with house.ledger:
        assert 3 == (await house.balance()).recorded


async def test_only_who_has_opened_a_ledger_closes_it(house: House) -> None:
    """
    On another event loop it does nothing: the owner goes on.
    """
    await asyncio.to_thread(asyncio.run, house.ledger.aclose())
    await house.use(2)

    assert 2 == (await house.balance()).recorded
