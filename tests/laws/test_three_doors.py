"""Batch, stream and batcher of one client against a faulty service: the laws hold for all three."""

import asyncio
import os
from datetime import timedelta
from random import Random
from typing import Any, ClassVar

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.examples import examples
from support.figures import AFTER, BEFORE, ODD
from support.memory import MemoryService, client_of, metered
from support.virtual import START, VirtualClock, VirtualLoop

from marketplace_metering_async import ClientClosedError, UsageBatcher
from marketplace_metering_async.aws.transport import Request, Response
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.quantities import of_millionths
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus
from marketplace_metering_async.sandbox import FaultKind, Refusal

EAGER = bool(os.environ.get("METERING_TEST_EAGER"))
"""Whether tasks begin eagerly: Python 3.12 and later."""
HOUR = START.replace(minute=0)
PRODUCTS = ("prod-a", "prod-b", "unknown")
SCOPES = {
    "unknown": Refusal("InvalidProductCodeException"),
    "typo": Refusal("InvalidUsageDimensionException"),
    "odd": Refusal("NovelException"),
}
FAULTS: list[Any] = [
    *BEFORE,
    *AFTER,
    *ODD,
    Refusal("AccessDeniedException"),
    Refusal("ExpiredTokenException"),
    Refusal("NovelException"),
    Refusal("InvalidLicenseException"),
    "raises",
    "raises-after",
    400,
    401,
    403,
    404,
    302,
    413,
]


