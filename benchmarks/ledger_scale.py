"""
Does a large ledger stay quick? `python benchmarks/ledger_scale.py [hours [ids]]`

A PostgreSQL of its own gets 10,000,000 hours and 20,000,000 event ids (or so many as are asked for,
e.g. 500000 1000000), straight into the tables: 1,000 hours of each key, the last one open. Told are
the milliseconds of what a relay, an operator or a page asks for, and the rows of the busiest table
that it reads; then a day's hours and ids are pruned, while callers add usage.

At full size it takes 10 GB of disk and half an hour, most of it to make the ledger.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from lab.harness import Row, results
from ledger import NOON, unheard
from ledger_memory import Yes
from support.large import PRODUCT, Size, fill, reading
from support.ledgers import SetClock, change, execute, new_postgres_database, postgres_server

from marketplace_metering_async import HourState, MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.ledger.operations import CHANGED_AT_ONCE
from marketplace_metering_async.ledger.stores import Store, store_at
from marketplace_metering_async.ledger.stores.tables import TABLES

HOURS_OF_A_KEY = 1_000
TIMES = 20
ADDERS = 50
PAUSE = 0.05
WHILE_MADE = ("fsync = off", "max_wal_size = '8GB'", "maintenance_work_mem = '512MB'")
RELOAD = "SELECT pg_reload_conf()"
ACCOUNT = "000000000007"
MIDDLE = NOON - timedelta(hours=HOURS_OF_A_KEY // 2)


async def first_page(ledger: UsageLedger, **which: Any) -> None:
    count = 0
    async for _ in ledger.history(**which):
        count += 1
        if count == 200:
            return


async def dump(store: Store, keys: dict[str, tuple[Any, ...]]) -> None:
    for table, key in keys.items():
        await store.dump(table, key, 200)


async def some_keys(url: str) -> dict[str, tuple[Any, ...]]:
    """Return a key from the midst of each table."""
    found = {}
    for table, shape in TABLES.items():
        sample = f"{', '.join(shape.key)} FROM {table} TABLESAMPLE SYSTEM (1)"
        for row in await change(url, f"SELECT {sample} LIMIT 1"):
            found[table] = row
    return found


def verbs(
    ledger: UsageLedger,
    store: Store,
    client: MarketplaceMeteringClient,
    keys: dict[str, tuple[Any, ...]],
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what is measured."""
    ended = [HourState.WRITTEN_OFF]
    return {
        "a relay's turn with nothing due": lambda: ledger.relay_once(client),
        "when something is due": store.next_due,
        "status": ledger.status,
        "metrics": ledger.metrics,
        "page: the first": lambda: first_page(ledger),
        "page: the latest": lambda: first_page(ledger, newest_first=True),
        "page: a month": lambda: first_page(ledger, month=MIDDLE),
        "page: the end of a month": lambda: first_page(ledger, month=MIDDLE, newest_first=True),
        "page: an account": lambda: first_page(ledger, customer_aws_account_id=ACCOUNT),
        "page: the latest of an account": lambda: first_page(
            ledger, customer_aws_account_id=ACCOUNT, newest_first=True
        ),
        "page: a product": lambda: first_page(ledger, product_code=PRODUCT, newest_first=True),
        "page: what has ended": lambda: first_page(ledger, states=ended, newest_first=True),
        "page: what has ended of an account": lambda: first_page(
            ledger, states=ended, customer_aws_account_id=ACCOUNT
        ),
        "page: what is open": lambda: first_page(ledger, states=[HourState.OPEN]),
        "retry": ledger.retry,
        "tidy": store.tidy,
        "moving: 200 rows of each table": lambda: dump(store, keys),
    }


async def measured(verb: Callable[[], Awaitable[Any]]) -> Row:
    took = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        await verb()
        took.append(1e3 * (time.perf_counter() - begun))
    with reading() as read:
        await verb()
    table, rows = max(read.rows.items(), key=lambda one: one[1], default=("", 0))
    return {
        "ms": round(statistics.median(took), 1),
        "ms_the_first_time": round(took[0], 1),
        "rows_read": rows,
        "of": table,
        "scans": [one.partition(":")[0] for one in read.scans],
    }


