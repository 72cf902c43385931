"""Usage in callers' transactions: nobody waits for it, and relays add it to its hour."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    a_caller,
    change,
    execute,
    hours_read,
    house_at,
    new_postgres_database,
    until_somebody_waits,
)

from marketplace_metering_async import (
    EventConflictError,
    HourState,
    InvalidRecordError,
    LateUsageError,
    LedgerError,
    LedgerOutcomeUnknownError,
    LedgerUnusableError,
    UsageRefusedError,
)
from marketplace_metering_async.events import UsageEndedUnmetered, WarningIssued
from marketplace_metering_async.ledger import group_commit
from marketplace_metering_async.ledger.stores import postgresql, postgresql_connections
from marketplace_metering_async.ledger.stores.postgresql_errors import was_kept_waiting

CUSTOMER: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
LICENSE = "arn:aws:license-manager::123456789012:license:l-0123456789abcdef"


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_nobody_waits_for_a_caller(either: str, isolation: str) -> None:
    """
    All that others do with the same key is done while its transaction is open, be the key a new one
    or not. ledger H3
    """
    async with house_at(either) as house:
        for used in (2, 6):
            async with a_caller(either, isolation) as connection:
                await house.use(1, event_id=f"caller-{used}", connection=connection)
                await house.use(1, event_id=f"other-{used}")
                await house.ledger.close_customer(**CUSTOMER, at=house.clock.now() + 2 * HOUR)
                await house.ledger.reopen_customer(**CUSTOMER)
                await house.relay()
                assert used - 1 == (await house.balance()).recorded
            await house.use(2)
            assert used + 2 == (await house.balance()).recorded
        await house.relay_after(hours=1)

        assert 8 == (await house.balance()).metered


async def test_a_caller_waits_for_nobody_but_its_event(place: str) -> None:
    """
    Nor for other callers, nor for itself: both ways in may be mixed in one transaction. ledger H3
    """
    async with house_at(place) as house:
        async with a_caller(place) as first, a_caller(place) as second:
            for number, connection in enumerate([first, second, None, first, None]):
                await house.use(1, event_id=f"event-{number}", connection=connection)
        await house.relay()

        assert 5 == (await house.balance()).open
        assert [(0,)] == await change(place, "SELECT COUNT(*) FROM arrival")


async def test_an_event_that_a_caller_has_holds_up_itself_alone(either: str) -> None:
    """
    Others of its group are stored while the transaction is open. ledger H3, M3
    """
    async with house_at(either) as house:
        async with a_caller(either) as connection:
            for name in ("kept", "differs"):
                await house.use(1, event_id=name, connection=connection)
            held = [
                asyncio.create_task(house.use(units, event_id=name, at=house.clock.now()))
                for name, units in (("kept", 1), ("differs", 2))
            ]
            others = await asyncio.gather(*(house.use(1, event_id=f"{n}") for n in range(20)))
            assert not any(one.done() for one in held)
        results = await asyncio.gather(*held, return_exceptions=True)

        assert {None} == {one.ended for one in others}
        assert all(isinstance(one, EventConflictError) for one in results)  # `at` was not given
        assert 22 == (await house.balance()).recorded


@pytest.mark.parametrize("commits", [True, False])
async def test_who_repeats_an_event_waits_for_what_becomes_of_it(
    place: str, *, commits: bool
) -> None:
    """
    Committed, it is known; rolled back, it is new.
    """
    async with house_at(place) as house:
        connection = await asyncpg.connect(place)
        transaction = connection.transaction()
        await transaction.start()
        await house.use(1, event_id="e", connection=connection)
        repeating = asyncio.create_task(house.use(1, event_id="e"))
        await until_somebody_waits(place)
        await (transaction.commit() if commits else transaction.rollback())
        await connection.close()

        assert commits == (await repeating).repeated
        assert 1 == (await house.balance()).recorded


async def test_an_event_is_not_waited_for_without_end(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Such as by whoever waits for a transaction of its own.
    """
    monkeypatch.setattr(group_commit, "_HELD_FOR", 0.3)
    async with house_at(place) as house, a_caller(place) as connection:
        await house.use(1, event_id="e", connection=connection)
        with pytest.raises(LedgerError, match="end the transaction that has had event id 'e'"):
            await house.use(1, event_id="e")


