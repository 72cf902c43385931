"""What a person says of usage in the ledger: every end state has a way out without SQL."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.ended import LAST, claimed, end, fate, names, settle
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, connections_of, house_at

from marketplace_metering_async import (
    CannotResolveError,
    HourState,
    LedgerRegionMismatchError,
    LedgerUnusableError,
    UsageLedger,
)
from marketplace_metering_async.cli.commands.ledger_status import exit_of
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger import operations
from marketplace_metering_async.ledger.model import ENDED, STRANDED
from marketplace_metering_async.ledger.stores import resolving, store_at
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore

THIS_HOUR = NOON.replace(minute=0)


async def the_end(house: House) -> Any:
    (entry,) = [entry async for entry in house.ledger.history() if entry.quantity == 3]
    return entry


@pytest.mark.parametrize("state", ENDED)
async def test_every_end_state_can_be_written_off(house: House, state: HourState) -> None:
    """
    After which it raises no alarm. ledger H8, M15
    """
    await end(house, state)
    alarm = exit_of(await house.ledger.status())
    count = await house.ledger.resolve(await names(house), "written_off", note="a gift")
    status = await house.balance()

    assert (0 if state is HourState.WRITTEN_OFF else 1) == alarm
    assert 1 == count
    assert {HourState.WRITTEN_OFF: 3} == status.ended
    assert 0 == exit_of(status)
    said = (await the_end(house)).resolutions[-1]
    assert (state, HourState.WRITTEN_OFF, "a gift") == (said.before, said.after, said.note)


@pytest.mark.parametrize("state", ENDED)
async def test_what_waits_for_a_word_of_a_person_is_not_pruned(
    house: House, state: HourState
) -> None:
    """
    Its alarm could never end, and nobody could say whose usage it is. Covers: D19
    """
    is_decided = state is HourState.WRITTEN_OFF
    await end(house, state)
    house.clock.step(days=9)
    before = house.clock.now() - timedelta(days=4)

    await house.ledger.prune(before)
    assert int(not is_decided) == len([e async for e in house.ledger.history(states=[state])])
    if not is_decided:
        await house.ledger.resolve(await names(house), "written_off", note="a gift")
    assert 0 == exit_of(await house.balance())
    assert {HourState.WRITTEN_OFF: 3} == (await house.ledger.status()).ended


@pytest.mark.parametrize("state", ENDED)
async def test_every_end_state_can_be_billed(house: House, state: HourState) -> None:
    """
    Once: in its own hour where the identical record can be sent, or in the hour that runs.
    ledger H8, M15
    """
    await end(house, state)
    if state in STRANDED:
        await house.ledger.retry(state)
    else:
        if state is not HourState.NOT_METERED:
            await house.ledger.resolve(await names(house), "not_metered", note="looked")
        await house.ledger.reopen(await names(house), note="to be paid")
    await house.relay_after(hours=2)
    status = await house.balance()

    assert (3, {}) == (status.metered, status.ended)
    assert [3] == [quantity for quantity in house.metered().values() if quantity]
    assert 0 == exit_of(status)


@pytest.mark.parametrize("state", [state for state in ENDED if state not in STRANDED])
async def test_every_record_may_be_found_with_the_service(house: House, state: HourState) -> None:
    """
    And is metered then. ledger H8
    """
    await end(house, state)
    await house.ledger.resolve(await names(house), "metered", note="in CloudTrail")
    status = await house.balance()

    assert (3, {}) == (status.metered, status.ended)
    with pytest.raises(CannotResolveError, match="is metered: only usage that has ended"):
        await house.ledger.resolve([(await the_end(house)).name], "written_off", note="oh")


@pytest.mark.parametrize("state", [s for s in ENDED if s not in (*STRANDED, HourState.DAMAGED)])
async def test_every_whole_record_may_be_sent_again(house: House, state: HourState) -> None:
    """
    The identical one, within its window, by the name of its state; once somebody has found that the
    service does not have it, where nothing proves that. Covers: S14
    """
    await end(house, state)
    if state is HourState.UNCONFIRMED:
        await house.ledger.resolve(await names(house), "not_metered", note="not in CloudTrail")
        state = HourState.NOT_METERED
    count = await house.ledger.retry(state)
    await house.relay()

    assert 1 == count
    assert {(ACCOUNT, THIS_HOUR): 3} == house.metered()


async def test_retry_leaves_decisions_to_a_person(house: House) -> None:
    """
    Without a state, it moves no charge to another month, and takes back no gift. ledger M15
    """
    await end(house, HourState.MONTH_OVER)
    await house.ledger.retry()
    stranded = (await house.balance()).ended
    await house.ledger.resolve(await names(house), "written_off", note="a gift")
    await house.ledger.retry()
    gift = (await house.balance()).ended
    await house.ledger.retry(HourState.WRITTEN_OFF)
    (carrying,) = [e async for e in house.ledger.history() if e.state is HourState.OPEN]

    assert ["a gift"] == [said.note for said in carrying.resolutions]
    assert {HourState.MONTH_OVER: 3} == stranded
    assert {HourState.WRITTEN_OFF: 3} == gift
    assert 3 == (await house.balance()).open


async def test_retry_goes_in_small_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What ends it in between leaves a part on the way, and the rest to another call.
    """
    monkeypatch.setattr(operations, "CHANGED_AT_ONCE", 2)
    house.clock.set(LAST)
    for n in range(5):
        await house.use(2, customer_aws_account_id=f"{n:012d}")
    house.clock.step(hours=2)
    claims = await claimed(house)
    await settle(house, *(fate(claim, HourState.REJECTED) for claim in claims))
    for n in range(5):
        await house.use(3, customer_aws_account_id=f"{n:012d}", at=LAST)
    states, begun = (HourState.REJECTED, HourState.MONTH_OVER), Counter[str]()

    def reach(name: str) -> None:
        begun[name] += 1
        if begun["transaction: begins"] == 5:
            raise KeyError(name)

    async with UsageLedger(store_at(house.url, reach=reach), clock=house.clock) as ledger:
        begun.clear()
        with pytest.raises(KeyError):
            await ledger.retry(*states)
    broken = await house.balance()
    rest = await house.ledger.retry(*states)

    assert (10, 6, {HourState.MONTH_OVER: 9}) == (broken.frozen, broken.open, broken.ended)
    assert 3 == rest
    assert (15, {}) == ((await house.balance()).open, (await house.ledger.status()).ended)


