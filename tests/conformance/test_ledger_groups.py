"""Calls that share a commit, and processes and loops that share a ledger."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from support.ledgers import (
    ACCOUNT,
    HOUR,
    NOON,
    House,
    a_caller,
    hours_read,
    house_at,
    refuse_thirteen,
    until_somebody_waits,
)

from marketplace_metering_async import AddedUsage, LedgerClosedError, UsageRefusedError, UsageToAdd
from marketplace_metering_async.ledger.stores import postgresql
from marketplace_metering_async.ledger.stores.postgresql_connections import PostgresConnections

OTHER = "000000000002"


async def test_usage_that_is_refused_fails_alone(house: House) -> None:
    """
    All that would have shared its commit is stored. ledger M3
    """
    await refuse_thirteen(house.url)
    quantities = [1] * 30 + [13] + [1] * 19
    results = await asyncio.gather(
        *(house.use(q, customer_aws_account_id=f"{n:012d}") for n, q in enumerate(quantities)),
        return_exceptions=True,
    )

    refused = [n for n, one in enumerate(results) if isinstance(one, BaseException)]
    assert [30] == refused
    assert isinstance(results[30], UsageRefusedError)
    assert "hour_quantity_check" in str(results[30])
    assert 49 == (await house.balance()).recorded


async def test_a_key_as_large_as_can_be_holds_up_itself_alone(house: House) -> None:
    """
    Be it stored or not: PostgreSQL's indexes do not hold every text. ledger M3
    """
    smile = "\N{GRINNING FACE}" * 255
    huge: dict[str, Any] = {
        "dimension": smile,
        "customer_identifier": smile,
        "customer_aws_account_id": None,
    }
    others = [house.use(1, customer_aws_account_id=f"{n:012d}") for n in range(20)]
    *_, added = await asyncio.gather(*others, house.use(2, **huge), return_exceptions=True)

    assert isinstance(added, AddedUsage | UsageRefusedError)
    assert 20 + 2 * isinstance(added, AddedUsage) == (await house.balance()).recorded


async def test_more_for_one_hour_than_an_integer_holds_fails_nobody(house: House) -> None:
    """
    Each piece goes to an hour of its own, or to none where the month has none left; and whoever
    shares the commit is stored with them.
    """
    pieces, most = 1_000, 9_999_999_999
    await asyncio.gather(house.use(1), house.use(1, customer_aws_account_id=OTHER))
    usages = [
        UsageToAdd(
            dimension="requests",
            product_code="product",
            quantity=most,
            customer_aws_account_id=ACCOUNT,
        )
    ]
    _, added = await asyncio.gather(
        house.ledger.add_many(usages * pieces), house.use(2, customer_aws_account_id=OTHER)
    )

    assert isinstance(added, AddedUsage)
    assert 4 + pieces * most == (await house.balance()).recorded


async def test_a_late_event_reads_the_past_of_its_own_key(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Not that of all that shares its commit. ledger H4
    """
    keys = [f"{n:012d}" for n in range(10)]
    hours = range(1, 20)
    for ago in hours:
        at = NOON - ago * HOUR
        await asyncio.gather(*(house.use(1, customer_aws_account_id=key, at=at) for key in keys))
    read = hours_read(monkeypatch)
    late = house.use(1, customer_aws_account_id=keys[5], at=NOON - len(hours) * HOUR)
    await asyncio.gather(late, *(house.use(1, customer_aws_account_id=key) for key in keys))

    assert len(read) <= len(hours)