async def adders(ledger: UsageLedger, meanwhile: Awaitable[Any]) -> Row:
    """Return how long callers wait who add usage while something else is done."""
    task = asyncio.ensure_future(meanwhile)
    took: list[float] = []

    async def adder(number: int) -> None:
        while not task.done():
            begun = time.perf_counter()
            await ledger.add_usage(
                dimension="dimension-1",
                quantity=1,
                customer_aws_account_id=f"{number:012d}",
                product_code=PRODUCT,
                event_id=str(uuid4()),
            )
            took.append(1e3 * (time.perf_counter() - begun))
            await asyncio.sleep(PAUSE)

    begun = time.perf_counter()
    await asyncio.gather(*(adder(number) for number in range(ADDERS)))
    seconds, done = time.perf_counter() - begun, await task
    return {
        "result": done,
        "seconds": round(seconds, 1),
        "adds_a_second": round(len(took) / seconds),
        "median_ms": round(statistics.median(took), 1),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 1),
        "longest_ms": round(max(took), 1),
    }


async def prune_ids(store: Store, before: datetime) -> int:
    count, now = 0, int(NOON.timestamp())
    while some := await store.prune_events(int(before.timestamp()), now, CHANGED_AT_ONCE):
        count += some
    return count


async def measure(server: str, size: Size, found: Row) -> None:
    url = await new_postgres_database(server)
    settings: dict[str, Any] = {"clock": SetClock(NOON), "observer": unheard}
    async with UsageLedger.open(url, **settings):
        pass
    await execute(server, *(f"ALTER SYSTEM SET {one}" for one in WHILE_MADE), RELOAD)
    begun = time.perf_counter()
    await fill(url, size, NOON)
    await execute(server, "ALTER SYSTEM RESET ALL", RELOAD, "CHECKPOINT")
    found["seconds_to_make_it"] = round(time.perf_counter() - begun)
    found["megabytes"] = {
        table: int(total) // 2**20
        for table, total in await change(
            url,
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = 'marketplace_metering'::regnamespace ORDER BY 2 DESC",
        )
        if total >= 2**20
    }
    print(found, flush=True)
    keys = await some_keys(url)
    store = store_at(url)
    async with (
        UsageLedger(store, **settings) as ledger,
        MarketplaceMeteringClient(
            region_name="us-east-1",
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",  # noqa: S106 - a dummy
            transport=Yes(),
            clock=settings["clock"],
            calls_per_second=None,
            observer=unheard,
        ) as client,
    ):
        found["verbs"] = {}
        for name, verb in verbs(ledger, store, client, keys).items():
            found["verbs"][name] = row = await measured(verb)
            print(f"{name:40}", row, flush=True)
        oldest = NOON - timedelta(days=2, hours=size.hours // size.keys)
        found["adders"] = {}
        for name, work in {
            "alone": asyncio.sleep(10),
            "while a day's ids are pruned": prune_ids(store, oldest + timedelta(days=3)),
            "while a day's hours are pruned": ledger.prune(oldest + timedelta(days=2)),
        }.items():
            found["adders"][name] = row = await adders(ledger, work)
            print(f"{name:40}", row, flush=True)


def main() -> None:
    hours, ids = (int(one) for one in (*sys.argv[1:], 10_000_000, 20_000_000)[:2])
    if len(sys.argv) == 2:
        ids = 2 * hours
    size = Size(keys=hours // HOURS_OF_A_KEY, hours=hours, ids=ids, ended_each=1_000)
    with results("ledger-scale") as found, postgres_server() as server:
        found |= {"hours": size.hours, "ids": size.ids, "keys": size.keys}
        asyncio.run(measure(server.url, size, found))


if __name__ == "__main__":
    main()
