"""
One client, one process, one piece of work: what `harness` starts. Prints a line of JSON.

Kinds: `ours`, `ours-iter` (the stream), `ours-otel-…` (observed, see `telemetry.py`),
`aiobotocore` (gather behind a semaphore, what users write), `boto3` (threads), `aiohttp` (bodies
encoded and signed beforehand, answers dropped) and `load` (prepared bytes over a bare protocol: how
much the server can take).
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

PRODUCT = "prod0123456789abcdefghijk"
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "example"}
REGION = "us-east-1"
_NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
_HOURS = [_NOW - timedelta(hours=n % 5) for n in range(24)]
Boto = dict[str, Any]


def records(count: int, *, start: int = 0, allocations: int = 0) -> Iterator[Boto]:
    """Distinct records in the shape of boto3."""
    for n in range(start, start + count):
        record: Boto = {
            "Timestamp": _HOURS[n % 24],
            "CustomerAWSAccountId": f"{n:012d}",
            "Dimension": f"api-calls-tier-{n % 20:02d}",
            "Quantity": n % 1000 + 1,
        }
        if allocations:
            record["Quantity"] = allocations
            record["UsageAllocations"] = [
                {"AllocatedUsageQuantity": 1, "Tags": [{"Key": "team", "Value": f"{k}"}]}
                for k in range(allocations)
            ]
        yield record


def chunked(given: Iterable[Boto]) -> Iterator[list[Boto]]:
    source = iter(given)
    while chunk := list(itertools.islice(source, 25)):
        yield chunk


class Ours:
    """This package, with every check, retry and verdict on."""

    def __init__(self, url: str, concurrency: int, *, stream: bool, observer: Any = None) -> None:
        from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord

        self.read = UsageRecord.from_boto
        self.stream = stream
        self.client = MarketplaceMeteringClient(
            region_name=REGION,
            endpoint_url=url,
            calls_per_second=None,
            max_concurrency=concurrency,
            observer=observer,
            **KEYS,
        )

    def prepare(self, given: Iterable[Boto]) -> Any:
        return [self.read(record) for record in given]

    async def send(self, given: Any) -> Any:
        source = given if isinstance(given, list) else map(self.read, given)
        if not self.stream:
            return await self.client.batch_meter_usage(source, product_code=PRODUCT)
        count = 0
        async for result in self.client.iter_batch_meter_usage(source, product_code=PRODUCT):
            count += result.metered is True
        return range(count)

    async def one(self, record: Any) -> None:
        await self.client.batch_meter_usage([record], product_code=PRODUCT)

    async def aclose(self) -> None:
        await self.client.aclose()


class Batcher(Ours):
    """The same, each record handed in by a caller of its own."""

    def __init__(self, url: str, concurrency: int) -> None:
        super().__init__(url, concurrency, stream=False)

    async def send(self, given: Any) -> Any:
        from marketplace_metering_async import UsageBatcher

        async with UsageBatcher(self.client, product_code=PRODUCT) as batcher:
            return await asyncio.gather(*(batcher.meter(record) for record in given))


class Aiobotocore:
    """The SDK, as it is usually called for many records."""

    def __init__(self, url: str, concurrency: int) -> None:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        self._places = asyncio.Semaphore(concurrency)
        self._opening = get_session().create_client(
            "meteringmarketplace",
            region_name=REGION,
            endpoint_url=url,
            config=AioConfig(max_pool_connections=concurrency),
            **KEYS,
        )
        self._client: Any = None

    def prepare(self, given: Iterable[Boto]) -> Any:
        return list(given)

    async def send(self, given: Any) -> Any:
        chunks = [self._chunk(chunk) for chunk in chunked(given)]
        return list(itertools.chain.from_iterable(await asyncio.gather(*chunks)))

    async def _chunk(self, chunk: list[Boto]) -> Any:
        async with self._places:
            return await self._call(chunk)

    async def _call(self, chunk: list[Boto]) -> Any:
        if self._client is None:
            self._client = await self._opening.__aenter__()
        answer = await self._client.batch_meter_usage(UsageRecords=chunk, ProductCode=PRODUCT)
        return answer["Results"]

    async def one(self, record: Any) -> None:
        await self._call([record])

    async def aclose(self) -> None:
        await self._opening.__aexit__(None, None, None)


class AiobotocoreSingle(Aiobotocore):
    """A call for each record, as a backend writes that meters where usage happens."""

    async def send(self, given: Any) -> Any:
        answers = await asyncio.gather(*(self._chunk([record]) for record in given))
        return list(itertools.chain.from_iterable(answers))


class Boto3:
    """boto3 in threads, which is what synchronous code does."""

    def __init__(self, url: str, concurrency: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import boto3
        from botocore.config import Config

        self._client = boto3.client(
            "meteringmarketplace",
            region_name=REGION,
            endpoint_url=url,
            config=Config(max_pool_connections=concurrency),
            **KEYS,
        )
        self._pool = ThreadPoolExecutor(concurrency)

    def prepare(self, given: Iterable[Boto]) -> Any:
        return list(given)

    def _call(self, chunk: list[Boto]) -> Any:
        return self._client.batch_meter_usage(UsageRecords=chunk, ProductCode=PRODUCT)["Results"]

    async def send(self, given: Any) -> Any:
        def all_of_it() -> list[Any]:
            return list(itertools.chain.from_iterable(self._pool.map(self._call, chunked(given))))

        return await asyncio.to_thread(all_of_it)

    async def one(self, record: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._call, [record])

    async def aclose(self) -> None:
        self._pool.shutdown()


def requests(given: Iterable[Boto], url: str) -> list[tuple[dict[str, str], bytes, int]]:
    """Encode and sign requests beforehand; how, does not matter to what is measured."""
    from marketplace_metering_async.aws.sigv4 import Keys, SigV4

    signer, keys = SigV4(url, REGION, unsigned={}), Keys(*KEYS.values())
    made = []
    for chunk in chunked(given):
        wired = [record | {"Timestamp": int(record["Timestamp"].timestamp())} for record in chunk]
        told = {"ProductCode": PRODUCT, "UsageRecords": wired}
        body = json.dumps(told, separators=(",", ":")).encode()
        headers = signer.headers("BatchMeterUsage", body, datetime.now(UTC), keys)
        made.append((headers, body, len(chunk)))
    return made


class Aiohttp:
    """aiohttp and nothing else: requests were encoded and signed before, answers are dropped."""

    def __init__(self, url: str, concurrency: int) -> None:
        import ssl

        import aiohttp

        tls = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
        self._url, self._concurrency = url, concurrency
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    def prepare(self, given: Iterable[Boto]) -> Any:
        return requests(given, self._url)

    async def send(self, given: Any) -> Any:
        source, done = iter(given), 0

        async def worker() -> None:
            nonlocal done
            for headers, body, count in source:
                async with self._session.post(self._url, data=body, headers=headers) as answer:
                    await answer.read()
                    done += count if answer.status == 200 else 0

        await asyncio.gather(*[worker() for _ in range(self._concurrency)])
        return range(done)

    async def one(self, record: Any) -> None:
        await self.send([record])

    async def aclose(self) -> None:
        await self._session.close()


class _Line(asyncio.Protocol):
    """Sends prepared requests one after the other, and looks at nothing but lengths."""

    _left = -1  # bytes of the answer that are to come; -1: its head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def work(self, source: Iterator[tuple[bytes, int]]) -> "asyncio.Future[None]":
        self._source = source
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next()
        return self._done

    def close(self) -> None:
        self._transport.close()

    def _next(self) -> None:
        request = next(self._source, None)
        if request is None:
            self._done.set_result(None)
        else:
            self._transport.write(request[0])

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            end = data.index(b"\r\n\r\n")
            at = data.index(b"Content-Length: ") + 16
            self._left = int(data[at : data.index(b"\r\n", at)]) - (len(data) - end - 4)
        else:
            self._left -= len(data)
        if self._left == 0:
            self._left = -1
            self._next()


class Load:
    """As many requests as the server can take."""

    def __init__(self, url: str, concurrency: int) -> None:
        import ssl

        self._url, self._concurrency = url, concurrency
        secure = url.startswith("https")
        self._tls = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
        self._tls_or_none = self._tls if secure else None
        self._lines: list[_Line] = []

    def prepare(self, given: Iterable[Boto]) -> Any:
        made = []
        for headers, body, count in requests(given, self._url):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
            made.append((head.encode() + body, count))
        return made

    async def send(self, given: Any) -> Any:
        loop, source = asyncio.get_running_loop(), iter(given)
        port = int(self._url.rpartition(":")[2])
        while len(self._lines) < self._concurrency:
            _, line = await loop.create_connection(_Line, "127.0.0.1", port, ssl=self._tls_or_none)
            self._lines.append(line)
        await asyncio.gather(*[line.work(source) for line in self._lines])
        return range(sum(count for _, count in given))

    async def one(self, record: Any) -> None:
        await self.send([record])

    async def aclose(self) -> None:
        for line in self._lines:
            line.close()


def observer_of(kind: str) -> Any:
    """Return what observes a client of ours, where its *kind* says so."""
    if "-otel-" not in kind:
        return None
    from marketplace_metering_async import OpenTelemetryObserver
    from marketplace_metering_async.events import CallEnded

    if kind == "ours-otel-api":
        return OpenTelemetryObserver()
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Dropped(SpanExporter):
        """Kept spans would make the collector of garbage look at them again and again."""

        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    sampler = ParentBasedTraceIdRatio(0.1) if kind == "ours-otel-sampled" else None
    tracers = TracerProvider(sampler, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(Dropped()))
    if kind == "ours-otel-bare":
        tracer = tracers.get_tracer("bare")

        def bare(event: object) -> None:
            if isinstance(event, CallEnded):
                tracer.start_span("MarketplaceMetering.BatchMeterUsage").end()

        return bare
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    return OpenTelemetryObserver(tracer_provider=tracers, meter_provider=meters)


def client(kind: str, url: str, concurrency: int) -> Any:
    if kind.startswith("ours"):
        observer = observer_of(kind)
        return Ours(url, concurrency, stream=kind == "ours-iter", observer=observer)
    made = {
        "aiobotocore": Aiobotocore,
        "aiobotocore-single": AiobotocoreSingle,
        "aiohttp": Aiohttp,
        "batcher": Batcher,
        "boto3": Boto3,
        "load": Load,
    }
    return made[kind](url, concurrency)


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Any]:
    """A client that has made its first calls."""
    made = client(options.kind, options.url, options.concurrency)
    await made.send(made.prepare(records(50 * options.concurrency, start=10**9)))
    yield made
    await made.aclose()


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# The pieces of work.


async def throughput(options: argparse.Namespace) -> dict[str, float]:
    """CPU and time of a delivery, results kept."""
    async with opened(options) as made:
        given = made.prepare(records(options.records, allocations=options.allocations))
        gc.collect()
        begun, used = time.perf_counter(), cpu()
        kept = await made.send(given)
        wall, used = time.perf_counter() - begun, cpu() - used
        assert len(kept) == options.records, len(kept)
        return {
            "wall": wall,
            "cpu_us_call": used / options.records * 25e6,
            "records_per_second": options.records / wall,
        }


async def observed(options: argparse.Namespace) -> dict[str, Any]:
    """CPU a call of one client beside others of *kind* (with commas), in one process."""
    kinds = options.kind.split(",")
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                opened(argparse.Namespace(**{**vars(options), "kind": kind}))
            )
            for kind in kinds
        ]
        slices: list[dict[str, float]] = []
        for number in range(options.slices):
            took: dict[str, float] = {}
            for which in Random(number).sample(range(len(kinds)), len(kinds)):
                given = clients[which].prepare(records(options.records, start=10**6 * number))
                gc.collect()
                used = cpu()
                for start in range(0, options.records, options.batch):
                    await clients[which].send(given[start : start + options.batch])
                took[kinds[which]] = (cpu() - used) / options.records * 25e6
            slices.append(took)
    return {"slices": slices}


async def lateness(options: argparse.Namespace) -> dict[str, float]:
    """How late a tick of a millisecond comes while a delivery runs in the background, in ms."""
    async with opened(options) as made:
        given = made.prepare(records(options.records))
        late: list[float] = []
        loop = asyncio.get_running_loop()

        async def tick() -> None:
            while True:
                due = loop.time() + 0.001
                await asyncio.sleep(0.001)
                late.append((loop.time() - due) * 1000)

        gc.collect()
        if options.freeze:
            gc.freeze()  # as a program does that holds a million objects for long
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.05)
        late.clear()
        begun = time.perf_counter()
        kept = await made.send(given)
        wall = time.perf_counter() - begun
        await asyncio.sleep(0.002)
        ticking.cancel()
        assert len(kept) == options.records
        late.sort()
        return {"wall": wall, "p99": late[int(len(late) * 0.99)], "max": late[-1]}


def resident(name: str) -> int:
    """Return a figure of this process's memory in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit("memory can be measured on Linux only")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def memory(options: argparse.Namespace) -> dict[str, float]:
    """By how much the resident memory grows at most, records coming from a generator."""
    async with opened(options) as made:
        gc.collect()
        before = resident("VmRSS")
        forget_peak()
        kept = await made.send(records(options.records))
        assert len(kept) == options.records
        return {"growth": resident("VmHWM") - before}


