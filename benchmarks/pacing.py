"""
How well does the client live with a quota? `python benchmarks/pacing.py`

A sandbox with a token bucket on real time, 10,000 records (400 calls), 32 requests at once. Told
are the time against the ideal, in which the quota, as it really changed, lets so many calls
through; throttled answers for each delivered call; and records never delivered. Results go to
benchmarks/results/ as JSON, by date and commit.
"""

import asyncio
import contextlib
import json
import logging
import platform
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from marketplace_metering_async import (
    InvalidTokenException,
    MarketplaceMeteringClient,
    RecordStatus,
    UsageRecord,
)
from marketplace_metering_async.sandbox import Sandbox

BURST = 10.0
RECORDS = 10_000
Rates = list[tuple[float, float]]
CASES: list[tuple[str, float | None, Rates, int]] = [
    # name, what the client is told, from which second on the service allows which rate, clients
    ("known 10/s", 10.0, [(0, 10)], 1),
    ("unknown 10/s", None, [(0, 10)], 1),
    ("unknown 50/s", None, [(0, 50)], 1),
    ("unknown 200/s", None, [(0, 200)], 1),
    ("unknown 50 to 10 to 50/s", None, [(0, 50), (3, 10), (9, 50)], 1),
    ("two clients, known 10/s", 10.0, [(0, 10)], 2),
    ("two clients, unknown 10/s", None, [(0, 10)], 2),
    ("two clients, unknown 50/s", None, [(0, 50)], 2),
]


def records() -> list[UsageRecord]:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    return [
        UsageRecord(
            timestamp=hour, dimension="requests", quantity=1, customer_aws_account_id=f"{n:012d}"
        )
        for n in range(RECORDS)
    ]


def ideal(rates: Rates, calls: int) -> float:
    """Return the seconds in which the bucket lets so many calls through."""
    left, ends = calls - BURST, [start for start, _ in rates[1:]] + [float("inf")]
    for (start, rate), end in zip(rates, ends, strict=True):
        if left <= (end - start) * rate:
            return start + left / rate
        left -= (end - start) * rate
    raise AssertionError("the last rate holds for ever")


async def follow(sandbox: Sandbox, rates: Rates, was: Rates) -> None:
    """Change the quota when its time has come; write down when that really was."""
    begun = time.monotonic()
    was.append((0, rates[0][1]))
    for start, rate in rates[1:]:
        await asyncio.sleep(begun + start - time.monotonic())
        sandbox.calls_per_second = rate
        was.append((time.monotonic() - begun, rate))


async def run(name: str, told: float | None, rates: Rates, clients: int) -> dict[str, Any]:
    given = records()
    share = len(given) // clients
    was: Rates = []
    async with (
        Sandbox(calls_per_second=rates[0][1], burst=BURST) as sandbox,
        contextlib.AsyncExitStack() as stack,
    ):
        opened = []
        for _ in range(clients):
            client = MarketplaceMeteringClient(**sandbox.client_arguments, calls_per_second=told)
            opened.append(await stack.enter_async_context(client))
            with contextlib.suppress(InvalidTokenException):
                await client.resolve_customer("opens the client before the clock starts")
        changing = asyncio.create_task(follow(sandbox, rates, was))
        begun = time.monotonic()
        results = await asyncio.gather(
            *(
                client.batch_meter_usage(given[n * share : (n + 1) * share], product_code="p")
                for n, client in enumerate(opened)
            )
        )
        took = time.monotonic() - begun
        changing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await changing
    calls = RECORDS // 25
    delivered = sum(result.counts.get(RecordStatus.SUCCESS, 0) for result in results)
    return {
        "case": name,
        "seconds": round(took, 2),
        "time_to_ideal": round(took / ideal(was, calls), 3),
        "throttled_per_call": round(sum(result.throttled for result in results) / calls, 3),
        "never_delivered": RECORDS - delivered,
    }


async def measure() -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        rows.append(await run(*case))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    rows = asyncio.run(measure())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    out = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{commit}-pacing.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