async def test_many_rows_in_a_file_are_changed_in_turn_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each part leaves others as much time as it took, for they only look now and then whether the
    file is free. One that has failed leaves none.
    """
    slept: list[float] = []

    class Passing(SystemClock):
        seconds = 0

        def monotonic(self) -> float:
            self.seconds += 1
            return self.seconds

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    async with house_at(f"sqlite:///{tmp_path}/usage.db") as house:
        monkeypatch.setattr(SqliteStore, "clock", Passing())
        await end(house, HourState.MONTH_OVER)
        with pytest.raises(CannotResolveError):
            await house.ledger.resolve(["hour-99"], "metered", note="nobody's")
        assert not slept
        await house.ledger.resolve(await names(house), "written_off", note="a gift")
        assert [1] == slept
        await house.ledger.retry(HourState.WRITTEN_OFF)
        assert [1] * 3 == slept  # for hours, and for what none carries
        house.clock.step(hours=1)
        await settle(house, *(fate(one, HourState.REJECTED) for one in await claimed(house)))
        await house.ledger.reopen(await names(house), note="to be paid")
        assert [1] * 4 == slept
        house.clock.step(days=40)
        await house.ledger.prune(house.clock.now() - timedelta(days=33))

    assert [1] * 7 == slept  # hours, until there is none, and event ids


async def test_gifts_of_one_hour_are_added_up(house: House) -> None:
    """
    Usage of a month that is over may come and be written off again and again.
    """
    await end(house, HourState.MONTH_OVER)
    await house.ledger.resolve(await names(house), "written_off", note="one")
    await house.use(4, at=LAST)
    (late,) = [e.name async for e in house.ledger.history() if e.state is HourState.MONTH_OVER]
    await house.ledger.resolve([late], "written_off", note="two")
    (entry,) = [e async for e in house.ledger.history() if e.state in ENDED]

    assert (7, ["one", "two"]) == (entry.quantity, [said.note for said in entry.resolutions])
    assert {HourState.WRITTEN_OFF: 7} == (await house.balance()).ended


async def test_all_are_resolved_or_none(house: House) -> None:
    """
    What a relay holds is not resolved, nor is what is gone.
    """
    await end(house, HourState.CONFLICT)
    await house.use(4, customer_aws_account_id="000000000002")
    house.clock.step(hours=2)
    await claimed(house)
    everything = [entry.name async for entry in house.ledger.history()]
    with pytest.raises(CannotResolveError, match="is frozen: only usage that has ended"):
        await house.ledger.resolve(everything, "written_off", note="x")
    with pytest.raises(CannotResolveError, match="hour-999 is not in the ledger"):
        await house.ledger.resolve([*await names(house), "hour-999"], "written_off", note="x")
    with pytest.raises(CannotResolveError, match="is frozen, and may be billed already"):
        await house.ledger.reopen(everything, note="x")
    await house.use(5)
    (open_,) = [e.name async for e in house.ledger.history() if e.state is HourState.OPEN]
    with pytest.raises(CannotResolveError, match="is open: only usage that has ended"):
        await house.ledger.resolve([open_], "metered", note="x")

    assert {HourState.CONFLICT: 3} == (await house.balance()).ended


async def test_a_verdict_of_before_undoes_nothing(house: House) -> None:
    """
    It is written once more where its first answer was lost; each word raises the fence.
    """
    await house.use(3)
    house.clock.step(hours=1)
    (claim,) = await claimed(house)
    await settle(house, fate(claim, HourState.CONFLICT))
    await house.ledger.retry(HourState.CONFLICT)
    heard = await settle(house, fate(claim, HourState.CONFLICT))
    (again,) = await claimed(house)
    await settle(house, fate(again, HourState.CONFLICT))
    await house.ledger.resolve(await names(house), "not_metered", note="looked")
    await house.ledger.retry(HourState.NOT_METERED)
    ((fence,),) = await change(house.url, "SELECT fence FROM hour")

    assert [] == heard
    assert again.fence + 2 == fence
    assert 3 == (await house.balance()).frozen


@pytest.mark.parametrize("state", [HourState.NOT_METERED, HourState.WRITTEN_OFF])
async def test_a_later_success_wins_and_alarms(
    house: House, state: HourState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Over what a person said. ledger H8
    """
    await house.use(3)
    house.clock.step(hours=1)
    (claim,) = await claimed(house)
    await settle(house, fate(claim, HourState.PROBABLY_METERED))
    await house.ledger.resolve(await names(house), state.value, note="looked")  # type: ignore[arg-type]
    house.ledger._known.keep(fate(claim, HourState.METERED))
    report = await house.relay()

    assert (1, 3) == (report.metered, (await house.balance()).metered)
    assert [
        f"bill none of it again: 1 records that had ended as {state} are metered after all"
    ] == [event.text for event in house.warned if isinstance(event, WarningIssued)]


