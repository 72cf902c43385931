"""
Does a ledger keep up with the quota? `python benchmarks/ledger_drain.py [mode]`

Many keys' hours, all due, are sealed and sent to a sandbox in a process of its own, whose token
bucket is honest; relays are processes, too, and know the quota. Told are the time over the floor,
(calls - burst) / quota, which no client can beat; the share of the quota that was used, without
the burst; and throttled calls for each that was delivered. The modes:

- drain (as usual): 100,000 keys at 100 calls a second, from SQLite and from PostgreSQL;
- limit: 50,000 keys at 200 calls a second, and with no quota at all: where the ledger is the limit;
- default: 100,000 keys at AWS's 10 calls a second, from SQLite: seven minutes;
- share: four relays on one PostgreSQL, through `ledger.pacer()`, at 10 and at 50 calls a second.
"""

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lab.harness import Row, results
from ledger import stores, unheard

from marketplace_metering_async import MarketplaceMeteringClient, UsageLedger
from marketplace_metering_async.testing import SandboxServer

BURST = 10.0
PRODUCT = "product"
AT_ONCE = 1_000
CASES: dict[str, list[tuple[str, int, float, int]]] = {
    # store, keys, calls a second, relays
    "drain": [("sqlite", 100_000, 100.0, 1), ("postgresql", 100_000, 100.0, 1)],
    "limit": [
        (store, 50_000, rate, 1) for rate in (200.0, math.inf) for store in ("sqlite", "postgresql")
    ],
    "default": [("sqlite", 100_000, 10.0, 1)],
    "share": [("postgresql", 75_000, 50.0, 4), ("postgresql", 15_000, 10.0, 4)],
}


async def fill(url: str, keys: int, run: int) -> None:
    """Add usage of so many keys, in an hour that is over."""
    at = datetime.now(UTC) - timedelta(hours=2)
    async with UsageLedger.open(url, grace=0, observer=unheard) as ledger:
        for first in range(0, keys, AT_ONCE):
            await asyncio.gather(
                *(
                    ledger.add_usage(
                        dimension="requests",
                        quantity=1,
                        customer_aws_account_id=f"{run}{number:011d}",
                        product_code=PRODUCT,
                        at=at,
                    )
                    for number in range(first, min(first + AT_ONCE, keys))
                )
            )


async def relay(url: str, rate: float) -> Row:
    """Relay until everything is metered; begin when a line comes."""
    async with (
        UsageLedger.open(url, grace=0, observer=unheard) as ledger,
        MarketplaceMeteringClient(
            pacer=ledger.pacer(rate) if math.isfinite(rate) else None,
            calls_per_second=None,
            observer=unheard,
        ) as client,
    ):
        await client.endpoint()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        metered, ended, status = 0, 0.0, await ledger.status()
        while status.open + status.frozen:
            if some := (await ledger.relay_once(client)).metered:
                metered, ended = metered + some, time.time()
            status = await ledger.status()
            await asyncio.sleep(0.05)
    return {"metered": metered, "ended": ended, "cpu": time.process_time()}


def measure(url: str, keys: int, rate: float, relays: int, run: int) -> Row:
    asyncio.run(fill(url, keys, run))
    with SandboxServer() as server:
        server.declare_product(PRODUCT, dimensions=["requests"])
        server.set_quota(rate if math.isfinite(rate) else None, burst=BURST)
        command = [sys.executable, __file__, "relay", url, str(rate)]
        environment = {**os.environ, **server.environment}
        processes = [
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(relays)
        ]
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        begun = time.time()
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
        took = max(one["ended"] for one in told) - begun
        state = server.state
    calls = state["calls"]["BatchMeterUsage"]
    throttled = state["refusals"].get("ThrottlingException", {"count": 0})["count"]
    floor = (math.ceil(keys / 25) - BURST) / rate
    assert sum(one["metered"] for one in told) == keys
    return {
        "keys": keys,
        "quota": rate if math.isfinite(rate) else None,
        "relays": relays,
        "seconds": round(took, 2),
        "calls_a_second": round(keys / 25 / took, 1),
        "to_floor": round(took / floor, 3) if floor else None,
        "share_of_the_quota": round(keys / 25 / took / rate, 3),
        "metered_by": [one["metered"] for one in told],
        "ended": [round(one["ended"] - begun, 1) for one in told],
        "relays_cpu_seconds": [round(one["cpu"], 1) for one in told],
        "calls": calls,
        "throttled_per_delivered": round(throttled / (calls - throttled), 4),
    }


def main() -> None:
    work = sys.argv[1] if len(sys.argv) > 1 else "drain"
    with (
        results(f"ledger-{work}") as found,
        tempfile.TemporaryDirectory() as name,
        stores(Path(name)) as urls,
    ):
        rows: list[Row] = []
        for run, (store, *case) in enumerate(CASES[work]):
            if store in urls:
                rows.append({"store": store, **measure(urls[store], *case, run=run)})
                print(rows[-1], flush=True)
        found["rows"] = rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        print(json.dumps(asyncio.run(relay(sys.argv[2], float(sys.argv[3])))))
    else:
        main()
