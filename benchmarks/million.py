"""
What do a million records at once do? `python benchmarks/million.py`

Planned, validated and merged over a transport in memory, which echoes; its own time is taken off.
Given are UsageRecord objects, and once more mappings as boto3 takes them, which are read and
validated on the way. Told are the CPU in microseconds a record at ten thousand, a hundred thousand
and a million, which should be the same, and the longest stretch of work for which a timer of a
millisecond had to wait, in ms of CPU, so that other programs do not count.
The garbage collector looks at all objects of a program, the million records too, whenever it
thinks fit; so that is told apart (`gc.freeze()`, as a program does that holds so many). Timestamps
of any second, in place of full hours, are the most work to bring into order.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from lab.clients import KEYS, PRODUCT, REGION, records
from lab.harness import results
from lab.server import dumps, loads

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async.aws.transport import Request, Response

SIZES = (10_000, 100_000, 1_000_000)
KINDS = (
    ("records", False),
    ("records", True),
    ("records of any second", False),
    ("mappings", False),
)


class Echo:
    """A service in memory."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._taken = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        del timeout
        begun = time.process_time()
        results = []
        for record in loads(request.body)["UsageRecords"]:
            self._taken += 1
            told = {"MeteringRecordId": f"{self._taken:036x}", "Status": "Success"}
            results.append(told | {"UsageRecord": record})
        body = dumps({"Results": results})
        self.spent += time.process_time() - begun
        await asyncio.sleep(0)
        return Response(200, {}, body)

    async def aclose(self) -> None:
        """Have nothing open."""


def at_any_second(size: int) -> Iterator[dict[str, Any]]:
    for n, record in enumerate(records(size)):
        yield record | {"Timestamp": record["Timestamp"] - timedelta(seconds=n * 7919 % 3600)}


async def deliver(size: int, *, given_as: str, frozen: bool) -> dict[str, Any]:
    source = at_any_second(size) if given_as == "records of any second" else records(size)
    given: list[Any] = list(source)
    if given_as != "mappings":
        given = [UsageRecord.from_boto(record) for record in given]
    echo, late = Echo(), [0.0]

    loop = asyncio.get_running_loop()

    def tick(asked: float) -> None:
        late.append((time.process_time() - asked) * 1000)
        loop.call_later(0.001, tick, time.process_time())

    gc.collect()
    if frozen:
        gc.freeze()
    async with MarketplaceMeteringClient(
        region_name=REGION, calls_per_second=None, transport=echo, **KEYS
    ) as client:
        await client.batch_meter_usage(given[:1000], product_code=PRODUCT)
        echo.spent = 0.0
        loop.call_later(0.001, tick, time.process_time())
        await asyncio.sleep(0.01)
        late.clear()
        begun = time.process_time()
        result = await client.batch_meter_usage(given, product_code=PRODUCT)
        spent = time.process_time() - begun - echo.spent
        await asyncio.sleep(0.002)
        assert len(result) == size
    late.sort()
    return {
        "records": size,
        "given_as": given_as,
        "frozen": frozen,
        "us_record": spent / size * 1e6,
        "longest_ms": late[-1],
        "p99_ms": late[int(len(late) * 0.99)],
    }


def main() -> None:
    with results("million") as found:
        found["rows"] = []
        for size in SIZES:
            for given_as, frozen in KINDS:
                row = asyncio.run(deliver(size, given_as=given_as, frozen=frozen))
                gc.unfreeze()
                found["rows"].append(row)
                name = f"{size:,} {given_as}{' frozen' if frozen else ''}"
                each, longest = row["us_record"], row["longest_ms"]
                print(f"{name}: {each:.2f} us a record; longest stretch {longest:.1f} ms")


if __name__ == "__main__":
    main()