async def test_what_was_reopened_shows_where_it_is(house: House) -> None:
    """
    In both hours, and it is not billed twice by a second word.
    """
    await end(house, HourState.REJECTED)
    await house.ledger.reopen(await names(house), note="to be paid")
    entries = {entry.hour: entry async for entry in house.ledger.history()}
    old, new = entries[THIS_HOUR], entries[THIS_HOUR + HOUR]

    assert (HourState.REOPENED, 3, "to be paid") == (
        old.state,
        old.quantity,
        old.resolutions[0].note,
    )
    assert [(THIS_HOUR, 3)] == [(one.origin, one.quantity) for one in new.carried]
    with pytest.raises(CannotResolveError, match="is reopened, and may be billed already"):
        await house.ledger.reopen([old], note="again")
    balance = await house.balance()
    assert (3, {}) == (balance.open, balance.ended)
    assert {HourState.OPEN: 1, HourState.REOPENED: 1} == balance.records


async def test_what_is_in_doubt_is_not_billed_again(house: House) -> None:
    """
    Before a person has looked.
    """
    await end(house, HourState.TOO_LATE, in_doubt=True)
    with pytest.raises(CannotResolveError, match="is too_late in doubt, and may be billed"):
        await house.ledger.reopen(await names(house), note="x")
    await house.ledger.resolve(await names(house), "not_metered", note="looked")

    assert 1 == await house.ledger.reopen(await names(house), note="to be paid")


