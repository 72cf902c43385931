"""Figures that take minutes: `pytest -m campaign tests/campaigns`."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from support.figures import opened
from support.memory import MemoryService, usage
from support.virtual import START, run_virtual

from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.events import Event
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.sandbox import FaultKind

pytestmark = pytest.mark.campaign
S = RecordStatus
DAY = 86_400


class Forgetful(MemoryService):
    """Keeps no request and no record, so that what grows is ours."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        response = await super().send(request, timeout=timeout)
        self.requests.clear()
        return response


def _held() -> int:
    """Return the bytes that are held, but for the texts in which the tests look for secrets."""
    without_texts = tracemalloc.Filter(inclusive=False, filename_pattern="*/support/canaries.py")
    snapshot = tracemalloc.take_snapshot().filter_traces([without_texts])
    return sum(trace.size for trace in snapshot.traces)


async def _grown(days: int, every: float) -> float:
    """Return the MiB by which a stream has grown from its second day to the last."""
    loop = asyncio.get_running_loop()
    service = Forgetful(lambda n, _: FaultKind.THROTTLE if n % 50 == 0 else None)
    read = 0

    async def source() -> AsyncIterator[UsageRecord]:
        nonlocal read
        while loop.time() < days * DAY:
            moment = START + timedelta(seconds=loop.time() - 3600)
            product = f"product-{read % 200}"
            yield usage(
                1, product_code=product, timestamp=moment, customer_aws_account_id=f"{read:012d}"
            )[0]
            read += 1
            await asyncio.sleep(every)

    sizes: list[int] = []

    def ignore(_: Event) -> None:
        """Keep nothing, as pytest does of what is logged."""

    async with opened(service, calls_per_second=10, observer=ignore) as client:
        async for result in client.iter_batch_meter_usage(source()):
            assert result.status in (S.SUCCESS, S.DUPLICATE_RECORD)
            if loop.time() > (len(sizes) + 1) * DAY:
                service.book = type(service.book)()
                gc.collect()
                sizes.append(_held())
    return (sizes[-1] - sizes[0]) / 2**20


def test_a_month_of_a_stream_takes_no_more_memory_than_a_day() -> None:
    """
    A record every twenty seconds over 200 products, with throttles. Core F24
    """
    tracemalloc.start()
    try:
        assert run_virtual(_grown(30, 20.0)) <= 1.0
    finally:
        tracemalloc.stop()