class FaultyService(MemoryService):
    """Refuses what is odd, and does whatever else is drawn; its clock may differ from ours."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(self._fault, clock=self.clock)
        self.random = Random(0)
        self.kind: Any = None
        self.share = 0.0

    def _fault(self, number: int, body: dict[str, Any]) -> FaultKind | Refusal | None:
        if body.get("ProductCode") == "unknown":
            return SCOPES["unknown"]
        for record in body["UsageRecords"]:
            if record["Dimension"] in SCOPES:
                return SCOPES[record["Dimension"]]
        drawn = self.kind if self.random.random() < self.share else None
        return drawn if isinstance(drawn, FaultKind | Refusal) else None

    async def send(self, request: Request, *, timeout: float) -> Response:
        foreign = self.kind if self.random.random() < self.share else None
        if foreign == "raises":
            raise KeyError("out of a transport")
        response = await super().send(request, timeout=timeout)
        if foreign == "raises-after":
            raise KeyError("out of a transport")
        if isinstance(foreign, int):
            return Response(foreign, {}, b"<html>no</html>")
        return response


@define(eq=False)
class Sent:
    """Something that was handed to a door."""

    door: str
    records: list[UsageRecord]
    task: "asyncio.Task[Any]"
    results: list[RecordResult] = field(factory=list)
    over: bool = False  # cancelled, or left early


class ThreeDoors(RuleBasedStateMachine):
    """A client, its doors, and a faulty service, on a virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        if EAGER:
            self.loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        self.service = FaultyService()
        self.client = client_of(
            self.service,
            max_concurrency=3,
            retry=RetryPolicy(timeout=60, attempt_timeout=5),
            random=Random(1),
        )
        self.credentials: asyncio.Event | None = None
        self.sent: list[Sent] = []
        self.batcher: UsageBatcher | None = None
        self.customer = 0
        self.closed = False
        self.run(self.client.endpoint())
        signer = shared_of(self.client).connection._signer
        sign = signer.sign

        async def maybe_hanging(*args: Any) -> Any:
            if self.credentials is not None:
                await self.credentials.wait()
            return await sign(*args)

        signer.sign = maybe_hanging  # type: ignore[assignment, method-assign]

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def fresh(self, count: int, kinds: list[str], product: str) -> list[UsageRecord]:
        """Records of customers who were given to no door before, so that no two can collide."""
        made = []
        for n in range(count):
            self.customer += 1
            made.append(
                UsageRecord(
                    timestamp=HOUR - timedelta(hours=1 + n % 3),
                    dimension=kinds[n % len(kinds)],
                    quantity=of_millionths(self.customer % 7 * 500_000),
                    customer_aws_account_id=f"{self.customer:012d}",
                    product_code=product,
                )
            )
        return made

    records: ClassVar[dict[str, Any]] = {
        "count": st.integers(1, 80),
        "kinds": st.sampled_from(
            [["requests"], ["odd"], ["typo"], ["odd", *["requests"] * 30], ["requests", "typo"]]
        ),
        "product": st.sampled_from(PRODUCTS),
    }

    @precondition(lambda self: not self.closed)
    @rule(**records, timeout=st.sampled_from([None, 0.0, 0.05, 3.0]))
    def send_a_batch(
        self, count: int, kinds: list[str], product: str, timeout: float | None
    ) -> None:
        given = self.fresh(count, kinds, product)

        async def send() -> None:
            result = await self.client.batch_meter_usage(given, timeout=timeout)
            assert given == [r.record for r in result]
            sent.results.extend(result)

        sent = Sent("batch", given, None)  # type: ignore[arg-type]
        sent.task = self.loop.create_task(send())
        self.sent.append(sent)

    @precondition(lambda self: not self.closed)
    @rule(
        **records,
        every=st.sampled_from([0.0, 0.3]),
        take=st.none() | st.integers(1, 40),
        stop_after=st.none() | st.sampled_from([0.0, 0.05, 4.0]),
    )
    def stream(
        self,
        *,
        count: int,
        kinds: list[str],
        product: str,
        every: float,
        take: int | None,
        stop_after: float | None,
    ) -> None:
        given = self.fresh(count, kinds, product)
        read: list[UsageRecord] = []
        stop = asyncio.Event()
        if stop_after is not None:
            self.loop.call_later(stop_after, stop.set)

        async def source() -> Any:
            for record in given:
                read.append(record)
                yield record
                if every:
                    await asyncio.sleep(every)

        async def send() -> None:
            results = self.client.iter_batch_meter_usage(source(), stop=stop, linger=0.5)
            try:
                async for result in results:
                    sent.results.append(result)
                    if take is not None and len(sent.results) >= take:
                        sent.over = True
                        break
            finally:
                await results.aclose()
            sent.records = read

        sent = Sent("stream", given, None)  # type: ignore[arg-type]
        sent.task = self.loop.create_task(send())
        self.sent.append(sent)

    @precondition(lambda self: not self.closed)
    @rule(**records)
    def meter(self, count: int, kinds: list[str], product: str) -> None:
        async def made() -> UsageBatcher:  # within the loop whose time the clock has
            return UsageBatcher(self.client, max_pending=60)

        if self.batcher is None:
            self.batcher = self.run(made())
        for record in self.fresh(min(count, 30), kinds, product):
            self._meter_one(self.batcher, record)

    def _meter_one(self, batcher: UsageBatcher, record: UsageRecord) -> None:
        async def one() -> None:
            sent.results.append(await batcher.meter(record))

        sent = Sent("batcher", [record], None)  # type: ignore[arg-type]
        sent.task = self.loop.create_task(one())
        self.sent.append(sent)

    @precondition(lambda self: self.batcher is not None and not self.closed)
    @rule(timeout=st.sampled_from([0.0, 0.5, 5.0]))
    def drain(self, timeout: float) -> None:
        """A drained batcher is over in time: that of the drain, and the attempts on the wire."""
        batcher, self.batcher = self.batcher, None
        assert batcher is not None
        began = self.loop.time()
        self.run(batcher.drain(timeout))
        assert self.loop.time() - began <= timeout + 5.1
        assert 0 == batcher.waiting == batcher.in_flight

    @rule(kind=st.sampled_from(FAULTS), share=st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    def trouble(self, kind: Any, share: float) -> None:
        self.service.kind, self.service.share = kind, share

    @rule(hours=st.sampled_from([-3, 0, 0, 3]))
    def move_the_clock(self, hours: int) -> None:
        self.service.clock.start = START - timedelta(hours=hours)

    @rule()
    def credentials_hang(self) -> None:
        if self.credentials is None:
            self.credentials = asyncio.Event()

    @rule()
    def credentials_are_back(self) -> None:
        if self.credentials is not None:
            self.credentials.set()
            self.credentials = None
            self.run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.3, 2.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(steps=st.integers(1, 12))
    def some_steps(self, steps: int) -> None:
        """Go on for a few turns of the event loop: what comes next meets any await."""

        async def turns() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        self.run(turns())

    # Hypothesis has to choose alike for the same draws: by what was given, not by what is over.
    @precondition(lambda self: self.customer)
    @rule(index=st.integers(0, 60))
    def cancel(self, index: int) -> None:
        sent = self.sent[-1 - index % len(self.sent)] if self.sent else None
        if sent is not None and not sent.task.done():
            sent.over = True
            sent.task.cancel()
            self.run(asyncio.sleep(0))

    @precondition(lambda self: not self.closed and self.customer > 3)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.run(self.client.aclose())

    @invariant()
    def what_is_said_is_true(self) -> None:
        on_file = {key[:4]: quantity for key, quantity in metered(self.service.book).items()}
        for body in self.service.requests:
            keys = [
                (r["CustomerAWSAccountId"], r["Dimension"], r["Timestamp"] // 3600)
                for r in body["UsageRecords"]
            ]
            assert 1 <= len(set(keys)) == len(keys) <= 25
        self.service.requests.clear()
        for sent in self.sent:
            for result in sent.results:
                self._check(result, on_file)
            if sent.task.done() and not sent.over:
                self._check_end(sent)
        self.sent = [s for s in self.sent if not s.task.done() or s.over]

    def _check(self, result: RecordResult, on_file: dict[Any, Any]) -> None:
        record = result.record
        assert isinstance(record, UsageRecord)
        key = (
            record.product_code,
            record.customer_aws_account_id,
            record.dimension,
            record.timestamp.replace(minute=0),
        )
        have = on_file.get(key)
        if result.metered is True:
            assert record.quantity == have, result
        if result.metered is False and result.status is not RecordStatus.DUPLICATE_RECORD:
            assert have is None, result
        assert result.advice

    def _check_end(self, sent: Sent) -> None:
        error = None if sent.task.cancelled() else sent.task.exception()
        assert not sent.task.cancelled()
        if error is not None:
            assert isinstance(error, ClientClosedError), error
            return
        found = sorted(r.position for r in sent.results)
        if sent.door == "batcher":
            assert 1 == len(found)
        else:
            assert list(range(len(sent.records))) == found, sent.door

    def teardown(self) -> None:
        self.service.share = 0.0
        self.credentials_are_back()
        if self.batcher is not None:
            self.run(self.batcher.drain(200))
        for sent in self.sent:
            self.run(asyncio.wait({sent.task}, timeout=2000))
            assert sent.task.done(), f"{sent.door} never ends"
        self.what_is_said_is_true()
        self.run(self.client.aclose())
        self.run(asyncio.sleep(0))
        self.run(asyncio.sleep(0))
        assert not asyncio.all_tasks(self.loop)
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


TestThreeDoors = ThreeDoors.TestCase
TestThreeDoors.settings = settings(max_examples=examples(60), stateful_step_count=50)