async def test_what_an_operator_cannot_mean_is_refused(house: House) -> None:
    """
    With what to do; nothing is changed.
    """
    await end(house, HourState.MONTH_OVER)
    stranded = await names(house)

    with pytest.raises(ValueError, match="states: expected end states or frozen, got open"):
        await house.ledger.retry(HourState.OPEN)
    with pytest.raises(ValueError, match="resolve what is unconfirmed first"):
        await house.ledger.retry(HourState.UNCONFIRMED)
    with pytest.raises(ValueError, match=r"move what no hour carries with retry\(\)"):
        await house.ledger.reopen(stranded, note="x")
    with pytest.raises(ValueError, match="before: expected at least 3 days ago"):
        await house.ledger.prune(house.clock.now() - timedelta(days=2))
    assert {HourState.MONTH_OVER: 3} == (await house.balance()).ended


async def test_what_was_resolved_is_pruned(house: House) -> None:
    """
    With what was said of it.
    """
    await end(house, HourState.REJECTED)
    await house.ledger.reopen(await names(house), note="to be paid")
    await house.relay_after(hours=2)
    house.clock.step(days=9)

    assert 2 == await house.ledger.prune(house.clock.now() - timedelta(days=4))
    assert 3 == (await house.balance()).metered


async def test_usage_that_no_hour_carried_is_pruned_once_it_is_decided(house: House) -> None:
    """
    With what was said of it; not before, and not while that is young. A customer who has left, and
    whose agent goes on, brings a row for each hour. Covers: D19
    """
    await house.ledger.close_customer(product_code="product", customer_aws_account_id=ACCOUNT)
    for hours in range(4):
        await house.use(2**hours, at=NOON + hours * HOUR + timedelta(seconds=1))
        house.clock.step(hours=1)
    undecided, young, *old = await names(house)
    await house.ledger.resolve(old, "written_off", note="a gift")
    house.clock.step(days=9)
    before = house.clock.now()
    await house.ledger.resolve([young], "written_off", note="a gift")
    house.clock.step(days=4)

    assert 2 == await house.ledger.prune(before)
    assert 0 == await house.ledger.prune(before)
    assert {undecided, young} == {entry.name async for entry in house.ledger.history()}
    assert 1 == len(await change(house.url, "SELECT note FROM resolution"))
    status = await house.balance()
    assert {HourState.SUBSCRIPTION_OVER: 1, HourState.WRITTEN_OFF: 14} == status.ended


ELSEWHERE = "http://localhost:1"


@pytest.mark.parametrize(
    ("taken", "after"),
    [
        ("billed", {"metered": 4}),
        ("send", {"frozen": 3, "ended": {HourState.NOT_METERED: 1}}),
        ("written_off", {"ended": {HourState.WRITTEN_OFF: 4}}),
    ],
)
async def test_a_ledger_can_be_bound_to_another_host(
    house: House, monkeypatch: pytest.MonkeyPatch, taken: Any, after: dict[str, Any]
) -> None:
    """
    Of its region; what a sandbox has taken is sent again, written off, or billed as it is.
    It is looked at by page, however much it is. ledger M15
    """
    monkeypatch.setattr(resolving, "_PAGE", 1)
    await house.use(1)
    await house.relay_after(hours=2)
    house.clock.step(hours=23)
    await house.use(3)
    await house.relay_after(hours=1)
    async with house.client(endpoint_url=ELSEWHERE) as other:
        with pytest.raises(CannotResolveError, match=r"4 units that 127\.0\.0\.1 has taken"):
            await house.ledger.rebind(other, note="x")
        changed = await house.ledger.rebind(other, taken=taken, note="from the sandbox")
        status = await house.balance()
        frozen = [e async for e in house.ledger.history() if e.state is HourState.FROZEN]
        await house.ledger.relay_once(other)

    assert after == {name: getattr(status, name) for name in after}
    assert (2 if taken != "billed" else 0, "localhost") == (changed, status.host)
    notes = [said.note async for e in house.ledger.history() for said in e.resolutions]
    assert ["from the sandbox"] * changed == notes
    assert [(None, None)] * len(frozen) == [(e.settled_at, e.metering_record_id) for e in frozen]


async def test_nothing_is_rebound_under_a_relay(house: House) -> None:
    """
    Or to another region.
    """
    await house.use(1)
    await house.relay_after(hours=2)
    async with house.client(region_name="eu-west-1") as abroad:
        with pytest.raises(Exception, match="go to us-east-1, not to eu-west-1"):
            await house.ledger.rebind(abroad, taken="billed", note="x")
    await house.use(1)
    house.clock.step(hours=2)
    await claimed(house)
    async with house.client(endpoint_url=ELSEWHERE) as other:
        with pytest.raises(CannotResolveError, match="stop all relays first"):
            await house.ledger.rebind(other, taken="billed", note="x")


