"""The relay: what it knows is written down, what it gives up is given back, and it never spins."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from support.ended import claimed, fate, settle
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, house_at

from marketplace_metering_async import HourState, LedgerError
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger import relay
from marketplace_metering_async.sandbox import FaultKind, Refusal, Rules

THIS_HOUR = NOON.replace(minute=0)


async def the_hour(house: House) -> Any:
    (entry,) = [entry async for entry in house.ledger.history()]
    return entry


class Away:
    """A ledger's database that cannot be written to for a while."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away = True
        self.tries = 0
        store: Any = house.ledger._store
        settle = store.settle

        async def tried(*given: Any) -> Any:
            self.tries += 1
            if self.is_away:
                raise LedgerError("away")
            return await settle(*given)

        monkeypatch.setattr(store, "settle", tried)


async def test_a_verdict_is_kept_until_it_is_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long the database is away after the service has answered; nothing is sent again
    meanwhile, and the verdict is the first one. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    away = Away(house, monkeypatch)
    for _ in range(3):
        with pytest.raises(LedgerError, match="away"):
            await house.relay()
    away.is_away = False
    report = await house.relay()

    assert (1, 3) == (report.metered, report.units)
    assert [1] == house.service.sizes
    assert (3, {}) == ((await house.balance()).metered, (await house.balance()).ended)


