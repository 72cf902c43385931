"""
How many calls does the sandbox keep up with? `python benchmarks/sandbox.py [rounds]`

BatchMeterUsage calls of 25 records each, every record a key of its own, which the sandbox checks
and puts on file. It runs in a process of its own, on one core; the load comes over 8 kept
connections from a plain client on another, made before the clock starts, since to make it is more
work than to take it. Told are calls a second, and calls for each second of the sandbox's CPU time,
which another process on its core does not change.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from harness import Row, median, pinned, results, rounds_asked, spread

CALLS = 4_000
CONNECTIONS = 8
RECORDS = 25
KINDS: dict[str, dict[str, Any]] = {
    "fast mode": {"fast": True},
    "as it comes, without quota": {"calls_per_second": None},
}


async def serve(settings: dict[str, Any]) -> None:
    """Run a sandbox until the standard input ends; tell its book and its CPU time."""
    from marketplace_metering_async.sandbox import Sandbox

    async with Sandbox(**settings) as sandbox:
        sandbox.declare_product("prod", dimensions=["requests"])
        print(sandbox.url, flush=True)
        begun = time.process_time()
        await asyncio.to_thread(sys.stdin.read)
        cpu = time.process_time() - begun
        told = {"cpu": cpu, "records": len(sandbox.book), "units": sandbox.book.totals()}
        print(json.dumps(told), flush=True)


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


def run(kind: str) -> Row:
    settings = json.dumps(KINDS[kind])
    command = [*pinned(-1), sys.executable, __file__, "serve", settings]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        url = process.stdout.readline().strip()
        done = subprocess.run(
            [*pinned(0), sys.executable, __file__, "load", url],
            capture_output=True,
            text=True,
            check=True,
        )
        process.stdin.close()
        told = json.loads(process.stdout.readline())
    row: Row = {"kind": kind, **json.loads(done.stdout)}
    assert told["records"] == told["units"]["requests"] == CALLS * RECORDS
    assert not row["wrong"]
    row["calls_per_cpu_second"] = round(CALLS / told["cpu"])
    row["sandbox_busy"] = round(told["cpu"] / row["seconds"], 2)
    return row


def main() -> None:
    with results("sandbox") as found:
        rows = [run(kind) for _ in range(rounds_asked(3)) for kind in KINDS]
        found["calls"], found["records_per_call"] = CALLS, RECORDS
        found["summary"] = {}
        for kind in KINDS:
            of_kind = [row for row in rows if row["kind"] == kind]
            for name in ("calls_per_second", "calls_per_cpu_second"):
                values = [row[name] for row in of_kind]
                found["summary"][f"{kind}: {name}"] = median(values)
                print(f"{kind}: {name} {spread(values)}")
        found["rows"] = rows


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", settings]:
            asyncio.run(serve(json.loads(settings)))
        case ["load", url]:
            print(json.dumps(asyncio.run(load(url))))
        case _:
            main()
