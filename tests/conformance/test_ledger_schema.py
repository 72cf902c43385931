"""The schema of a ledger: what it keeps, how it is upgraded, and what it refuses to read."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.ledgers import ACCOUNT, HOUR, NOON, House, change, execute, house_at, upgraded

from marketplace_metering_async import LedgerUnusableError, UsageLedger
from marketplace_metering_async.ledger.model import Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import PostingRules
from marketplace_metering_async.limits import MAX_QUANTITY


async def test_old_and_new_go_on_side_by_side(house: House, tmp_path: Path) -> None:
    """
    Through an upgrade that old versions may live with; also those that are opened after it.
    Covers: D16
    """
    await house.use(1)
    new = upgraded(house, tmp_path, "ALTER TABLE {schema}hour ADD COLUMN later TEXT;\n")
    async with new, house.another() as old:
        for ledger in (house.ledger, new, old):
            await house.use(1, ledger)
        sent = await house.relay_after(hours=1)

        assert (1, 4) == (sent.metered, sent.units)
        assert [(2, 1)] == await change(house.url, "SELECT version, min_compatible FROM ledger")
        assert [4] == [entry.quantity async for entry in new.history()]


async def test_an_old_process_ends_where_it_may_not_go_on(house: House, tmp_path: Path) -> None:
    """
    And says what to do; it neither writes nor reads what it does not know. ledger M9. Covers: M14
    """
    await house.use(1)
    later = "UPDATE {schema}ledger SET min_compatible = 2;\n"
    async with upgraded(house, tmp_path, later) as new:
        changes: list[Any] = [
            house.use(1),
            house.relay(),
            house.ledger.retry(),
            house.ledger.prune(NOON - timedelta(days=4)),
            house.ledger.close_customer(product_code="product", customer_aws_account_id=ACCOUNT),
            house.ledger._store.settle([], 0),
            house.ledger.status(),
            anext(house.ledger.history()),
        ]
        for attempt in changes:
            with pytest.raises(LedgerUnusableError, match="start a newer version of the package"):
                await attempt
        with pytest.raises(LedgerUnusableError, match="knows schema 2; this one knows 1"):
            async with house.another():
                pass
        await house.use(2, new)

        assert 3 == (await new.status()).recorded


async def test_an_upgrade_that_fails_changes_nothing(house: House, tmp_path: Path) -> None:
    """
    Half of a schema is none. Covers: D16
    """
    half = "ALTER TABLE {schema}hour ADD COLUMN later TEXT;\n"
    broken = half + "UPDATE {schema}nowhere SET one = 2;\n"
    with pytest.raises(Exception, match="nowhere"):
        async with upgraded(house, tmp_path, broken):
            pass

    assert [(1, 1)] == await change(house.url, "SELECT version, min_compatible FROM ledger")
    await house.use(1)


@asynccontextmanager
async def first_edition(url: str) -> AsyncIterator[None]:
    """Make the tables that the first edition went by."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as theirs, theirs:
            theirs.execute("CREATE TABLE ledger (one INTEGER PRIMARY KEY, mark TEXT NOT NULL)")
            theirs.execute("CREATE TABLE usage_key (key_id INTEGER PRIMARY KEY, recorded INTEGER)")
            theirs.execute("PRAGMA user_version = 1")
    else:
        await execute(
            url,
            "CREATE SCHEMA marketplace_metering",
            "CREATE TABLE marketplace_metering.schema_version (version bigint NOT NULL)",
            "CREATE TABLE marketplace_metering.ledger (one integer PRIMARY KEY, mark text)",
        )
    yield


@pytest.mark.parametrize("create", [True, False])
async def test_the_first_edition_is_refused(url: str, *, create: bool) -> None:
    """
    In words that say what it is, and what to do.
    """
    async with first_edition(url):
        with pytest.raises(LedgerUnusableError, match=r"first edition.*relay what is open"):
            async with UsageLedger.open(url, create=create):
                pass


async def test_a_record_keeps_what_was_frozen(house: House) -> None:
    """
    In millionths, with its member and its deadline, which an open hour has not.
    """
    frozen = "SELECT quantity, member, deadline FROM hour"
    await house.use(17)
    before = await change(house.url, frozen)
    house.clock.step(hours=1)
    await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")
    deadline = int((NOON + timedelta(days=1)).timestamp())

    assert [(17_000_000, None, None)] == before
    assert [(17_000_000, "Quantity", deadline)] == await change(house.url, frozen)


