"""
What does it cost to meter records one by one? `python benchmarks/batcher.py [rounds]`

20,000 records from 1,000 callers through `UsageBatcher.meter`, against the same records handed to
`batch_meter_usage` at once, each against a service in memory that answers at once: CPU a record and
records a second. Then the time that a lone record takes, with the usual linger of 50 ms; and the
batcher beside a gather of aiobotocore calls with one record each, against the fast server.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.ledgers import SetClock
from support.memory import MemoryService, client_of, usage
from support.virtual import START

from marketplace_metering_async import MarketplaceMeteringClient, UsageBatcher

RECORDS = 20_000
CALLERS = 1_000
LONE = 30


def unheard(event: object) -> None:
    """Observe nothing."""
    del event


def client() -> MarketplaceMeteringClient:
    clock = SetClock(START)
    service = MemoryService(clock=clock)
    service.round_trip = 0.0
    return client_of(service, clock=clock, observer=unheard)


async def at_once() -> tuple[float, float]:
    """Return CPU and wall seconds of batch_meter_usage with all records."""
    records = usage(RECORDS)
    async with client() as opened:
        await opened.endpoint()
        cpu, wall = time.process_time(), time.perf_counter()
        result = await opened.batch_meter_usage(records)
        assert len(result.succeeded) == RECORDS
        return time.process_time() - cpu, time.perf_counter() - wall


async def one_by_one() -> tuple[float, float]:
    """Return CPU and wall seconds of as many calls of meter() from many callers."""
    records = usage(RECORDS)
    async with client() as opened, UsageBatcher(opened) as batcher:
        await opened.endpoint()

        async def caller(first: int) -> None:
            for number in range(first, RECORDS, CALLERS):
                result = await batcher.meter(records[number])
                assert result.metered

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller(first) for first in range(CALLERS)))
        return time.process_time() - cpu, time.perf_counter() - wall


async def alone() -> float:
    """Return the median seconds of a lone record."""
    records = usage(LONE)
    async with client() as opened, UsageBatcher(opened) as batcher:
        await opened.endpoint()
        took = []
        for record in records:
            begun = time.perf_counter()
            await batcher.meter(record)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)


def main() -> None:
    with results("batcher") as found:
        rows: list[dict[str, Any]] = []
        for _ in range(rounds_asked()):
            cpu, wall = asyncio.run(one_by_one())
            base, _ = asyncio.run(at_once())
            rows.append(
                {
                    "cpu_us_a_record": round(cpu / RECORDS * 1e6, 1),
                    "records_a_second": round(RECORDS / wall),
                    "cpu_to_batch_meter_usage": round(cpu / base, 2),
                }
            )
            print(rows[-1], flush=True)
        found["rows"] = rows
        found["lone_record_seconds"] = round(asyncio.run(alone()), 4)
        with Server() as server:
            beside = in_turn(
                server,
                ("batcher", "aiobotocore-single"),
                "throughput",
                rounds=rounds_asked(),
                records=2_000,
            )
        found["beside_single_calls"] = beside
        found["records a second, batcher / single calls"] = ratio(
            beside, "records_per_second", "batcher", "aiobotocore-single"
        )
        more = spread(found["records a second, batcher / single calls"])
        print(f"records a second, batcher / a call each: {more}")
        print(f"a lone record: {found['lone_record_seconds']} s, of which 0.05 s linger")


if __name__ == "__main__":
    main()