async def test_a_group_that_meets_slow_ones_is_patient(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It waits for whoever else locks its rows, for longer each time, and then says that it could not.
    """
    async with house_at(place) as house:
        await house.use(1)
        async with a_caller(place) as connection:
            await connection.execute("SELECT 1 FROM marketplace_metering.hour FOR UPDATE")
            monkeypatch.setattr(postgresql, "_PATIENCE", (0.01, 0.02))
            with pytest.raises(LedgerError, match=r"lock timeout; nothing was stored") as refusal:
                await house.use(2)
            monkeypatch.setattr(postgresql, "_PATIENCE", (0.01, 16.0))
            adding = asyncio.create_task(house.use(4))
            await until_somebody_waits(place)
        await adding

        assert "others have locked what the ledger needs" in str(refusal.value)
        assert 5 == (await house.balance()).recorded


@pytest.mark.parametrize("table", ["hour", "ledger"])
async def test_a_table_that_is_locked_is_not_waited_for_without_end(
    place: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """
    Eight times a minute is no sensible answer to who adds; relays and status say so, too.
    """
    monkeypatch.setattr(postgresql, "_PATIENCE", (0.01, 0.02))
    monkeypatch.setattr(postgresql_connections, "_COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(postgresql_connections, "_LONGEST_SECONDS", 0.4)
    locked = "others have locked what the ledger needs"
    async with house_at(place) as house, a_caller(place) as connection:
        await house.use(1)
        await connection.execute(f"LOCK TABLE marketplace_metering.{table}")
        began = asyncio.get_running_loop().time()
        for work in (house.use(2), house.ledger.status(), house.relay(), house.ledger.retry()):
            with pytest.raises(LedgerError, match=locked):
                await work
        waited = asyncio.get_running_loop().time() - began

        assert waited < 4 * 1.5


async def test_a_server_that_is_less_patient_stores_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And the error is certain of it, though the statement commits by itself.
    """
    monkeypatch.setattr(postgresql, "_PATIENCE", (30.0, 60.0))
    name = urlsplit(place).path[1:]
    await execute(place, f"ALTER DATABASE {name} SET statement_timeout = '1500ms'")
    async with house_at(place) as house:
        await house.use(1)
        async with a_caller(place) as connection:
            await connection.execute("SELECT 1 FROM marketplace_metering.hour FOR UPDATE")
            with pytest.raises(
                LedgerError, match=r"statement timeout; nothing was stored"
            ) as refusal:
                await house.use(2)

        assert LedgerError is refusal.type
        assert 1 == (await house.balance()).recorded


@pytest.mark.parametrize(
    ("kind", "waits"), [(LedgerError, True), (LedgerOutcomeUnknownError, False)]
)
def test_what_may_be_stored_is_not_brought_again(kind: type[LedgerError], *, waits: bool) -> None:
    """
    Whoever waited too long in doubt does not begin anew, with another note. ledger C3
    """
    error = kind("PostgreSQL: canceling statement due to lock timeout")
    error.__cause__ = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    assert waits == was_kept_waiting(error)


async def test_what_is_not_folded_is_counted(place: str) -> None:
    """
    In status, metrics and history, as what it is: open. It is in no transaction's way.
    """
    async with house_at(place) as house:
        await house.use("0.5")
        async with a_caller(place) as connection:
            for at in (NOON, NOON, NOON - 3 * HOUR):
                await house.use(2, at=at, connection=connection)
            await house.use(4, license_arn=LICENSE, product_code="licensed", connection=connection)
        status = await house.balance()
        entries = [entry async for entry in house.ledger.history()]
        newest = [entry async for entry in house.ledger.history(newest_first=True)]
        of_license = [entry async for entry in house.ledger.history(license_arn=LICENSE)]
        metrics = await house.ledger.metrics()

        assert (status.recorded, status.open) == (status.open, 10 + entries[0].quantity)
        assert {"product": 6 + entries[0].quantity, "licensed": 4} == {
            one.product_code: one.open for one in status.products
        }
        assert 3600 * 2 + 1800 == status.oldest_unsent_seconds
        assert 'state="open"' in metrics
        assert [(NOON - 3 * HOUR).replace(minute=0), NOON.replace(minute=0)] == [
            entry.hour for entry in entries[1:3]
        ]
        assert [(2, 1), (4, 2), (4, 1)] == [(one.quantity, one.events) for one in entries[1:]]
        assert {HourState.OPEN} == {entry.state for entry in entries}
        assert entries[::-1] == newest
        assert ["licensed"] == [entry.product_code for entry in of_license]
        with pytest.raises(ValueError, match=r"hours: .* got 'arrival-"):
            await house.ledger.resolve([entries[1]], "written_off", note="no")


async def test_usage_that_is_committed_late_is_carried(place: str) -> None:
    """
    Though its hour was open when it was added, and the ledger refuses what is late then.
    """
    async with house_at(place, late="refuse") as house:
        await house.use(1)
        async with a_caller(place) as connection:
            added = await house.use(2, connection=connection)
            await house.relay_after(hours=1)
            with pytest.raises(LateUsageError):
                await house.use(4, at=NOON, connection=connection)
        await house.relay_after(hours=1)
        house.clock.step(hours=1)
        await house.relay()
        later = [entry async for entry in house.ledger.history()][-1]

        assert (NOON.replace(minute=0), False) == (added.hour, added.late)
        assert 3 == (await house.balance()).metered
        assert NOON.replace(minute=0) + HOUR == later.hour
        assert [NOON.replace(minute=0)] == [one.origin for one in later.carried]


async def test_usage_that_is_committed_in_another_month_ends(place: str) -> None:
    """
    As any that comes when its month is over; it is reported when that is known.
    """
    async with house_at(place) as house:
        house.clock.set(datetime(2026, 11, 30, 23, 30, tzinfo=UTC))
        await house.use(1)
        async with a_caller(place) as connection:
            added = await house.use(2, connection=connection)
            await house.relay_after(hours=2)
        await house.relay()

        assert added.ended is None
        assert {HourState.MONTH_OVER: 2} == (await house.balance()).ended
        assert [UsageEndedUnmetered(state="month_over", records=1)] == [
            one for one in house.warned if isinstance(one, UsageEndedUnmetered)
        ]


async def test_a_closed_customers_usage_is_added_before(place: str) -> None:
    """
    What is committed is in the last hour; what is committed later still is, while that is unsealed.
    """
    async with house_at(place) as house:
        async with a_caller(place) as late:
            async with a_caller(place) as connection:
                await house.use(1, connection=connection)
                await house.use(2, dimension="new", connection=connection)
            await house.use(4, dimension="newer", connection=late)
            assert 2 == await house.ledger.close_customer(**CUSTOMER)
            house.clock.step(seconds=1)
            after = await house.use(8, connection=late)
        await house.relay()
        status = await house.balance()

        assert HourState.SUBSCRIPTION_OVER is after.ended
        assert (7, {HourState.SUBSCRIPTION_OVER: 8}) == (status.metered, status.ended)


async def test_an_hour_of_another_scheme_has_it(place: str) -> None:
    """
    Whichever scheme is first in an hour is sent: the other one is said to end as it is added, if
    that can be seen, and ends when it is folded.
    """
    async with house_at(place) as house:
        async with a_caller(place) as connection:
            await house.use(1, connection=connection)
            await house.use(2, license_arn=LICENSE)
            seen = await house.use(4, connection=connection)
        await house.relay()

        assert HourState.OTHER_SCHEME is seen.ended
        assert {HourState.OTHER_SCHEME: 5} == (await house.balance()).ended


@pytest.mark.parametrize("has_license", [False, True])
async def test_what_is_too_old_to_be_sent_reads_nothing_of_its_customers_past(
    place: str, monkeypatch: pytest.MonkeyPatch, *, has_license: bool
) -> None:
    """
    A caller whose event is a year old reads no year of hours; which hours the other scheme had is
    known all the same. ledger M5
    """
    async with house_at(place) as house:
        for ago in range(40):
            await house.use(1, at=NOON - ago * HOUR)
        if has_license:
            await house.use(1, license_arn=LICENSE)
        house.clock.step(days=60)
        read = hours_read(monkeypatch)
        async with a_caller(place) as connection:
            added = await house.use(
                2,
                at=NOON - 9 * HOUR,
                license_arn=LICENSE if has_license else None,
                connection=connection,
            )

        assert (HourState.OTHER_SCHEME if has_license else HourState.MONTH_OVER) is added.ended
        assert len(read) <= has_license
        await house.balance()


async def test_what_is_refused_is_refused_at_once(place: str) -> None:
    """
    A conflict, a fraction of what is whole, a key that is too long; the transaction goes on.
    """
    async with house_at(place, whole=["requests"]) as house:
        await house.use(1, event_id="e")
        async with a_caller(place) as connection:
            with pytest.raises(EventConflictError):
                await house.use(2, event_id="e", connection=connection)
            with pytest.raises(InvalidRecordError, match="whole"):
                await house.use("0.5", connection=connection)
            with pytest.raises(UsageRefusedError):
                await house.use(1, dimension="\U0001f600" * 250, connection=connection)
            assert (await house.use(1, event_id="e", connection=connection)).repeated
            await house.use(4, connection=connection)

        assert 5 == (await house.balance()).recorded


async def test_a_row_that_no_hour_can_hold_holds_up_itself_alone(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It stays where it is, counted as open, and every relay names it. ledger M3
    """
    monkeypatch.setattr(postgresql, "_FOLDED_AT_ONCE", 3)
    async with house_at(place) as house:
        await house.use(1)
        await execute(place, "ALTER TABLE marketplace_metering.hour ADD CHECK (quantity < 9000000)")
        async with a_caller(place) as connection:
            for quantity in (9, 1, 1, 1, 1):
                name = f"{quantity:012d}"
                await house.use(quantity, customer_aws_account_id=name, connection=connection)
        await house.relay_after(hours=1)
        status = await house.balance()

        assert (9, 5) == (status.open, status.metered)
        warned = [event.text for event in house.warned if isinstance(event, WarningIssued)]
        assert ["arrival-1 in the history can be added to no hour"] == [
            text.partition(":")[0] for text in warned
        ]


async def test_a_transaction_leaves_locks_for_strangers(place: str) -> None:
    """
    Each event id takes one of those that all sessions of the server share.
    """
    held = "SELECT current_setting('metering.events_held')"
    async with house_at(place) as house, a_caller(place) as caller:
        for name in ("first", "second"):
            await house.use(1, event_id=name, connection=caller)
        counted = await caller.fetchval(held)
        await caller.execute("SELECT set_config('metering.events_held', '1000000', true)")
        with pytest.raises(LedgerError, match=r"^commit, and begin another .+ nothing was stored$"):
            await house.use(4, event_id="last", connection=caller)
        await house.use(8, connection=caller)
        again = await caller.fetchval(held)

    assert ("2", "1000000") == (counted, again)


async def test_two_relays_fold_once(place: str) -> None:
    """
    Whichever of them comes first.
    """
    async with house_at(place) as house, house.another() as other, house.client() as client:
        async with a_caller(place) as connection:
            for _ in range(30):
                await house.use(1, connection=connection)
        await asyncio.gather(*(one.relay_once(client) for one in (house.ledger, other)))

        assert 30 == (await house.balance()).open


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_a_ledger_that_has_moved_takes_nothing(
    place: str, postgres: str, isolation: str
) -> None:
    """
    Neither from a caller who began before, and does not see that it has moved. ledger section 7
    """
    target = await new_postgres_database(postgres)
    async with house_at(place) as house, house_at(target) as new:
        await house.use(1)
        async with a_caller(place) as connection:
            await house.use(2, connection=connection)
        async with a_caller(place, isolation) as connection:
            await new.ledger.take_over(place)
            with pytest.raises(LedgerUnusableError, match="has moved"):
                await house.use(4, connection=connection)
            await connection.execute("SELECT 1")
        await new.use(8)

        assert 3 == (await house.ledger.status()).recorded
        assert 11 == (await new.balance()).recorded
        assert 1 == sum([1 async for one in new.ledger.history() if one.name.startswith("arrival")])


async def test_a_ledger_with_a_callers_usage_is_not_new(place: str, postgres: str) -> None:
    """
    It takes over no other one, and lets none go. ledger C2
    """
    target = await new_postgres_database(postgres)
    async with house_at(place) as house, house_at(target) as new:
        await house.use(1)
        async with a_caller(target) as connection:
            await new.use(2, connection=connection)
        with pytest.raises(LedgerUnusableError, match="only a new ledger"):
            await new.ledger.take_over(place)
        await house.use(4)

        assert 5 == (await house.balance()).recorded


async def test_an_adopted_copy_holds_what_was_not_folded(place: str) -> None:
    """
    The ledger that it is a copy of may have folded it, and metered it.
    """
    async with house_at(place) as house:
        await house.use(1)
        async with a_caller(place) as connection:
            await house.use(2, connection=connection)
            await house.relay_after(hours=1)
        await change(place, "UPDATE ledger SET mark = 'elsewhere 1' RETURNING 1")
        await house.relay()
        await house.ledger.adopt_copy()
        await house.relay_after(hours=2)
        status = await house.balance()

        assert (1, {HourState.UNCONFIRMED: 2}) == (status.metered, status.ended)
