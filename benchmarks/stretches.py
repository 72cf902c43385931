"""
How long our code holds the event loop on each path of a delivery: `python benchmarks/stretches.py`.

Records are handed over at once, as UsageRecord objects and as mappings. A stretch is the processor
time of one turn of the event loop, the longest of a run; the garbage collector is frozen. Sizes and
rounds may be given: `python benchmarks/stretches.py 100000 3`. Then 8,000 callers with timeouts:
how long after the time they had did the last one end, and the processor time of them all.
"""

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from marketplace_metering_async import MarketplaceMeteringClient, RetryPolicy, UsageRecord
from marketplace_metering_async.aws.transport import Request, Response

LIMITS = {(100_000, False): 20.0, (100_000, True): 100.0, (1_000_000, False): 100.0}
LIMITS[1_000_000, True] = 300.0


class MeasuredLoop(asyncio.SelectorEventLoop):
    """Notes the longest turn, in seconds of processor time."""

    longest = 0.0

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.longest = max(self.longest, time.thread_time() - began)


class Service:
    """A service that answers at once, by the path that is measured."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        del timeout
        self.calls += 1
        if self.path == "slow":
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.001)
        headers = {"x-amzn-RequestId": "r"}
        code = {
            "denied": "AccessDeniedException",
            "product": "InvalidProductCodeException",
            "throttled": "ThrottlingException",
            "failed": "InternalServiceErrorException",
        }.get(self.path)
        if self.path == "refused" and b'"typo"' in request.body:
            code = "InvalidUsageDimensionException"
        if code is not None:
            status = 500 if self.path == "failed" else 400
            return Response(status, headers, b'{"__type": "%s"}' % code.encode())
        records = json.loads(request.body)["UsageRecords"]
        results = [
            {"UsageRecord": record, "Status": "Success", "MeteringRecordId": "id"}
            for record in records
        ]
        return Response(
            200, headers, json.dumps({"Results": results, "UnprocessedRecords": []}).encode()
        )

    async def aclose(self) -> None:
        """Nothing to close."""


def client_of(service: Service) -> MarketplaceMeteringClient:
    return MarketplaceMeteringClient(
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",  # noqa: S106
        transport=service,
        calls_per_second=None,
        retry=RetryPolicy(timeout=5),
    )


def records_of(size: int, path: str) -> list[UsageRecord]:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    dimension = "typo" if path == "refused" else "requests"
    made = [
        UsageRecord(
            timestamp=hour,
            dimension=dimension,
            quantity=1,
            customer_aws_account_id=f"{n:012d}",
            product_code="product",
        )
        for n in range(size)
    ]
    if path == "conflicting":  # every second one differs from the one before
        made[1::2] = [
            UsageRecord(
                timestamp=hour,
                dimension=dimension,
                quantity=2,
                customer_aws_account_id=record.customer_aws_account_id,
                product_code="product",
            )
            for record in made[::2]
        ]
    if path == "identical":
        made[1::2] = made[::2]
    if path == "both schemes":
        made[1::2] = [
            UsageRecord(
                timestamp=hour,
                dimension=dimension,
                quantity=2,
                customer_aws_account_id=record.customer_aws_account_id,
                product_code="product",
                license_arn="arn:aws:license-manager::123456789012:license:l-a",
            )
            for record in made[::2]
        ]
    return made


async def deliver(path: str, given: Any) -> None:
    async with client_of(Service(path)) as client:
        await client.endpoint()
        match path:
            case "timed out":
                await client.batch_meter_usage(given, timeout=0.5)
            case "throttled" | "failed":
                await client.batch_meter_usage(given, timeout=2.0)
            case "cancelled":
                task = asyncio.create_task(client.batch_meter_usage(given))
                await asyncio.sleep(1.0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            case "collected":
                result = await client.batch_meter_usage(given)
                del result
            case _:
                await client.batch_meter_usage(given)


PATHS = (
    "sent", "refused", "denied", "product", "timed out", "throttled", "failed",
    "cancelled", "collected", "conflicting", "identical", "both schemes",
)  # fmt: skip


def measure(work: Callable[[], Any]) -> float:
    """Return the longest turn of *work*, in milliseconds of the processor."""
    loop = MeasuredLoop()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        loop.run_until_complete(work())
    finally:
        gc.enable()
        gc.unfreeze()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    return 1e3 * loop.longest


async def callers(count: int, seconds: float) -> tuple[float, float]:
    """Let *count* callers with timeouts wait; return how late the last was, and the CPU of all."""
    async with client_of(Service("slow")) as client:
        await client.endpoint()
        records = records_of(count, "sent")
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(
            *(client.batch_meter_usage([record], timeout=seconds) for record in records)
        )
        return time.perf_counter() - began - seconds, time.process_time() - cpu


def main() -> None:
    sizes = [int(sys.argv[1])] if len(sys.argv) > 1 else [100_000, 1_000_000]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    paths = sys.argv[3].split(",") if len(sys.argv) > 3 else PATHS
    over = 0
    for size in sizes:
        for path in paths:
            for as_mappings in (False, True):
                given: Any = records_of(size, path)
                if as_mappings:
                    given = [record.to_boto() | {"ProductCode": "product"} for record in given]
                found = [measure(partial(deliver, path, given)) for _ in range(rounds)]
                cpu = statistics.median(found)
                most = LIMITS.get((size, as_mappings), float("nan"))
                over += cpu > most
                kind = "mappings" if as_mappings else "objects"
                verdict = "over" if cpu > most else "holds"
                print(f"{size:>9,} {path:13} {kind:9} {cpu:7.1f} ms {verdict}")
    gc.disable()
    late, cpu = asyncio.run(callers(8000, 1.5))
    print(f"8,000 callers with timeouts: the last {late:.2f} s late, {cpu:.2f} s of CPU in all")
    sys.exit(1 if over or cpu > 3 else 0)


if __name__ == "__main__":
    main()
