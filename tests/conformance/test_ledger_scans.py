"""No verb of a ledger reads a table from end to end, however much is in it."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.ended import claim_rules
from support.large import GROWING, PRODUCT, Size, fill, magnify, reading
from support.ledgers import ACCOUNT, NOON, House, change, house_at

from marketplace_metering_async import HourState, RetryPolicy, UsageLedger
from marketplace_metering_async.ledger import operations
from marketplace_metering_async.ledger.stores.sqlite import SqliteStore
from marketplace_metering_async.ledger.stores.tables import TABLES

_SIZE = Size(keys=2_000, hours=20_000, ids=20_000, ended_each=5)
_FEW = 500
"""Rows of a table that one statement may read."""
_LOOKS_AT_OPEN = ("status", "metrics", "a relay's turn", "history of what is open")
"""What may read all hours that are open as well."""
_KNOWN = "000000000007"
_NUMBERS = """
    WITH RECURSIVE number (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < 2000)
"""
_OTHERS = f"""
    {_NUMBERS} INSERT INTO usage_key (key_id, name, product_code, customer_aws_account_id,
        customer_identifier, license_arn, dimension, license_product)
    SELECT n, n, 'product', n, '', '', 'requests', '' FROM number
"""
_PAST = f"""
    {_NUMBERS} INSERT INTO hour (key_id, hour, state, quantity, events, stamp, opened_at, seal_at)
    SELECT key_id, hour - 3600 * n, 'metered', 0, 0, 0, 0, 0 FROM number, hour WHERE state = 'open'
"""
_RESTING = f"""
    {_NUMBERS} INSERT INTO hour (key_id, hour, state, quantity, events, stamp, opened_at, seal_at,
        deadline, region_name, member)
    SELECT key_id, hour - 3600 * n, state, 1, 1, 0, 0, 0, deadline - n, region_name, member
    FROM number, hour JOIN usage_key USING (key_id) WHERE product_code = 'rests'
"""
_UNCARRIED = f"""
    {_NUMBERS} INSERT INTO stranded (key_id, origin, state, units, millionths, events, since)
    SELECT key_id, n + (SELECT COUNT(*) FROM stranded), 'written_off', 0, 0, 1, 0
    FROM number, usage_key
"""
_NOTED = f"""
    INSERT INTO resolution (stranded_id, at, before, after, note)
    SELECT stranded_id, {int(NOON.timestamp())}, 'month_over', 'written_off', 'late' FROM stranded
