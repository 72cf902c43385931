"""
Meters many records through the batcher into a sandbox with faults on, and audits the book.

    python tests/campaigns/load.py --records 100000 --tasks 1000 --seed 1

The book must equal what the callers were told, to the unit.
"""

import argparse
import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from marketplace_metering_async import MarketplaceMeteringClient, UsageBatcher, UsageRecord
from marketplace_metering_async.results import RecordResult
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox

FAULTS = (
    (FaultKind.RESET_AFTER, 0.03),
    (FaultKind.RESET_BEFORE, 0.02),
    (FaultKind.THROTTLE, 0.05),
    (FaultKind.UNPROCESSED, 0.05),
    (FaultKind.ERROR_500_AFTER, 0.02),
    (FaultKind.TRUNCATED, 0.01),
    (FaultKind.DROP, 0.01),
    (FaultKind.SHUFFLE, 0.05),
)
PRODUCTS = ("api", "storage", "seats")


def record(number: int) -> UsageRecord:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    return UsageRecord(
        timestamp=hour,
        dimension="requests",
        quantity=number % 97,
        customer_aws_account_id=f"{number:012d}",
        product_code=PRODUCTS[number % len(PRODUCTS)],
    )


async def load(records: int, tasks: int, seed: int) -> tuple[list[RecordResult], Sandbox]:
    """Return what callers were told, and the sandbox, whose book says what is on file."""
    faults = [Fault(kind=kind, probability=share) for kind, share in FAULTS]
    sandbox = Sandbox(calls_per_second=None, faults=faults, seed=seed)
    async with (
        sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments, calls_per_second=None) as client,
        UsageBatcher(client) as batcher,
    ):

        async def task(first: int) -> list[RecordResult]:
            numbers = range(first, records, tasks)
            return [await batcher.meter(record(number)) for number in numbers]

        told = await asyncio.gather(*(task(first) for first in range(tasks)))
    return [result for some in told for result in some], sandbox


def differences(told: list[RecordResult], sandbox: Sandbox) -> list[str]:
    """Return every way in which the book is not what the callers were told."""
    on_file = {one.customer: one.quantity for one in sandbox.book.records}
    found = []
    for result in told:
        given = result.record
        assert isinstance(given, UsageRecord)
        have = on_file.pop(given.customer_aws_account_id or "", None)
        if result.metered is not False and have != given.quantity:
            found.append(f"{result!r}: the book has {have}")
        if result.metered is False and have is not None:
            found.append(f"{result!r}: said not to be metered, the book has {have}")
    return [*found, *(f"{customer}: nobody gave it" for customer in on_file)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Load the batcher, and audit the book.")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    began = time.monotonic()
    told, sandbox = asyncio.run(load(given.records, given.tasks, given.seed))
    wrong = differences(told, sandbox)
    sys.stdout.write(
        f"seed {given.seed}: {len(told)} told, {len(sandbox.book)} on file, {len(wrong)} differ, "
        f"{sum(sandbox.hits.values())} faults, {time.monotonic() - began:.0f} s\n"
    )
    for line in wrong[:20]:
        sys.stdout.write(f"{line}\n")
    return bool(wrong) or len(told) != given.records


if __name__ == "__main__":
    sys.exit(main())