async def test_who_want_what_others_have_added_to_take_their_turns(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As in the first second of an hour: each of two processes remembers an hour that it has made, and
    the other one does not. Once they have it all in one order, neither has to be tried again.
    """
    monkeypatch.setattr(postgresql, "_PATIENCE", (30.0, 60.0))
    begin, tries = PostgresConnections._begin, list[Any]()

    async def counted(self: Any, *values: Any) -> Any:
        tries.append(values)
        return await begin(self, *values)

    async with house_at(place) as house, house.another() as other:
        accounts = ["000000000001", "000000000002"]
        await house.use(1, customer_aws_account_id=accounts[0])
        await house.use(1, other, customer_aws_account_id=accounts[1])
        monkeypatch.setattr(PostgresConnections, "_begin", counted)
        usages = [
            UsageToAdd(
                dimension="requests",
                product_code="product",
                quantity=1,
                customer_aws_account_id=account,
            )
            for account in accounts
        ]
        async with a_caller(place) as third:
            await third.execute("SELECT 1 FROM marketplace_metering.usage_key FOR UPDATE")
            adding = [asyncio.create_task(one.add_many(usages)) for one in (house.ledger, other)]
            await until_somebody_waits(place, sessions=2)
            before = len(tries)
        await asyncio.gather(*adding)

        assert before == len(tries)
        assert 6 == (await house.balance()).recorded


async def test_a_ledger_belongs_to_one_loop(house: House) -> None:
    """
    In another thread it is an error, and closing it there closes nothing. ledger M13
    """
    await house.use(1)
    seen: list[Any] = []

    async def elsewhere() -> None:
        for call in (lambda: house.use(2), house.ledger.status):
            with pytest.raises(LedgerClosedError, match="another process or event loop") as error:
                await call()
            seen.append(error.value)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(thread.join)
    await house.use(4)

    assert 2 == len(seen)
    assert 5 == (await house.balance()).recorded


async def test_a_forked_process_opens_its_own(house: House) -> None:
    """
    The parent goes on, whatever the child does. ledger M13
    """
    await house.use(1)
    child = os.fork()
    if not child:
        signal.alarm(60)  # a fork of a process with threads may wait for one that it does not have
        os._exit(in_child(house))
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    async with asyncio.timeout(30):
        await house.use(4)

    assert 0 == status
    assert 5 == (await house.balance()).recorded


def in_child(house: House) -> int:
    async def tried() -> int:
        try:
            await house.use(2)
        except LedgerClosedError:
            await house.ledger.aclose()
            return 0
        return 1

    asyncio.set_event_loop(None)
    asyncio.events._set_running_loop(None)
    return asyncio.run(tried())


_SAME_LOOP = """
import asyncio, os, signal, sys
from marketplace_metering_async import LedgerClosedError, UsageLedger

signal.alarm(60)
loop = asyncio.new_event_loop()
ledger = UsageLedger.open(sys.argv[1])
loop.run_until_complete(ledger.__aenter__())
usage = {"dimension": "requests", "product_code": "product", "customer_aws_account_id": "1" * 12}
calls = [lambda: ledger.add_usage(quantity=1, **usage), ledger.status, ledger.aclose]
child = os.fork()
if not child:
    for call in calls:
        try:
            loop.run_until_complete(call())
            print(call.__name__, "was done", flush=True)
        except LedgerClosedError as error:
            print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
for call in calls:
    print(loop.run_until_complete(call()))
"""


async def test_a_forked_process_may_not_go_on_with_the_same_loop(house: House) -> None:
    """
    Which is not running while it is forked, and so belongs to both.
    """
    run = (sys.executable, "-c", _SAME_LOOP, house.url)
    ended = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True, check=True)
    *child, added, status, closed = ended.stdout.splitlines()

    assert 2 == sum("belongs to another process" in line for line in child), child
    assert "aclose was done" in child
    assert (True, True, "None") == ("late=False" in added, "open=1" in status, closed)


_USED_BEFORE = """
import asyncio, os, sys
from marketplace_metering_async import UsageLedger

ledger = UsageLedger.open(sys.argv[1])
usage = {"dimension": "requests", "product_code": "product", "customer_aws_account_id": "1" * 12}


async def used():
    async with ledger:
        for _ in range(2):
            await ledger.add_usage(quantity=1, **usage)
        print((await ledger.status()).is_unconfirmed_copy, flush=True)


asyncio.run(used())
for _ in range(2):
    child = os.fork()
    if not child:
        asyncio.run(used())
        os._exit(0)
    os.waitpid(child, 0)
asyncio.run(used())
"""


async def test_a_ledger_that_was_used_before_a_fork_is_no_copy(house: House) -> None:
    """
    What a process remembers having stored is its own note, which its children do not look for:
    each would find that another one had replaced it.
    """
    run = (sys.executable, "-W", "ignore", "-c", _USED_BEFORE, house.url)
    ended = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True)

    assert ["False"] * 4 == ended.stdout.split(), ended.stdout + ended.stderr
    assert 8 == (await house.balance()).recorded


_LEFT_BEHIND = """
import asyncio, sys
from marketplace_metering_async import UsageLedger

ledger = UsageLedger.open(sys.argv[1])
usage = {"dimension": "requests", "product_code": "product", "customer_aws_account_id": "1" * 12}


async def job(event_id, seconds):
    await ledger.__aenter__()
    return await asyncio.wait_for(
        ledger.add_usage(quantity=1, event_id=event_id, **usage), timeout=seconds
    )


for event_id, seconds in (("first", 1e-6), ("first", 10.0)):
    loop = asyncio.new_event_loop()
    try:
        print(loop.run_until_complete(job(event_id, seconds)))
    except TimeoutError:
        print("given up", flush=True)
    loop.close()
"""


async def test_what_a_closed_loop_was_storing_holds_up_nobody(house: House) -> None:
    """
    A worker may run a loop for each job, and close it over a commit that nobody waits for.
    """
    run = (sys.executable, "-W", "ignore", "-c", _LEFT_BEHIND, house.url)
    ended = await asyncio.to_thread(subprocess.run, run, capture_output=True, text=True)
    given_up, added = ended.stdout.splitlines() or ("", ended.stderr)

    assert ("given up", True) == (given_up, "late=False" in added)
    assert 1 == (await house.balance()).recorded