async def test_closing_writes_what_is_known(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Or says how much is not written. ledger H8
    """
    async with house_at(url) as house:
        await house.use(3)
        house.clock.step(hours=1)
        with monkeypatch.context() as patched:
            Away(house, patched)
            with pytest.raises(LedgerError):
                await house.relay()
    async with house_at(url) as again:
        assert 3 == (await again.balance()).metered
        await again.use(4)
        again.clock.step(hours=2)
        Away(again, monkeypatch)
        with pytest.raises(LedgerError):
            await again.relay()
        await again.ledger.aclose()

        assert ["1 verdicts could not be written down (away)"] == [
            event.text for event in again.warned if isinstance(event, WarningIssued)
        ]


async def test_a_relay_that_is_stopped_waits_for_its_database(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For a while, so that what it knows is not lost with it. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    away = Away(house, monkeypatch)
    stop = asyncio.Event()
    async with house.client() as client:
        relaying = asyncio.create_task(house.ledger.relay(client, stop=stop))
        await house.until(lambda: away.tries > 0)
        stop.set()
        tried = away.tries
        await house.until(lambda: away.tries > tried + 1)
        away.is_away = False
        await relaying

    assert 3 == (await house.balance()).metered


@pytest.mark.parametrize(
    "state", [HourState.PROBABLY_METERED, HourState.CONFLICT, HourState.REJECTED, HourState.FROZEN]
)
async def test_a_success_is_written_under_any_fence(house: House, state: HourState) -> None:
    """
    It is a fact about the record: it lifts every other state, once, and sums follow. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    (stale,) = await claimed(house, lease=0.0)
    (later,) = await claimed(house)
    ended = await settle(house, fate(later, state))
    lifted = await settle(house, fate(stale, HourState.METERED, metering_record_id="m-1"))
    again = await settle(house, fate(stale, HourState.METERED, metering_record_id="m-1"))
    entry = await the_hour(house)

    assert [(HourState.FROZEN, state)] == ended
    assert [(state, HourState.METERED)] == lifted
    assert [] == again
    assert (HourState.METERED, "m-1") == (entry.state, entry.metering_record_id)
    assert [HourState.METERED, state] == [attempt.status for attempt in entry.attempts]
    assert (3, {}) == ((await house.balance()).metered, (await house.balance()).ended)


async def test_a_success_ends_the_claim_of_another(house: House) -> None:
    """
    Whose verdict is history then. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    (stale,) = await claimed(house, lease=0.0)
    (later,) = await claimed(house)
    await settle(house, fate(stale, HourState.METERED))
    noted = await settle(house, fate(later, HourState.PROBABLY_METERED))

    assert [] == noted
    assert [] == await claimed(house)
    assert 2 == len((await the_hour(house)).attempts)
    assert 3 == (await house.balance()).metered


async def test_other_stale_verdicts_are_history_only(house: House) -> None:
    """
    A later relay has the record now. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    (stale,) = await claimed(house, lease=0.0)
    await claimed(house)
    heard = await settle(house, fate(stale, HourState.CONFLICT))
    entry = await the_hour(house)

    assert [] == heard
    assert HourState.FROZEN is entry.state
    assert ["conflict"] == [attempt.status for attempt in entry.attempts]


async def test_a_verdict_that_is_written_twice_is_heard_twice_and_counts_once(
    house: House,
) -> None:
    """
    Its first try may have been committed though the answer was lost. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    (claim,) = await claimed(house)
    both = [await settle(house, fate(claim, HourState.CONFLICT)) for _ in range(2)]

    assert [[(HourState.FROZEN, HourState.CONFLICT)]] * 2 == both
    assert 1 == len((await the_hour(house)).attempts)
    assert {HourState.CONFLICT: 3} == (await house.balance()).ended


@pytest.mark.parametrize("ahead", [timedelta(minutes=4), timedelta(hours=2), timedelta(days=30)])
async def test_a_clock_that_was_ahead_delays_by_seconds(url: str, ahead: timedelta) -> None:
    """
    And not by its error: a pause longer than the longest of its try is over. ledger H9
    """
    down = Refusal("InternalServiceErrorException", "", 500)
    async with house_at(url, lambda number, body: down if number <= 9 else None) as house:
        await house.use(3)
        house.clock.step(hours=1)
        (claim,) = await claimed(house)
        then = house.clock.now() + ahead
        pause = int(then.timestamp()) + 5
        await settle(house, fate(claim, HourState.FROZEN, not_before=pause))
        taken = await claimed(house)

        assert [claim.hour_id] == [one.hour_id for one in taken]


async def test_a_round_ends_though_a_record_is_ahead_of_the_service(house: House) -> None:
    """
    It is for a later round, also where the wall clock stands still.
    """
    await house.use(3)
    house.clock.step(hours=2)
    house.slice_seconds = 0.05
    async with house.another() as ledger, house.client() as client:
        now = int(house.clock.now().timestamp())
        await ledger._store.bind("us-east-1", "127.0.0.1")
        await ledger._store.seal_due(now, 100, "us-east-1")
        house.clock.set(NOON - timedelta(minutes=10))
        async with asyncio.timeout(30):
            early = await ledger.relay_once(client)
        house.clock.step(minutes=10)
        later = await ledger.relay_once(client)

    assert (0, 3) == (early.metered, later.units)


async def test_a_pause_is_kept_by_a_clock_that_is_right(house: House) -> None:
    """
    Otherwise the service would be asked in each round. ledger H9
    """
    await house.use(3)
    house.clock.step(hours=1)
    (claim,) = await claimed(house)
    pause = int(house.clock.now().timestamp()) + 5
    await settle(house, fate(claim, HourState.FROZEN, not_before=pause))
    early = await claimed(house)
    house.clock.step(seconds=5)

    assert [] == early
    assert 1 == len(await claimed(house))


async def test_frozen_records_may_be_sent_at_once(house: House) -> None:
    """
    By retry(), whatever they wait for; not those that a relay holds. ledger H9
    """
    for n in range(2):
        await house.use(3, customer_aws_account_id=f"{n:012d}")
    house.clock.step(hours=1)
    waiting, _ = await claimed(house)
    pause = int(house.clock.now().timestamp()) + 5
    await settle(house, fate(waiting, HourState.FROZEN, not_before=pause))
    count = await house.ledger.retry(HourState.FROZEN)

    assert 1 == count
    assert [waiting.hour_id] == [one.hour_id for one in await claimed(house)]


async def many(house: House, count: int = 60, **members: Any) -> None:
    for n in range(count):
        await house.use(1, dimension=f"d{n}", **members)
    house.clock.step(hours=1)


async def rows(house: House, what: str) -> list[Any]:
    return await change(house.url, f"SELECT {what} FROM hour")


async def test_cancelling_a_relay_gives_claims_back(url: str) -> None:
    """
    At once, and without doubt where nothing was sent; what is on the wire is in doubt. ledger M4
    """
    async with house_at(
        url, lambda number, body: FaultKind.STALL if number == 1 else None
    ) as house:
        house.book.rules = Rules(identical_resend="success")
        await many(house)
        async with house.client(max_concurrency=1, retry=None) as client:
            relaying = asyncio.create_task(house.ledger.relay_once(client))
            await house.until(lambda: len(house.service.requests) == 1)
            relaying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await relaying
        found = await rows(house, "lease_until IS NULL, in_doubt, attempts, crashes")
        await house.relay_after(seconds=2)

        assert [(True, 0, 0, 0)] * 35 + [(True, 1, 0, 0)] * 25 == sorted(
            (bool(free), doubt, attempts, crashes) for free, doubt, attempts, crashes in found
        )
        assert 60 == (await house.balance()).metered


async def test_a_claim_that_is_given_back_keeps_an_older_doubt(house: House) -> None:
    """
    It clears only the doubt that it set itself. ledger M4
    """
    await many(house, 2)
    await claimed(house, lease=0.0)
    first, second = await claimed(house)
    now = int(house.clock.now().timestamp())
    await house.ledger._store.return_claims([first], now + 1)
    await house.ledger._store.return_claims([first], now + 100)  # it is not theirs any more
    found = await rows(house, "hour_id, in_doubt, lease_until IS NULL, not_before")

    assert [(first.hour_id, 1, True, now + 1), (second.hour_id, 1, False, 0)] == sorted(
        (hour_id, doubt, bool(free), not_before) for hour_id, doubt, free, not_before in found
    )


async def test_a_stopped_relay_gives_back_what_it_did_not_send(url: str) -> None:
    """
    Without a line in the history for each, and without doubt. ledger M4
    """
    async with house_at(url, lambda number, body: FaultKind.SLOW if number == 1 else None) as house:
        await many(house)
        stop = asyncio.Event()
        async with house.client(max_concurrency=1, retry=None) as client:
            relaying = asyncio.create_task(house.ledger.relay_once(client, stop=stop))
            await house.until(lambda: len(house.service.requests) == 1)
            stop.set()
            report = await relaying
        attempts = [len(entry.attempts) async for entry in house.ledger.history()]

        assert (25, 35) == (report.metered, report.returned)
        assert [0] * 35 + [1] * 25 == sorted(attempts)
        assert [(1, 0)] == list(
            {(int(f), d) for f, d in await rows(house, "lease_until IS NULL, in_doubt")}
        )


async def test_a_conflict_after_a_cancellation_is_one(house: House) -> None:
    """
    Nothing of ours was ever sent, so that another's record is not taken for it. ledger M4
    """
    await house.use(3)
    house.clock.step(hours=1)
    async with house.client() as client:
        record = {
            "Timestamp": NOON,
            "Dimension": "requests",
            "Quantity": 99,
            "CustomerAWSAccountId": ACCOUNT,
        }
        await client.batch_meter_usage([record], product_code="product")
        claims = await claimed(house)
        await house.ledger._store.return_claims(claims, 0)
        await house.ledger.relay_once(client)

    assert {HourState.CONFLICT: 3} == (await house.balance()).ended


async def test_a_lane_that_fails_costs_the_other_no_answer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is on the wire is awaited and written down, and nothing more starts. ledger H8
    """
    monkeypatch.setattr(relay, "_SEALED_AT_ONCE", 20)
    async with house_at(url, lambda number, body: FaultKind.SLOW if number == 1 else None) as house:
        await many(house)
        store: Any = house.ledger._store
        claim, claims = store.claim, list[int]()

        async def once(*given: Any) -> Any:
            claims.append(1)
            if len(claims) == 2:
                await house.until(lambda: bool(house.service.requests))
                raise LedgerError("away")
            return await claim(*given)

        monkeypatch.setattr(store, "claim", once)
        with pytest.raises(LedgerError, match="away"):
            await house.relay(retry=None, max_concurrency=1)

        assert [20] == house.service.sizes
        assert (20, 0) == ((await house.balance()).metered, (await house.balance()).in_flight)


class Waits:
    """The seconds that a relay rests after each round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []

        async def rest(relaying: Any, seconds: float) -> None:
            if seconds < relay.SLICE:
                self.seconds.append(seconds)
                await asyncio.sleep(0.001)
                return
            await asyncio.sleep(3600)

        monkeypatch.setattr(relay.Relay, "_rest", rest)


WRONG = Refusal("InvalidProductCodeException", "no such product")


LICENSE = "arn:aws:license-manager::111122223333:license:l-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("why", "members"),
    [
        ("guarded", {}),
        ("refused", {}),
        ("a license", {"license_arn": LICENSE}),
        ("an unnamed license", {"license_arn": LICENSE, "product_code": None}),
    ],
)
async def test_what_cannot_be_done_now_is_not_tried_all_the_time(
    url: str, why: str, members: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A copy that nobody has adopted; a product that is refused, with more records than one claim, be
    it that of a license. ledger M8
    """
    monkeypatch.setattr(relay, "_CLAIMED_AT_ONCE", 20)
    async with house_at(url, lambda number, body: WRONG) as house:
        await many(house, **members)
        if why == "guarded":
            await change(url, "UPDATE ledger SET guarded_since = 1 RETURNING 1")
        waits = Waits(monkeypatch)
        async with house.relaying():
            await house.until(lambda: len(waits.seconds) > 12)

        assert [30.0, 30.0] == waits.seconds[10:12]
        assert 3 >= len(house.service.requests)


async def test_an_idle_relay_wakes_for_what_becomes_due(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long it had nothing to do. ledger M8
    """
    await house.use(3, at=NOON - HOUR)
    house.clock.step(seconds=593)
    waits = Waits(monkeypatch)
    async with house.relaying():
        await house.until(lambda: len(waits.seconds) > 12)

    assert {7.0} == set(waits.seconds)


async def test_a_stop_that_waits_on_another_event_loop_is_an_error(house: House) -> None:
    """
    The relay never rested: it asked the database as often as it could.
    """
    stop = asyncio.Event()

    async def wait_elsewhere() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.01)

    await house.use(3, at=NOON - HOUR)
    await asyncio.to_thread(asyncio.run, wait_elsewhere())
    async with house.client() as client:
        with pytest.raises(RuntimeError, match="is bound to a different event loop"):
            await asyncio.wait_for(house.ledger.relay(client, stop=stop), 10)


async def test_zeros_raise_no_alarm(house: House) -> None:
    """
    Nobody loses money by them: they are neither old nor lost. Newcomer M14
    """
    await house.use(0)
    house.clock.step(hours=4)
    only_zeros = await house.ledger.status()
    await house.use(3, at=NOON + HOUR)
    with_units = await house.ledger.status()

    assert (None, None) == (only_zeros.oldest_unsent_seconds, only_zeros.first_loss_at)
    assert 2 * 3600 + 1800 == with_units.oldest_unsent_seconds
    assert NOON + 25 * HOUR == with_units.first_loss_at


async def test_verdicts_of_a_lost_record_leave_the_one_alone_that_has_its_row_now(
    house: House,
) -> None:
    """
    A failover that lost commits gives numbers of rows again, and a relay outlives it. Law: doubt
    """
    await house.use(3)
    house.clock.step(hours=1)
    (claim,) = await claimed(house)
    other = "UPDATE hour SET quantity = 5000000, digest = {} WHERE hour_id = 1"
    new = "x'00'" if house.url.startswith("sqlite") else r"'\x00'"
    await change(house.url, other.format(new))
    store = house.ledger._store

    assert [] == await settle(house, fate(claim, HourState.METERED))
    await store.return_claims([claim], 7)
    (row,) = await change(house.url, "SELECT state, not_before, attempts FROM hour")
    assert ("frozen", 0, 0) == tuple(row)
    assert [] == await change(house.url, "SELECT * FROM attempt")
