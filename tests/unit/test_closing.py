"""Closing: what rests or waits ends at once, and what belongs to others is left alone."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.memory import MemoryService, client_of, usage
from support.virtual import run_virtual

from marketplace_metering_async import MarketplaceMeteringClient, UsageBatcher, UsageRecord
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.clock import SystemClock
from marketplace_metering_async.errors import ClientClosedError
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind, Sandbox

S = RecordStatus


async def batch(client: MarketplaceMeteringClient, records: list[UsageRecord]) -> list[Any]:
    return list(await client.batch_meter_usage(records))


async def stream(client: MarketplaceMeteringClient, records: list[UsageRecord]) -> list[Any]:
    return [result async for result in client.iter_batch_meter_usage(records, linger=3600)]


async def batcher(client: MarketplaceMeteringClient, records: list[UsageRecord]) -> list[Any]:
    door = UsageBatcher(client, linger=3600)
    return list(await asyncio.gather(*map(door.meter, records)))


@pytest.mark.parametrize("door", [batch, stream, batcher])
def test_what_rests_when_the_client_closes_ends_at_once(door: Callable[..., Any]) -> None:
    """
    Not after the rest, which may be minutes, or the linger; what was tried is in doubt.
    """
    service = MemoryService(lambda number, body: FaultKind.ERROR_500_AFTER)

    async def close() -> tuple[float, list[RecordResult]]:
        rest = RetryPolicy(base_delay=600, max_delay=600)
        client = client_of(service, retry=rest)
        sending = asyncio.create_task(door(client, usage(27)))
        await asyncio.sleep(1)
        begun = asyncio.get_running_loop().time()
        await client.aclose()
        return asyncio.get_running_loop().time() - begun, await sending

    waited, results = run_virtual(close())

    tried = sum(service.sizes)
    assert 1 > waited
    assert [tried, 27 - tried] == [
        sum(result.status is word for result in results) for word in (S.UNCONFIRMED, S.UNPROCESSED)
    ]


@pytest.mark.parametrize("kind", [FaultKind.ERROR_500, FaultKind.THROTTLE])
def test_a_batch_that_closing_ends_leaves_nothing_running(kind: FaultKind) -> None:
    """
    Not even what was cancelled and takes some turns of the event loop to end.
    """

    async def close() -> list[str]:
        client = client_of(MemoryService(lambda number, body: kind))
        sending = asyncio.create_task(client.batch_meter_usage(usage(60)))
        await asyncio.sleep(3)
        closing = asyncio.create_task(client.aclose())
        await sending
        left = asyncio.all_tasks() - {closing, asyncio.current_task()}
        await closing
        return [repr(task) for task in left]

    assert [] == run_virtual(close())


def now_used(dimension: str) -> list[UsageRecord]:
    """Return two records of now."""
    return usage(2, dimension=dimension, timestamp=datetime.now(UTC))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
async def test_closing_in_a_forked_process_leaves_the_connections_to_the_parent() -> None:
    """
    The child shares the parent's epoll, and would have made it deaf to its responses. Covers: C17
    """
    async with Sandbox() as sandbox:
        client = MarketplaceMeteringClient(**sandbox.client_arguments)
        door = UsageBatcher(client)
        assert {S.SUCCESS: 2} == (await client.batch_meter_usage(now_used("first"))).counts
        child = os.fork()
        if child == 0:
            refused = 0
            for close in (client.aclose, door.aclose, door.flush):
                try:
                    close().send(None)  # the parent's loop is not this process's
                except ClientClosedError:
                    refused += 1
            os._exit(refused)
        assert 3 == os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])
        async with asyncio.timeout(10):
            assert {S.SUCCESS: 2} == (await client.batch_meter_usage(now_used("second"))).counts
        await door.aclose()
        await client.aclose()


def test_closing_on_another_event_loop_is_refused_while_the_own_one_is_open() -> None:
    """
    Its connections cannot be closed from there; those of a closed loop are gone with it. C16
    """
    client = client_of(MemoryService(), clock=SystemClock())
    door = UsageBatcher(client)

    with asyncio.Runner() as own:
        own.run(client.endpoint())
        for close in (client.aclose, door.aclose, door.flush):
            with (
                asyncio.Runner() as other,
                pytest.raises(ClientClosedError, match="another event loop; close it there"),
            ):
                other.run(close())
        assert 0 == len(own.run(client.batch_meter_usage([])))

    assert [] == asyncio.run(door.drain())
    asyncio.run(client.aclose())


async def test_closing_that_is_cut_short_leaves_no_connection_open() -> None:
    """
    A provider of credentials that takes its time to end is waited for last.

    Who lost patience had connections open for good, since to close again did nothing.
    """

    async def slow() -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)

    client = MarketplaceMeteringClient(
        region_name="us-east-1", aws_access_key_id="AKID", aws_secret_access_key="secret"
    )
    await client.endpoint()
    connection = shared_of(client).connection
    transport = connection._own_transport
    assert transport is not None
    working = connection._signer._opening.begin(slow)
    await asyncio.sleep(0)
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.gather(closing, working, return_exceptions=True)
    assert transport._closed
