"""What only PostgreSQL can do: one quota for many relays, taking over."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from support.copies import adopted, again, billed, first_five, lost_timeline, repeated, warnings_of
from support.ended import claim_rules, claimed, end, fate, settle
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    House,
    a_caller,
    change,
    connections_of,
    database_at,
    empty_postgres_database,
    execute,
    house_at,
    new_postgres_database,
    until_somebody_waits,
)
from support.proxy import proxy_to

from marketplace_metering_async import (
    CannotResolveError,
    EventConflictError,
    HourState,
    LedgerError,
    LedgerOutcomeUnknownError,
    LedgerRegionMismatchError,
    LedgerUnusableError,
    MarketplaceMeteringClient,
    UsageLedger,
)
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.events import WarningIssued
from marketplace_metering_async.ledger.model import ENDED, CustomerKey
from marketplace_metering_async.ledger.stores import (
    postgresql_connections,
    postgresql_moving,
    sending,
)
from marketplace_metering_async.ledger.stores.database import Database
from marketplace_metering_async.ledger.stores.postgresql_database import PostgresDatabase
from marketplace_metering_async.sandbox import Refusal, Sandbox


async def test_many_adders_on_one_key_lose_nothing(place: str) -> None:
    """
    From several ledgers at once, while another one seals. Covers: M05, M06, M13, B08
    """
    async with house_at(place, grace=0) as house, house.client() as client:
        others = [house.another() for _ in range(3)]
        for other in others:
            await other.__aenter__()
        for _ in range(5):
            adding = [house.use(1, other, at=NOON) for other in others for _ in range(20)]
            await asyncio.gather(*adding, house.ledger.relay_once(client))
            house.clock.step(minutes=61)
        await house.ledger.relay_once(client)
        for other in others:
            await other.aclose()
        house.clock.step(hours=3)
        await house.ledger.relay_once(client)

        assert 300 == (await house.balance()).metered
        assert 300 == sum(house.metered().values())


async def test_relays_share_the_quota(place: str) -> None:
    """
    Four of them together keep within what one would have, and are hardly throttled.
    """
    async with house_at(place, grace=0) as house, Sandbox(calls_per_second=20, burst=3) as box:
        house.clock.set(box.clock.now())
        for n in range(100):
            at = box.clock.now().replace(minute=0, second=0)
            await asyncio.gather(
                *(
                    house.use(1, at=at, customer_aws_account_id=f"{n * 25 + k:012d}")
                    for k in range(25)
                )
            )
        house.clock.step(hours=2)  # of a month's last one, too
        box.advance(hours=2)
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(relayed(place, house, box) for _ in range(4)))
        took = asyncio.get_running_loop().time() - begun

        assert 2_500 == len(box.book)
        assert box.refusals["ThrottlingException"] <= 15  # 28 and more where they do not share
        assert took >= 0.9 * 100 / 20


async def relayed(place: str, house: House, box: Sandbox) -> None:
    async with UsageLedger.open(place, clock=house.clock, observer=house.warned.append) as ledger:
        pacer = ledger.pacer(20)
        async with MarketplaceMeteringClient(**box.client_arguments, pacer=pacer) as client:
            await ledger.relay_once(client)


@pytest.mark.parametrize(
    ("ahead", "least", "most"), [("30 s", 29, 31), ("2 h", 0, 1), ("-2 h", 0, 1)]
)
async def test_a_servers_clock_that_was_ahead_reserves_no_hours(
    place: str, ahead: str, least: float, most: float
) -> None:
    """
    Such as of the server before a failover: relays would wait for turns by as much as it was wrong.
    """
    async with house_at(place) as house:
        store = house.ledger._store
        await store.reserve_calls(0.2)
        await change(place, f"UPDATE quota SET next_at = next_at + interval '{ahead}'")
        until = await store.reserve_calls(0.2)

    assert least < until < most


async def test_a_file_moves_in(either: str, tmp_path: Path) -> None:
    """
    With all it had, and takes no more usage, but can be read; called again, it is refused.
    ledger C2. Covers: M19
    """
    old = f"sqlite:///{tmp_path}/usage.db"
    async with house_at(old) as house:
        await house.use(1, event_id="first")
        await house.relay_after(hours=1)
        await house.use(2, event_id="second")
        before = await house.balance()
    async with house_at(either) as new:
        moved = await new.ledger.take_over(old)
        after = await new.balance()
        with pytest.raises(LedgerUnusableError, match="only a new ledger"):
            await new.ledger.take_over(old)
        async with house_at(old) as left:
            with pytest.raises(LedgerUnusableError, match="has moved"):
                await left.use(1)
            kept = await left.balance()

        assert 2 == moved
        assert (before.recorded, before.metered) == (after.recorded, after.metered)
        assert (before.recorded, before.metered) == (kept.recorded, kept.metered)
        new.clock.step(hours=1)
        assert (await new.use(1, event_id="first", at=None)).repeated
        await new.use(4, customer_aws_account_id=ACCOUNT)
        assert 7 == (await new.balance()).recorded


async def test_usage_in_flight_moves_too(place: str, postgres: str) -> None:
    """
    A caller's transaction that is open when the move begins is waited for; what comes after is
    refused. ledger section 7, suspicion: reproduced. Covers: M19
    """
    target = await new_postgres_database(postgres)
    async with house_at(place) as house, house_at(target) as new:
        await house.use(1)
        connection = await asyncpg.connect(place)
        try:
            async with connection.transaction():
                await house.use(5, connection=connection)
                moving = asyncio.create_task(new.ledger.take_over(place))
                await until_somebody_waits(place)
            await moving
            with pytest.raises(LedgerUnusableError, match="has moved"):
                async with connection.transaction():
                    await house.use(7, connection=connection)
        finally:
            await connection.close()

        assert 6 == (await new.balance()).recorded
        assert 6 == (await house.ledger.status()).recorded


async def a_file_of_three_units(folder: Path) -> str:
    url = f"sqlite:///{folder}/usage.db"
    async with house_at(url) as house:
        await house.use(3, event_id="first")
    return url


async def test_a_word_of_the_service_that_the_database_lacks_keeps_no_verdict_out(
    postgres: str,
) -> None:
    """
    A relay that cannot write one verdict down would send nothing more.
    """
    name = f"latin_{uuid4().hex}"
    options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    await execute(postgres, f"CREATE DATABASE {name} {options}")
    refusal = Refusal("MoonPhase", "it isn\u2019t full")

    def only_the_typo(number: int, body: dict[str, Any]) -> Refusal | None:
        return refusal if "typo" in {one["Dimension"] for one in body["UsageRecords"]} else None

    async with house_at(database_at(postgres, name), only_the_typo) as house:
        await house.use(3)
        await house.use(5, dimension="typo")
        await house.relay_after(hours=1)
        reasons = [entry.reason async for entry in house.ledger.history() if entry.reason]

        assert 3 == (await house.balance()).metered
        assert reasons[0].endswith("it isn?t full")


@pytest.mark.parametrize("table", ["hour", "attempt", "kept_sum"])
async def test_a_verdict_that_comes_while_its_ledger_moves_keeps_it_where_it_is(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """
    Of a relay that nobody has stopped: the copy's sums would not be those of its hours. Covers: M19
    """
    copy = postgresql_moving._copy

    async def meanwhile(db: Any, source: Any, name: str) -> int:
        if name == table:
            await settle(house, fate(claim, HourState.METERED))
        return await copy(db, source, name)

    async with house_at(f"sqlite:///{tmp_path}/usage.db") as house, house_at(place) as new:
        await house.use(3)
        house.clock.step(hours=2)
        (claim,) = await claimed(house)
        with monkeypatch.context() as patched:
            patched.setattr(postgresql_moving, "_copy", meanwhile)
            with pytest.raises(LedgerError, match="stop all relays"):
                await new.ledger.take_over(house.url)
        await house.use(4)

        assert 2 == await new.ledger.take_over(house.url)
        status = await new.balance()
        assert (3, 4) == (status.metered, status.open)


async def test_a_move_that_is_refused_changes_nothing(place: str, tmp_path: Path) -> None:
    """
    The file lives on, and moves into a ledger that is new. ledger C2
    """
    old = await a_file_of_three_units(tmp_path)
    async with house_at(place) as used:
        await used.use(1)
        with pytest.raises(LedgerUnusableError, match="only a new ledger"):
            await used.ledger.take_over(old)
    async with house_at(old) as house:
        await house.use(4)
        assert 1 == (await house.relay_after(hours=1)).metered
    await empty_postgres_database(place)
    async with house_at(place) as new:
        assert 1 == await new.ledger.take_over(old)
        assert 7 == (await new.balance()).metered


async def test_a_move_that_fails_on_its_way_changes_nothing(place: str, tmp_path: Path) -> None:
    """
    The file is opened again, and once the cause is gone, it moves. ledger C2
    """
    old = await a_file_of_three_units(tmp_path)
    async with house_at(place) as new:
        await execute(place, "ALTER TABLE marketplace_metering.hour ADD CHECK (quantity < 3000000)")
        with pytest.raises(LedgerError, match="hour_quantity_check"):
            await new.ledger.take_over(old)
        async with house_at(old) as house:
            await house.use(4)
        await execute(
            place, "ALTER TABLE marketplace_metering.hour DROP CONSTRAINT hour_quantity_check"
        )

        assert 1 == await new.ledger.take_over(old)
        assert 7 == (await new.balance()).open


async def test_a_move_that_is_cancelled_changes_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As one that fails. ledger C2
    """
    old = await a_file_of_three_units(tmp_path)
    copying = asyncio.Event()

    async def stuck(*_: Any) -> int:
        copying.set()
        await asyncio.Event().wait()
        return 0

    async with house_at(place) as new:
        with monkeypatch.context() as patched:
            patched.setattr(postgresql_moving, "_copy", stuck)
            taking = asyncio.create_task(new.ledger.take_over(old))
            await copying.wait()
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
        async with house_at(old) as house:
            await house.use(4)

        assert 1 == await new.ledger.take_over(old)


