"""
How well does the client live with a quota? `python benchmarks/pacing.py`

A sandbox with a token bucket on real time, 10,000 records (400 calls), 32 requests at once. Printed
are the time against the ideal, in which the quota, as it really changed, lets N calls through, less
what another sender asks for; throttled responses for each delivered call; and records never
delivered. Results go to benchmarks/results/ as JSON, by date and commit.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import platform
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from attrs import frozen
from botocore.exceptions import ClientError

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


@frozen
class Case:
    """
    What is measured.

    Attributes:
        configured: The quota that the clients are configured with; None: they have to find it.
        rates: From which second on the service allows which rate.
        clients: Of ours, which know nothing of each other.
        other: Calls a second of a sender that goes on at its pace, whatever it is answered.
    """

    name: str
    configured: float | None
    rates: Rates
    clients: int = 1
    other: float = 0.0


CASES = (
    Case("known 10/s", 10.0, [(0, 10)]),
    Case("unknown 10/s", None, [(0, 10)]),
    Case("unknown 50/s", None, [(0, 50)]),
    Case("unknown 200/s", None, [(0, 200)]),
    Case("unknown 50 to 10 to 50/s", None, [(0, 50), (3, 10), (9, 50)]),
    Case("known 10/s, another sends 3/s", 10.0, [(0, 10)], other=3),
    Case("unknown 10/s, another sends 3/s", None, [(0, 10)], other=3),
    Case("unknown 50/s, another sends 20/s", None, [(0, 50)], other=20),
    Case("configured 100/s, is 10/s", 100.0, [(0, 10)]),
    Case("configured 1000/s, is 10/s", 1000.0, [(0, 10)]),
    Case("two clients, known 10/s", 10.0, [(0, 10)], clients=2),
    Case("five clients, known 10/s", 10.0, [(0, 10)], clients=5),
    Case("two clients, unknown 10/s", None, [(0, 10)], clients=2),
    Case("two clients, unknown 50/s", None, [(0, 50)], clients=2),
)


def records(count: int) -> list[UsageRecord]:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    return [
        UsageRecord(
            timestamp=hour, dimension="requests", quantity=1, customer_aws_account_id=f"{n:012d}"
        )
        for n in range(count)
    ]


def ideal(rates: Rates, calls: int) -> float:
    """Return the seconds in which the bucket lets so many calls through."""
    left, ends = calls - BURST, [start for start, _ in rates[1:]] + [float("inf")]
    for (start, rate), end in zip(rates, ends, strict=True):
        if left <= (end - start) * rate:
            return start + left / rate
        left -= (end - start) * rate
    raise AssertionError("the last rate holds on")


async def follow(sandbox: Sandbox, rates: Rates, was: Rates) -> None:
    """Change the quota when its time has come; write down when that really was."""
    begun = time.monotonic()
    was.append((0, rates[0][1]))
    for start, rate in rates[1:]:
        await asyncio.sleep(begun + start - time.monotonic())
        sandbox.calls_per_second = rate
        was.append((time.monotonic() - begun, rate))


async def another(sandbox: Sandbox, rate: float) -> None:
    """Send a call of one record at a steady *rate*, as a program that reads no answers does."""
    config = AioConfig(retries={"total_max_attempts": 1})
    record = records(1)[0].to_boto() | {"Dimension": "of-another"}
    opening: Any = get_session().create_client(
        "meteringmarketplace", config=config, **sandbox.client_arguments
    )
    async with opening as client, asyncio.TaskGroup() as group:

        async def call() -> None:
            with contextlib.suppress(ClientError):
                await client.batch_meter_usage(ProductCode="p", UsageRecords=[record])

        begun = time.monotonic()
        for n in itertools.count():
            await asyncio.sleep(begun + n / rate - time.monotonic())
            group.create_task(call())


async def run(case: Case) -> dict[str, Any]:
    given = records(RECORDS)
    share = len(given) // case.clients
    was: Rates = []
    async with (
        Sandbox(calls_per_second=case.rates[0][1], burst=BURST) as sandbox,
        contextlib.AsyncExitStack() as stack,
    ):
        opened = []
        for _ in range(case.clients):
            client = MarketplaceMeteringClient(
                **sandbox.client_arguments, calls_per_second=case.configured
            )
            opened.append(await stack.enter_async_context(client))
            with contextlib.suppress(InvalidTokenException):
                await client.resolve_customer("opens the client before the clock starts")
        besides = [asyncio.create_task(follow(sandbox, case.rates, was))]
        if case.other:
            besides.append(asyncio.create_task(another(sandbox, case.other)))
        begun = time.monotonic()
        results = await asyncio.gather(
            *(
                client.batch_meter_usage(given[n * share : (n + 1) * share], product_code="p")
                for n, client in enumerate(opened)
            )
        )
        took = time.monotonic() - begun
        for task in besides:
            task.cancel()
        await asyncio.gather(*besides, return_exceptions=True)
    calls = RECORDS // 25
    delivered = sum(result.counts.get(RecordStatus.SUCCESS, 0) for result in results)
    left = [(start, rate - case.other) for start, rate in was]
    return {
        "case": case.name,
        "seconds": round(took, 2),
        "time_to_ideal": round(took / ideal(left, calls), 3),
        "throttled_per_call": round(sum(result.throttled for result in results) / calls, 3),
        "never_delivered": RECORDS - delivered,
    }


async def measure() -> list[dict[str, Any]]:
    rows = []
    for case in CASES:
        rows.append(await run(case))
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
