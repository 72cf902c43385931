"""What the Hypothesis strategies make is taken by client and service, however narrow they are."""

from datetime import UTC, datetime

from hypothesis import given, settings
from support.examples import examples

from marketplace_metering_async import MarketplaceMeteringClient, RecordStatus, UsageRecord
from marketplace_metering_async.sandbox import Sandbox, SandboxClock
from marketplace_metering_async.testing import SandboxTransport
from marketplace_metering_async.testing.strategies import batches

NOW = datetime(2026, 11, 23, 12, 30, 30, tzinfo=UTC)


@settings(max_examples=examples(60))
@given(
    batch=batches(now=NOW, product_codes=["p"], customers=["111122223333"], dimensions=["requests"])
)
async def test_batches_of_one_buyer_bill_nothing_twice(batch: list[UsageRecord]) -> None:
    """
    Not by product code and license either: the client refuses both records of such an hour.
    """
    sandbox = Sandbox(calls_per_second=None, clock=SandboxClock(NOW, speed=0.0))

    async with MarketplaceMeteringClient(
        transport=SandboxTransport(sandbox), **sandbox.client_arguments
    ) as client:
        result = await client.batch_meter_usage(batch)

    assert {RecordStatus.SUCCESS: len(batch)} == {RecordStatus.SUCCESS: 0, **result.counts}
    assert [] == sandbox.book.double_billed()