"""

Verb = Callable[[House], Awaitable[Any]]


async def _list(house: House, **which: Any) -> None:
    for newest_first in (False, True):
        count = 0
        async for _ in house.ledger.history(newest_first=newest_first, **which):
            count += 1
            if count > 250:
                break


async def _relay_what_is_due(house: House) -> None:
    house.clock.step(hours=1)
    await house.relay(retry=RetryPolicy())  # gives up nothing on a busy machine


async def _dump(house: House) -> None:
    for table, shape in TABLES.items():
        if table == "arrival":  # soon in its hour, and on PostgreSQL only
            continue
        for key in await change(house.url, f"SELECT {', '.join(shape.key)} FROM {table} LIMIT 1"):
            await house.ledger._store.dump(table, key, 3)


async def _end_one(house: House, state: HourState) -> list[str]:
    names = [
        entry.name
        async for entry in house.ledger.history(month=NOON, customer_aws_account_id=ACCOUNT)
        if entry.state in (HourState.METERED, state)
    ]
    number = names[-1].partition("-")[2]
    await change(house.url, f"UPDATE hour SET state = '{state}' WHERE hour_id = {number}")
    return names[-1:]


async def _retry(house: House) -> None:
    await _end_one(house, HourState.REJECTED)
    assert 1 == await house.ledger.retry()
    await house.ledger.retry(HourState.MONTH_OVER, HourState.FROZEN)


async def _resolve(house: House) -> None:
    await house.relay(retry=RetryPolicy())
    names = await _end_one(house, HourState.UNCONFIRMED)
    await house.ledger.resolve(names, as_="not_metered", note="it is not there")
    await house.ledger.reopen(names, note="bill it")


async def _close(house: House) -> None:
    who: dict[str, Any] = {"product_code": PRODUCT, "customer_aws_account_id": _KNOWN}
    await house.ledger.close_customer(**who)
    await house.ledger.reopen_customer(**who)


VERBS: dict[str, Verb] = {
    "usage": lambda house: house.use(1, event_id="new"),
    "usage of a key that is there": lambda house: house.use(1, customer_aws_account_id=_KNOWN),
    "late usage": lambda house: house.use(1, at=NOON - timedelta(hours=30)),
    "usage that no hour carries": lambda house: house.use(1, at=NOON - timedelta(days=25)),
    "a relay's turn with nothing due": lambda house: house.relay(),
    "a relay's turn": _relay_what_is_due,
    "when the next one is due": lambda house: house.ledger._store.next_due(),
    "status": lambda house: house.ledger.status(),
    "metrics": lambda house: house.ledger.metrics(),
    "history": _list,
    "history of a month": lambda house: _list(house, month=NOON),
    "history of an account": lambda house: _list(house, customer_aws_account_id=_KNOWN),
    "history of a license": lambda house: _list(house, license_arn="none"),
    "history of an identifier": lambda house: _list(house, customer_identifier="none"),
    "history of a product": lambda house: _list(house, product_code=PRODUCT),
    "history of an account's month and state": lambda house: _list(
        house, customer_aws_account_id=_KNOWN, month=NOON, states=[HourState.WRITTEN_OFF]
    ),
    "history of what has ended": lambda house: _list(
        house, states=[HourState.WRITTEN_OFF, HourState.REJECTED]
    ),
    "history of what is open": lambda house: _list(house, states=[HourState.OPEN]),
    "history of what is metered": lambda house: _list(house, states=[HourState.METERED]),
    "known events": lambda house: house.ledger._store.known_events(["new", "other"]),
    "retry": _retry,
    "resolve and reopen": _resolve,
    "close and reopen a customer": _close,
    "moving": _dump,
    "prune of hours": lambda house: house.ledger._store.prune(int(NOON.timestamp()) - 180_000, 100),
    "prune of usage that no hour carries": lambda house: house.ledger._store.prune_stranded(
        [1, 2, 3], int(NOON.timestamp()) - 180_000
    ),
    "prune of event ids": lambda house: house.ledger._store.prune_events(
        int(NOON.timestamp()) - 180_000, int(NOON.timestamp()), 100
    ),
    "tidy": lambda house: house.ledger._store.tidy(),
}
"""In an order in which each finds something to do."""
_BY = {
    "a relay's turn": "hour_to_send",
    "when the next one is due": "hour_to_wait_for",
    "retry": "stranded_by_state",
}
"""Indexes of what is seldom much, so that reading it all is no scan of many rows."""


@pytest.fixture
async def large(place: str) -> AsyncIterator[House]:
    """A ledger in PostgreSQL in which a scan is seen."""
    async with house_at(place) as house:
        await fill(place, _SIZE, NOON)
        await magnify(place, 500)
        yield house


async def test_nothing_scans_in_postgresql(large: House) -> None:
    """
    By the plans that the server has for each statement, and by the rows that it reads for it.
    """
    await large.balance()
    scans: dict[str, list[str]] = {}
    many: dict[str, dict[str, int]] = {}
    used: dict[str, set[str]] = {}
    for name, verb in VERBS.items():
        with reading() as read:
            await verb(large)
        scans[name] = read.scans
        used[name] = read.indexes
        few = _FEW + (_SIZE.keys if name in _LOOKS_AT_OPEN else 0)
        many[name] = {table: rows for table, rows in read.rows.items() if rows > few}

    assert {} == {name: some for name, some in scans.items() if some}
    assert {} == {name: some for name, some in many.items() if some}
    assert {} == {name: index for name, index in _BY.items() if index not in used[name]}


async def test_nothing_scans_in_sqlite(tmp_path: Path) -> None:
    """
    Which plans without statistics: a small ledger shows it.
    """
    path = f"{tmp_path}/usage.db"
    run: list[str] = []

    def connect(place: str) -> sqlite3.Connection:
        connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        connection.set_trace_callback(run.append)
        return connection

    house = House(f"sqlite:///{path}")
    house.ledger = UsageLedger(
        SqliteStore(path, connect=connect), clock=house.clock, observer=house.warned.append
    )
    async with house.ledger:
        for name, verb in VERBS.items():
            run.clear()
            await verb(house)
            scans = {statement: _scans(path, statement) for statement in run}

            assert {} == {s: tables for s, tables in scans.items() if tables}, name


class Steps:
    """Counts what SQLite's machine does for a ledger in the connections that are asked for."""

    def __init__(self, folder: Path, *, of_the_writer: bool) -> None:
        self.count = 0
        self._all = not of_the_writer
        self._path = f"{folder}/usage.db"
        self.house = House(f"sqlite:///{self._path}")
        self.house.ledger = UsageLedger(
            SqliteStore(self._path, connect=self._connect),
            clock=self.house.clock,
            observer=self.house.warned.append,
        )

    def _connect(self, place: str) -> sqlite3.Connection:
        connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        if self._all or self._path:  # the first one writes
            connection.set_progress_handler(self._note, 1)
        self._path = ""
        return connection

    def _note(self) -> None:
        self.count += 1


