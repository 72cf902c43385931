"""The batcher's laws, over random scripts of callers on a virtual clock."""

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st
from support.memory import MemoryService, client_of, metered, usage
from support.virtual import run_virtual

from marketplace_metering_async import ClientClosedError, RetryPolicy, UsageBatcher
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.sandbox import FaultKind, Refusal

KINDS: list[FaultKind | Refusal | None] = [
    *[None] * 6,
    FaultKind.THROTTLE,
    FaultKind.RESET_AFTER,
    FaultKind.UNPROCESSED,
    FaultKind.ERROR_503,
    FaultKind.SHUFFLE,
    FaultKind.DROP,
    Refusal("InvalidProductCodeException", "no such product"),
    Refusal("AccessDeniedException", "no"),
]


@frozen
class Submit:
    customer: int
    quantity: Any
    product: str
    withdraw_after: float | None


@frozen
class Tick:
    seconds: float


@frozen
class Flush:
    pass


@frozen
class Drain:
    timeout: float


steps = st.one_of(
    st.builds(
        Submit,
        st.integers(0, 40),
        st.sampled_from([0, 1, "1.0", "0.000001"]),
        st.sampled_from(["a", "b"]),
        st.none() | st.sampled_from([0.0, 0.01, 0.3]),
    ),
    st.builds(Tick, st.sampled_from([0.0, 0.01, 0.06, 2.0])),
    st.builds(Flush),
    st.builds(Drain, st.sampled_from([0.0, 0.5, 30.0])),
)


def record_of(step: Submit) -> UsageRecord:
    return usage(
        1,
        product_code=step.product,
        customer_aws_account_id=f"{step.customer:012d}",
        quantity=step.quantity,
    )[0]


class Script:
    """Plays steps against a batcher, and keeps what callers were told."""

    def __init__(self, service: MemoryService, most: int) -> None:
        self.service = service
        self.most = most
        self.callers: list[tuple[UsageRecord, asyncio.Task[Any]]] = []

    async def play(self, script: list[Any]) -> None:
        policy = RetryPolicy(timeout=5, max_attempts=3)
        async with client_of(self.service, retry=policy) as client:
            await client.endpoint()
            batcher = UsageBatcher(client, max_pending=self.most)
            for step in script:
                assert batcher.waiting + batcher.in_flight <= self.most
                await self._step(batcher, step)
            await batcher.aclose()
            await asyncio.sleep(1)  # callers run on, and timers of withdrawals end
            assert 0 == batcher.waiting == batcher.in_flight
            assert all(task.done() for _, task in self.callers)

    async def _step(self, batcher: UsageBatcher, step: Any) -> None:
        match step:
            case Submit():
                record = record_of(step)
                task = asyncio.create_task(batcher.meter(record))
                self.callers.append((record, task))
                if step.withdraw_after is not None:
                    asyncio.get_running_loop().call_later(step.withdraw_after, task.cancel)
                await asyncio.sleep(0)
            case Tick(seconds=seconds):
                await asyncio.sleep(seconds)
            case Flush():
                await batcher.flush()
            case Drain(timeout=timeout):
                await batcher.drain(timeout)


@given(
    script=st.lists(steps, max_size=80),
    faults=st.lists(st.sampled_from(KINDS), max_size=30),
    most=st.integers(1, 60),
)
@example(  # the verdict comes just when the drain begins to wait for it
    script=[Submit(0, 0, "a", None), Tick(0.07), Drain(0.0)], faults=[], most=1
)
@example(  # taken back when its chunk is made, but not on the wire yet
    script=[Submit(0, 0, "b", 0.0), Flush(), Submit(0, 0, "a", None), Flush()], faults=[], most=1
)
def test_no_caller_is_left_behind_and_none_is_told_a_lie(
    script: list[Any], faults: list[FaultKind | Refusal | None], most: int
) -> None:
    """
    One verdict a caller, true of the book; requests within their limits; no key in two requests but
    for a resend; nothing that was withdrawn early is on file. Covers: B02, B10
    """
    service = MemoryService(lambda number, _: faults[number] if number < len(faults) else None)
    played = Script(service, most)

    run_virtual(played.play(script))

    on_file = metered(service.book)
    alike = Counter(key_of(record) for record, _ in played.callers)
    for record, task in played.callers:
        if task.cancelled() or isinstance(task.exception(), ClientClosedError):
            continue
        result = task.result()
        assert result.record is record
        if result.metered:
            assert record.quantity == on_file[key_of(record)]
        if result.metered is False and alike[key_of(record)] == 1:
            assert key_of(record) not in on_file
    for body in service.requests:
        records = body["UsageRecords"]
        assert 1 <= len(records) <= 25
        keys = [r["CustomerAWSAccountId"] for r in records]
        assert len(set(keys)) == len(keys)
    given_keys = {
        (r.product_code, r.customer_aws_account_id, r.quantity) for r, _ in played.callers
    }
    assert {(k[0], k[1], q) for k, q in on_file.items()} <= given_keys


def key_of(record: UsageRecord) -> tuple[str | None, str, str, datetime]:
    hour = record.timestamp.replace(minute=0, second=0)
    return record.product_code, record.customer_aws_account_id or "", record.dimension, hour
