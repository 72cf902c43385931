"""
Does a ledger's memory stay flat? `python benchmarks/ledger_memory.py [keys]` (Linux)

Usage of a million keys is added to a SQLite file, a thousand callers at once; then `status()` is
asked, and `relay_once` sends all of it to a service that answers at once and keeps nothing. Told is
by how much the process grows over what it had after the first 20,000 keys, when all that is kept
within bounds has been filled.
"""

import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab.clients import resident
from lab.harness import Row, results
from ledger import unheard

from marketplace_metering_async import MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.aws.transport import Request, Response

KEYS = 1_000_000
FIRST = 20_000
AT_ONCE = 1_000
STEPS = 5


class Yes:
    """A transport to a service that takes everything."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        del timeout
        records = json.loads(request.body)["UsageRecords"]
        given = [
            {"UsageRecord": record, "MeteringRecordId": "i" * 36, "Status": "Success"}
            for record in records
        ]
        body = {"Results": given, "UnprocessedRecords": []}
        return Response(200, {"x-amzn-RequestId": "r" * 36}, json.dumps(body).encode())

    async def aclose(self) -> None:
        """Nothing to close."""


async def add(ledger: UsageLedger, first: int, end: int, at: datetime) -> None:
    for start in range(first, end, AT_ONCE):
        await asyncio.gather(
            *(
                ledger.add_usage(
                    dimension="requests",
                    quantity=1,
                    customer_aws_account_id=f"{number:012d}",
                    product_code="product",
                    at=at,
                )
                for number in range(start, min(start + AT_ONCE, end))
            )
        )


async def measure(path: Path, keys: int) -> list[Row]:
    rows: list[Row] = []
    at = datetime.now(UTC) - timedelta(hours=2)
    async with (
        UsageLedger.open(f"sqlite:///{path}", grace=0, observer=unheard) as ledger,
        MarketplaceMeteringClient(
            region_name="us-east-1",
            endpoint_url="http://127.0.0.1:1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",  # noqa: S106 - a dummy
            transport=Yes(),
            calls_per_second=None,
            observer=unheard,
        ) as client,
    ):
        await add(ledger, 0, FIRST, at)
        before = resident("VmRSS")

        async def step(what: str, work: Any) -> None:
            begun = time.perf_counter()
            await work
            rows.append(
                {
                    "after": what,
                    "grown_mib": round((resident("VmRSS") - before) / 2**20, 1),
                    "seconds": round(time.perf_counter() - begun, 1),
                }
            )
            print(rows[-1], flush=True)

        done = FIRST
        for number in range(1, STEPS + 1):
            end = FIRST + (keys - FIRST) * number // STEPS
            await step(f"{end:,} open keys", add(ledger, done, end, at))
            done = end
        await step("status()", ledger.status())
        await step("relay_once()", ledger.relay_once(client))
        await step("status()", ledger.status())
        status = await ledger.status()
        assert status.metered == keys
        rows.append(
            {
                "after": "all",
                "peak_grown_mib": round((resident("VmHWM") - before) / 2**20, 1),
                "before_mib": round(before / 2**20, 1),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    with results("ledger-memory") as found, tempfile.TemporaryDirectory() as name:
        found["keys"] = keys
        found["rows"] = asyncio.run(measure(Path(name) / "usage.db", keys))


if __name__ == "__main__":
    main()