async def test_a_move_in_doubt_ends_in_one_ledger_alone(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The old one is opened again only where the new one surely has nothing of it. ledger C2, C3
    """
    monkeypatch.setattr(postgresql_connections, "_TRIES", 1)
    old = await a_file_of_three_units(tmp_path)
    async with proxy_to(place) as proxy, house_at(proxy.url) as new:
        late = proxy.delay_commit(cut=True)
        taking = asyncio.create_task(new.ledger.take_over(old))
        await late.left.wait()
        await until_somebody_waits(place)
        await late.land()
        with pytest.raises(LedgerOutcomeUnknownError):
            await taking
        async with house_at(old) as house:
            with pytest.raises(LedgerUnusableError, match="has moved"):
                await house.use(4)

        assert 3 == (await new.balance()).open


async def test_two_moves_at_once_end_in_one_ledger_alone(place: str, tmp_path: Path) -> None:
    """
    The one that comes too late does not open the old one again. ledger C2
    """
    old = await a_file_of_three_units(tmp_path)
    async with house_at(place) as new, new.another() as other:
        moves = (ledger.take_over(old) for ledger in (new.ledger, other))
        ends = await asyncio.gather(*moves, return_exceptions=True)
        async with house_at(old) as house:
            with pytest.raises(LedgerUnusableError, match="has moved"):
                await house.use(4)

        assert 1 == ends.count(1)
        assert 1 == sum(isinstance(end, LedgerUnusableError) for end in ends)
        assert 3 == (await new.balance()).open


async def test_a_ledger_does_not_move_into_itself(place: str) -> None:
    """
    New or used, it goes on. ledger C2
    """
    async with house_at(place) as house:
        for _ in range(2):
            with pytest.raises(LedgerUnusableError):
                await house.ledger.take_over(place)
            await house.use(1)

        assert 2 == (await house.balance()).recorded


@pytest.mark.parametrize(("lasts", "is_copy"), [(60.0, True), (-1.0, False)])
async def test_a_process_looks_for_its_latest_note(
    either: str, monkeypatch: pytest.MonkeyPatch, *, lasts: float, is_copy: bool
) -> None:
    """
    Whoever has lost that has lost commits. It is named, once; nobody looks for a note that relays
    may have removed. ledger C1
    """
    monkeypatch.setattr(postgresql_connections, "_NOTE_LASTS", lasts)
    async with house_at(either) as house:
        await house.use(1)
        await house.use(2)
        await change(house.url, "DELETE FROM posting RETURNING 1")
        for quantity in (3, 4):
            await house.use(quantity)
        warned = [event.text for event in house.warned]

        assert is_copy == (await house.balance()).is_unconfirmed_copy
        assert int(is_copy) == len(warned)
        assert all("usage that this process stored at" in text for text in warned)


async def test_a_machine_that_slept_for_a_week_looks_for_no_note(
    either: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its monotonic time leaves that out, and relays on other machines have removed the note since.
    """

    class AWeekLater(SystemClock):
        def now(self) -> datetime:
            return super().now() + timedelta(days=7)

    async with house_at(either) as house:
        await house.use(1)
        await change(house.url, "DELETE FROM posting RETURNING 1")
        monkeypatch.setattr(postgresql_connections, "SystemClock", AWeekLater)
        await house.use(2)

        assert not (await house.balance()).is_unconfirmed_copy


async def test_processes_that_share_a_ledger_miss_nothing(either: str) -> None:
    """
    However their transactions overtake each other, and fail. ledger C1
    """
    async with house_at(either) as house, house.another() as other:
        for hour in range(4):
            adding = [house.use(1, ledger=one) for one in (house.ledger, other) for _ in range(20)]
            await asyncio.gather(*adding, house.relay(), return_exceptions=False)
            with pytest.raises(EventConflictError):
                await asyncio.gather(*(house.use(n, event_id=f"{hour}") for n in (1, 2)))
            house.clock.step(hours=1)
        status = await house.balance()

        assert not status.is_unconfirmed_copy
        assert 164 == status.recorded
        assert [] == [e for e in house.warned if isinstance(e, WarningIssued)]


async def test_a_claim_is_leased_by_the_servers_clock(place: str) -> None:
    """
    A machine whose clock is years behind takes nobody's records, and keeps none. Covers: M04
    """
    async with house_at(place) as house, house.another() as late:
        await house.use(1)
        house.clock.step(hours=1)
        now = int(house.clock.now().timestamp())
        await house.ledger._store.bind("us-east-1", "127.0.0.1")
        await house.ledger._store.seal_due(now, 10, "us-east-1")
        rules = claim_rules(now)
        (claimed,) = await house.ledger._store.claim(now, rules)
        house.clock.step(days=-700)
        again = await late._store.claim(int(house.clock.now().timestamp()), rules)
        until = (await late.status()).claimed_until

    assert [] == again
    assert 1_000_000 == claimed.quantity
    assert until is not None
    assert abs(until - datetime.now(UTC)) < timedelta(seconds=61)


@pytest.mark.parametrize("first", ["claim", "rebind"])
async def test_nothing_is_claimed_for_a_host_that_is_left_meanwhile(place: str, first: str) -> None:
    """
    Whichever comes first: who claims and who rebinds look at what the other one has done.
    """
    async with (
        house_at(place) as house,
        house.another() as other,
        house.client(endpoint_url="http://localhost:1") as elsewhere,
    ):
        await house.use(1)
        house.clock.step(hours=2)
        now = int(house.clock.now().timestamp())
        await house.ledger._store.bind("us-east-1", "127.0.0.1")
        await house.ledger._store.seal_due(now, 10, "us-east-1")
        works: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "claim": lambda: house.ledger._store.claim(now, claim_rules(now)),
            "rebind": lambda: other.rebind(elsewhere, note="another endpoint"),
        }
        tasks: dict[str, asyncio.Task[Any]] = {}
        async with a_caller(place) as third:
            await third.execute("SELECT 1 FROM marketplace_metering.ledger FOR UPDATE")
            for sessions, name in enumerate(sorted(works, key=lambda name: name != first), 1):
                tasks[name] = asyncio.create_task(works[name]())
                await until_somebody_waits(place, sessions=sessions)
        await asyncio.wait(tasks.values())
        failed = {name: type(task.exception()) for name, task in tasks.items()}

    assert failed == (
        {"claim": type(None), "rebind": CannotResolveError}
        if first == "claim"
        else {"rebind": type(None), "claim": LedgerRegionMismatchError}
    )