async def test_an_end_costs_no_more_beside_other_customers_and_a_past(tmp_path: Path) -> None:
    """
    By the steps of SQLite's machine: an index of licenses leads to all customers who have none.
    """
    steps = Steps(tmp_path, of_the_writer=False)
    house = steps.house
    who: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": _KNOWN}
    taken = []
    async with house.ledger:
        await house.use(1, customer_aws_account_id=_KNOWN)
        for before in ("SELECT 1", _OTHERS, _PAST):
            await change(house.url, before)
            steps.count = 0
            await house.ledger.close_customer(**who)
            await house.ledger.reopen_customer(**who)
            taken.append(steps.count)

    assert max(taken) < 1.5 * min(taken)


async def test_usage_that_was_decided_of_late_is_passed_once_by_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Not by each of its transactions, and while others write. By the steps of SQLite's machine.
    """
    monkeypatch.setattr(operations, "CHANGED_AT_ONCE", 10)
    steps = Steps(tmp_path, of_the_writer=True)
    house = steps.house
    taken = []
    async with house.ledger:
        await house.use(0)
        for before in ((_UNCARRIED,), (_UNCARRIED, _NOTED, _UNCARRIED)):
            for statement in before:
                await change(house.url, statement)
            steps.count = 0
            assert 2000 == await house.ledger.prune(NOON - timedelta(days=40))
            taken.append(steps.count)

    assert max(taken) < 1.2 * min(taken)


async def test_a_claim_passes_a_lane_that_rests_while_others_write(tmp_path: Path) -> None:
    """
    By the steps of SQLite's machine in the connection that keeps others from writing.
    """
    steps = Steps(tmp_path, of_the_writer=True)
    house = steps.house
    taken = []
    async with house.ledger:
        await house.use(1, product_code="rests")
        await house.use(1, product_code="goes")
        house.clock.step(hours=1)
        now = int(house.clock.now().timestamp())
        store = house.ledger._store
        await store.bind("us-east-1", "127.0.0.1")
        await store.seal_due(now, 10, "us-east-1")
        for before in ("SELECT 1", _RESTING):
            await change(house.url, before)
            steps.count = 0
            claimed = await store.claim(now, evolve(claim_rules(now), without=["rests"]))
            taken.append(steps.count)
            assert ["goes"] == [one.key.product_code for one in claimed]
            await store.return_claims(claimed, 0)

    assert max(taken) < 1.2 * min(taken)


def _scans(path: str, statement: str) -> list[str]:
    """Return what of the plan for a statement reads a whole table that grows."""
    if not statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
        return []
    with closing(sqlite3.connect(path)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    partial = "hour_unsettled|hour_to_seal|hour_to_send|hour_to_wait_for|hour_claimed|hour_ended"
    return [
        step
        for step in plan
        if re.match(rf"(SCAN|SEARCH) ({'|'.join(GROWING)})\b", step)
        and ("AUTOMATIC" in step or step.startswith("SCAN"))  # it makes an index of a whole table
        and not re.search(rf"INDEX ({partial})", step)
    ]
