"""
How many calls does the sandbox keep up with? `python benchmarks/sandbox.py [rounds]`

BatchMeterUsage calls of 25 records each, every record a key of its own, which the sandbox checks
and puts on file. It runs in a process of its own, on one core, in its fast mode: without quota. The
load comes over 8 kept connections from a plain client on another core, made before the clock
starts, since to make it is more work than to take it.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator

from lab.harness import Row, median, on_core, pinned, results, rounds_asked, spread

from marketplace_metering_async.testing import SandboxServer

CALLS = 4_000
CONNECTIONS = 8
RECORDS = 25


def requests(authority: str) -> Iterator[bytes]:
    hour = int(time.time()) // 3600 * 3600 - 3600
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"AKID/{now[:8]}/us-east-1/aws-marketplace/aws4_request"
    signed = f"Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    for call in range(CALLS):
        records = [
            {
                "Timestamp": hour,
                "CustomerAWSAccountId": f"{call * RECORDS + n:012d}",
                "Dimension": "requests",
                "Quantity": 1,
            }
            for n in range(RECORDS)
        ]
        body = json.dumps({"ProductCode": "prod", "UsageRecords": records})
        yield (
            f"POST / HTTP/1.1\r\nHost: {authority}\r\n"
            "Content-Type: application/x-amz-json-1.1\r\n"
            "X-Amz-Target: AWSMPMeteringService.BatchMeterUsage\r\n"
            f"X-Amz-Date: {now}\r\nAuthorization: AWS4-HMAC-SHA256 {signed}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


async def load(url: str) -> Row:
    """Send all requests and see that each record of each is Success."""
    authority = url.removeprefix("http://")
    host, _, port = authority.rpartition(":")
    waiting = iter(list(requests(authority)))
    wrong = 0

    async def send() -> None:
        nonlocal wrong
        reader, writer = await asyncio.open_connection(host, int(port))
        for request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            wrong += answer.count(b'"Success"') != RECORDS
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - begun
    return {"seconds": round(took, 3), "calls_per_second": round(CALLS / took), "wrong": wrong}


def run(number: int) -> Row:
    other_core = pinned(0)
    with on_core(-1), SandboxServer() as server:
        server.set_quota(None)
        server.declare_product("prod", dimensions=["requests"])
        done = subprocess.run(
            [*other_core, sys.executable, __file__, "load", server.url],
            capture_output=True,
            text=True,
            check=True,
        )
        units = server.book.totals()
    row: Row = {"round": number, **json.loads(done.stdout)}
    assert units == {"requests": CALLS * RECORDS}
    assert not row["wrong"]
    return row


def main() -> None:
    with results("sandbox") as found:
        rows = [run(number) for number in range(rounds_asked())]
        values = [row["calls_per_second"] for row in rows]
        found["calls"], found["records_per_call"] = CALLS, RECORDS
        found["summary"] = {"calls_per_second": median(values)}
        found["rows"] = rows
        print(f"calls a second: {spread(values)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(asyncio.run(load(sys.argv[2]))))
    else:
        main()