async def test_every_transaction_that_claims_is_counted(house: House) -> None:
    """
    And none that claims nothing.
    """

    async def claims() -> int:
        return (await house.ledger._store.status(0)).ledger.claims

    counts = [await claims()]
    for _ in range(2):
        await house.use(1)
        for _ in range(2):
            await house.relay_after(hours=2)
            counts.append(await claims())

    assert [0, 1, 1, 2, 2] == counts


async def test_no_sum_overflows(house: House) -> None:
    """
    However many of the largest records there are, and however much is stranded in one hour.
    """
    most = MAX_QUANTITY
    month_ago = NOON - timedelta(days=30)
    for n in range(5):
        await house.use(most, customer_aws_account_id=f"{n:012d}")
    await house.use(1, at=month_ago)
    many = 10_000
    await change(house.url, f"UPDATE kept_sum SET {_units(house, many * most)} RETURNING 1")
    await change(house.url, f"UPDATE stranded SET {_units(house, many * most)} RETURNING 1")
    await house.use(most, at=month_ago)
    await house.use(most)
    status = await house.ledger.status()
    (stranded,) = [e.quantity async for e in house.ledger.history(month=month_ago)]

    assert ((many + 2) * most, (many + 1) * most) == (status.recorded, status.open)
    assert (many + 1) * most == stranded == sum(status.ended.values())


def _units(house: House, units: int) -> str:
    if house.url.startswith("sqlite"):
        return f"units = {units}, millionths = 0"
    return f"quantity = {units} * 1000000::numeric"


async def test_figures_of_many_large_records_do_not_overflow(house: House) -> None:
    """
    What is at risk, and what is in flight, are added up by the database.
    """
    rules = PostingRules(grace=0)
    usages = [
        Usage(UsageKey("p", str(n), "", "", "d"), "", _at(NOON), MAX_QUANTITY * 10**6, None, b"")
        for n in range(5_000)
    ]
    for first in range(0, 5_000, 1_000):
        await house.ledger._store.post(usages[first : first + 1_000], _at(NOON), rules)
    house.clock.step(hours=20)
    status = await house.ledger.status()

    assert 5_000 * MAX_QUANTITY == status.at_risk == status.open == status.recorded


def _at(moment: Any) -> int:
    return int(moment.timestamp())


async def test_status_and_turns_scan_no_hours(tmp_path: Path) -> None:
    """
    Nor do re-arming and pruning: an index leads to each row that is looked at.
    """
    url = f"sqlite:///{tmp_path}/usage.db"
    said: list[str] = []
    async with house_at(url) as house:
        await house.use(3)
        store: Any = house.ledger._store
        for connection in (store._file._writer, store._file._reader):
            connection.set_trace_callback(said.append)
        house.clock.step(hours=1)
        async with house.client() as client:
            relay = house.ledger._relay(client, None)
            await relay._round()
        await house.ledger.status()
        await house.ledger.retry()
        await house.ledger.prune(house.clock.now() - timedelta(days=4))
    plans: dict[str, list[str]] = {}
    with closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        for text in said:
            if "hour" in text and not text.startswith(("BEGIN", "COMMIT")):
                steps = connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()
                plans[text] = [step[-1] for step in steps]

    assert len(plans) > 10
    scans = {text: plan for text, plan in plans.items() if any("SCAN hour" == s for s in plan)}
    assert {} == scans


async def test_a_ledger_that_has_lost_its_own_row_says_so(house: House) -> None:
    """
    As its tables are while a backup is restored: nothing is stored, and it goes on afterwards.
    """
    await house.use(1)
    await house.use(2)
    await change(house.url, "CREATE TABLE kept AS SELECT * FROM ledger")
    await change(house.url, "DELETE FROM ledger")
    usage: Any = {
        "product_code": "product",
        "customer_aws_account_id": ACCOUNT,
        "dimension": "requests",
        "quantity": 4,
        "event_id": "e",
    }
    for call in (
        house.ledger.add_usage(**usage),
        house.ledger.add_many([usage]),
        house.ledger.status(),
        house.ledger.prune(NOON - 400 * 24 * HOUR),
    ):
        with pytest.raises(LedgerUnusableError, match="restore"):
            await call
    await change(house.url, "INSERT INTO ledger SELECT * FROM kept")
    added = await house.ledger.add_usage(**usage)
    await change(house.url, "DROP TABLE kept")

    assert not added.repeated
    assert 7 == (await house.balance()).recorded