async def start(options: argparse.Namespace) -> dict[str, float]:
    """Import, make a client, and make the first call."""
    made = client(options.kind, options.url, 32)
    (record,) = made.prepare(records(1))
    await made.one(record)
    took = time.perf_counter() - options.begun
    await made.aclose()
    return {"seconds": took}


async def single(options: argparse.Namespace) -> dict[str, float]:
    """How long one record alone takes, one after the other, in milliseconds."""
    async with opened(options) as made:
        took = []
        for record in made.prepare(records(options.records)):
            begun = time.perf_counter()
            await made.one(record)
            took.append((time.perf_counter() - begun) * 1000)
        took.sort()
        return {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}


def main() -> None:
    begun = time.perf_counter()
    options = argparse.ArgumentParser()
    options.add_argument("kind")
    options.add_argument("work")
    options.add_argument("url")
    options.add_argument("--records", type=int, default=25_000)
    options.add_argument("--concurrency", type=int, default=32)
    options.add_argument("--allocations", type=int, default=0)
    options.add_argument("--freeze", type=int, default=0)
    options.add_argument("--batch", type=int, default=2_500)
    options.add_argument("--slices", type=int, default=40)
    asked = options.parse_args()
    asked.begun = begun
    work = {f.__name__: f for f in (throughput, observed, lateness, memory, start, single)}[
        asked.work
    ]
    json.dump(asyncio.run(work(asked)), sys.stdout)
    print()


if __name__ == "__main__":
    main()