async def test_a_relay_that_had_nothing_in_its_hands_sends_no_more_to_the_host_before(
    house: House,
) -> None:
    """
    What was to be sent again would be lost there, for the ledger would have it as metered.
    """
    await house.use(1)
    async with house.client() as before, house.client(endpoint_url=ELSEWHERE) as other:
        relay = house.ledger._relay(before, None)
        house.clock.step(hours=2)
        await relay.once()
        await house.ledger.rebind(other, taken="send", note="from the sandbox")
        await house.use(2)
        house.clock.step(hours=2)
        with pytest.raises(LedgerRegionMismatchError, match=r"go to localhost .* 127\.0\.0\.1"):
            await relay.once()

    status = await house.balance()
    assert (0, 3) == (status.metered, status.frozen)
    assert 1 == len(house.service.requests)


async def test_a_success_of_the_host_before_meters_nothing_any_more(house: House) -> None:
    """
    Its relay slept past its claim while the ledger was bound to another host.
    """
    await house.use(3)
    house.clock.step(hours=2)
    (claim,) = await claimed(house, lease=0.0)
    async with house.client(endpoint_url=ELSEWHERE) as other:
        await house.ledger.rebind(other, note="from the sandbox")
        assert [] == await settle(house, fate(claim, HourState.METERED))
        frozen = await house.balance()
        await house.ledger.relay_once(other)

    status = await house.balance()
    assert (3, 0, 3) == (frozen.frozen, frozen.metered, status.metered)


async def test_a_ledger_that_moved_comes_back_where_the_new_one_is_empty(
    either: str, new_url: Callable[[], Any]
) -> None:
    """
    And only there. ledger C2, M15
    """
    old = await new_url()
    async with house_at(old) as house, house_at(either) as new:
        await house.use(3)
        with pytest.raises(LedgerUnusableError, match="has not moved"):
            await house.ledger.un_retire(either)
        ledger_id = (
            await connections_of(new.ledger).read(
                lambda db: db.fetchrow("SELECT ledger_id FROM marketplace_metering.ledger")
            )
        )[0]
        await house.ledger._store.retire(ledger_id)
        with pytest.raises(LedgerUnusableError, match="has moved"):
            await house.use(1)
        await house.ledger.un_retire(either)
        await house.use(4)
        await house.ledger._store.retire("another")
        with pytest.raises(LedgerUnusableError, match="moved to ledger another, not to that one"):
            await house.ledger.un_retire(either)
        await new.use(1)
        with pytest.raises(LedgerUnusableError, match="moved to ledger another, not to that one"):
            await house.ledger.un_retire(either)

        assert 7 == (await house.balance()).open


async def test_a_move_that_was_killed_has_a_way_back(
    either: str, new_url: Callable[[], Any]
) -> None:
    """
    Though whoever saw where it moved has added to the new one.
    ledger C2, M15
    """
    old = await new_url()
    async with house_at(old) as house, house_at(either) as new:
        await house.use(3)
        identity = "SELECT ledger_id FROM marketplace_metering.ledger"
        own = await connections_of(new.ledger).read(lambda db: db.fetchval(identity))
        await house.ledger._store.retire(own)  # and there it was killed
        await new.use(1)
        with pytest.raises(LedgerUnusableError, match="only a new ledger"):
            await new.ledger.take_over(old)
        await house.ledger.un_retire(either)
        await house.use(4)
        warned = [one.text for one in house.warned if isinstance(one, WarningIssued)]

        assert (7, 1) == ((await house.balance()).open, (await new.balance()).open)
        assert "let all producers add to one of the two ledgers" in warned[-1]


async def test_what_has_moved_stays_moved(either: str, new_url: Callable[[], Any]) -> None:
    """
    A second try says that nothing is left to do. ledger C2, M15
    """
    old = await new_url()
    async with house_at(old) as house, house_at(either) as new:
        await house.use(3)
        await new.ledger.take_over(old)
        with pytest.raises(LedgerUnusableError, match="nothing is left to move"):
            await new.ledger.take_over(old)
        with pytest.raises(LedgerUnusableError, match="that one has its usage"):
            await house.ledger.un_retire(either)

        assert 3 == (await new.balance()).open