async def test_a_lease_that_begins_beside_a_claim_is_not_over(place: str) -> None:
    """
    Not even where it begins after that claim and before that looks for records. Covers: M04
    """
    async with house_at(place) as house, house.another() as other:
        await house.use(1)
        house.clock.step(hours=1)
        now = int(house.clock.now().timestamp())
        store = house.ledger._store
        await store.bind("us-east-1", "127.0.0.1")
        await store.seal_due(now, 10, "us-east-1")
        rules = claim_rules(now)
        fetch = PostgresDatabase.fetch
        first: list[Any] = []

        async def meanwhile(db: PostgresDatabase, statement: Any, *values: Any) -> Any:
            if statement is sending.UNCLAIMED and not first:
                first.append(None)
                first[:] = await other._store.claim(now, rules)
            return await fetch(db, statement, *values)

        with patch.object(PostgresDatabase, "fetch", meanwhile):
            again = await store.claim(now, rules)

    assert 1 == len(first)
    assert [] == again


async def test_events_are_known_in_whatever_order_the_server_finds_them(place: str) -> None:
    """
    As where it reads two tables at the same time, with settings that ask for it. Covers: K02
    """
    async with house_at(place) as house:
        ids = [f"event-{number}" for number in range(4)]
        for event_id in ids:
            await house.use(1, event_id=event_id)
        database = urlsplit(place).path[1:]
        for setting in ("setup_cost", "tuple_cost"):
            await execute(place, f"ALTER DATABASE {database} SET parallel_{setting} = 0")
        for setting in ("table", "index"):
            await execute(
                place, f"ALTER DATABASE {database} SET min_parallel_{setting}_scan_size = 0"
            )
        async with house.another() as other:
            again = [await house.use(1, other, event_id=event_id) for event_id in ids]
            await house.use(1, other)  # it remembers the hour then
            again += [await house.use(1, other, event_id=event_id) for event_id in ids]
            async with a_caller(place) as connection:
                again += [await house.use(1, other, event_id="event-3", connection=connection)]
            found = await other.known_events(ids)

        assert all(one.repeated for one in again), again
        assert {*ids} == found.keys()
        assert 5 == (await house.balance()).recorded


async def test_who_has_looked_before_an_upgrade_looks_after_it(place: str) -> None:
    """
    And decides: a column more is another result of what the session has prepared. Covers: M14
    """
    async with house_at(place) as house:
        await end(house, HourState.MONTH_OVER)
        for verb in ("history", "resolve"):
            hours = [entry.name async for entry in house.ledger.history(states=ENDED)]
            with pytest.raises(CannotResolveError):
                await house.ledger.resolve(hours, "metered", note="it was never sent")
            for table in ("hour", "stranded"):
                await change(place, f"ALTER TABLE {table} ADD COLUMN for_{verb} bigint")
            if verb == "history":
                assert hours == [entry.name async for entry in house.ledger.history(states=ENDED)]
        assert 1 == await house.ledger.resolve(hours, "written_off", note="a gift")


async def test_a_session_of_another_time_zone_changes_no_hour(place: str) -> None:
    """
    Nor another style of dates. Covers: M18
    """
    database = urlsplit(place).path[1:]
    await execute(
        place,
        f"ALTER DATABASE {database} SET timezone TO 'Asia/Kathmandu'",
        f"ALTER DATABASE {database} SET datestyle TO 'German'",
        f"ALTER DATABASE {database} SET intervalstyle TO 'sql_standard'",
    )
    edge = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    async with house_at(place) as house:
        house.clock.set(edge)
        await house.use(1)
        await house.use(2, at=edge - timedelta(hours=1))
        house.clock.step(seconds=1)
        await house.use(4)
        await house.relay_after(hours=2)
        month = [entry.hour async for entry in house.ledger.history(month=edge)]

        hours = [edge.replace(minute=0, second=0) - n * HOUR for n in (1, 0, -1)]
        assert dict(zip([(ACCOUNT, hour) for hour in hours], (2, 1, 4), strict=True)) == (
            house.metered()
        )
        assert hours[:2] == month


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_transaction_that_met_another_one_is_run_again(
    place: str, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """
    A deadlock, or one that cannot be serialized: some times, and then its caller hears of it.
    Covers: M13
    """
    monkeypatch.setattr(postgresql_connections, "_TRIES", 3)
    tries = [0]
    refuse = f"DO $$ BEGIN RAISE EXCEPTION 'met' USING ERRCODE = '{state}'; END $$"

    async def meets(db: Any) -> int:
        tries[0] += 1
        if tries[0] <= times:
            await db.fetch(refuse)
        return tries[0]

    async with house_at(place) as house:
        times = 2
        assert 3 == await connections_of(house.ledger).run(meets)
        times, tries[0] = 1_000, 0
        with pytest.raises(LedgerError, match="met"):
            await connections_of(house.ledger).run(meets)
        assert 3 == tries[0]


async def test_usage_is_added_in_place(place: str) -> None:
    """
    Though the clock goes on: no index hears of a larger hour, nor of a sum. ledger M6
    """
    async with house_at(place) as house:
        for _ in range(40):
            house.clock.step(seconds=1)
            await asyncio.gather(
                *(house.use(1, customer_aws_account_id=f"{n:012d}") for n in range(20))
            )
        status = await house.balance()
    in_place = "n_tup_upd, n_tup_hot_upd::float / n_tup_upd"
    async with asyncio.timeout(30):
        while not (  # noqa: ASYNC110 - a session that ends tells the server what it did, later
            found := {
                table: (updates, share)
                for table, updates, share in await change(
                    place,
                    f"SELECT relname, {in_place} FROM pg_stat_user_tables "
                    "WHERE relname IN ('hour', 'kept_sum') AND n_tup_upd > 30",
                )
            }
        ).keys() >= {"hour", "kept_sum"}:
            await asyncio.sleep(0.05)

    assert 800 == status.open
    assert found["hour"][1] > 0.95
    assert found["kept_sum"][1] > 0.95


async def test_a_restored_file_that_moves_at_once_bills_nothing_twice(
    place: str, tmp_path: Path
) -> None:
    """
    It is looked at before it moves, though nobody has opened it since. Covers: K19, M19
    """
    path = tmp_path / "usage.db"
    async with house_at(f"sqlite:///{path}") as house:
        await first_five(house)
        await house.ledger.back_up(tmp_path / "backup.db")
        await lost_timeline(house)
    copyfile(tmp_path / "backup.db", path)
    new = again(house, place)
    async with new.ledger:
        await new.ledger.take_over(house.url)
        await repeated(new)
        guarded = (await new.balance()).is_unconfirmed_copy
        before = billed(new)
        await adopted(new)
        status = await new.balance()

    assert guarded
    assert any("this ledger is a copy" in text for text in warnings_of(new))
    assert 105 == before
    assert {HourState.UNCONFIRMED: 100} == status.ended


async def test_functions_of_somebody_else_are_not_called(place: str) -> None:
    """
    One that fits better than PostgreSQL's own is preferred wherever it stands on the path.
    """
    function = "CREATE FUNCTION others.{} RETURNS {} LANGUAGE sql AS 'SELECT {}'"
    await execute(
        place,
        "CREATE SCHEMA others",
        function.format("unnest(bigint[])", "bigint", "1::bigint"),
        function.format("unnest(text[])", "text", "''1''"),
        function.format("cardinality(text[])", "integer", "0"),
        f'ALTER DATABASE "{urlsplit(place).path[1:]}" SET search_path = others, public',
    )
    async with house_at(place, grace=0) as house:
        for name in ("carefully", "blindly"):
            pieces = range(20)
            await asyncio.gather(
                *(
                    house.use(1, customer_aws_account_id=f"{n:012d}", event_id=f"{name}-{n}")
                    for n in pieces
                )
            )
        repeated = [await house.use(1, customer_aws_account_id="0" * 12, event_id="blindly-0")]
        await house.relay_after(hours=1)
        status = await house.balance()

    assert [True] == [one.repeated for one in repeated]
    assert 40 == status.metered == billed(house)


async def test_what_a_restore_has_undone_is_missed_after_it(place: str) -> None:
    """
    Though a process has met the ledger while its own row was not there yet.
    """
    async with house_at(place) as house:
        await house.use(1)
        await house.use(2)
        await change(place, "CREATE TABLE kept AS SELECT * FROM ledger")
        await change(place, "DELETE FROM posting")
        await change(place, "DELETE FROM ledger")
        with pytest.raises(LedgerUnusableError, match="restore"):
            await house.use(4)
        await change(place, "INSERT INTO ledger SELECT * FROM kept")
        await house.use(4)

        assert any("is missing" in text for text in warnings_of(house))


async def test_new_keys_leave_room_in_the_servers_table_of_locks(place: str) -> None:
    """
    All sessions of a server share it: who fills it makes the statements of strangers fail.
    """
    count = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
    accounts = [f"{n:012d}" for n in range(1_000)]

    async def make(db: Database) -> int:
        customers = [CustomerKey("product", account, "", "") for account in accounts]
        await db.lock_new(customers, [f"product {account}" for account in accounts])
        held: int = await db.fetchval(count)
        return held

    async with house_at(place) as house:
        held = await connections_of(house.ledger).run(make)

    assert 0 < held <= 100
