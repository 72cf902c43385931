"""What one refused record costs the others: nothing, whichever door they came through."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from support.figures import batch, refusing, send_through
from support.ledgers import HOUR, NOON, house_at
from support.memory import MemoryService, usage
from support.virtual import START

from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordStatus
from marketplace_metering_async.sandbox import Book, Product

S = RecordStatus
LICENSE = "arn:aws:license-manager::123456789012:license:l-{}"


def test_one_customer_does_not_stop_a_lane() -> None:
    """
    However many of its chunks are refused to the last record: all others are metered. (core F1)
    """
    odd = [
        UsageRecord(
            timestamp=START - timedelta(hours=3),
            dimension=f"d{n}",
            quantity=1,
            customer_aws_account_id="9" * 12,
            product_code="product",
        )
        for n in range(200)
    ]
    good = usage(50)
    service = MemoryService(refusing(lambda r: r["CustomerAWSAccountId"] == "9" * 12))

    results = list(batch(service, odd + good, max_concurrency=1))

    assert {S.UNPROCESSED} == {r.status for r in results[:200]}
    assert {S.SUCCESS} == {r.status for r in results[200:]}


def test_a_lane_of_which_something_is_taken_in_between_goes_on() -> None:
    """
    However many chunks of different customers are refused to the last record. (core F1)
    """
    records = [
        usage(
            1, customer_aws_account_id=f"{n:012d}", timestamp=START - timedelta(hours=20 - n // 25)
        )
        for n in range(250)
    ]
    service = MemoryService(refusing(lambda r: int(r["CustomerAWSAccountId"]) // 25 % 2 == 0))

    results = list(batch(service, [r for one in records for r in one], max_concurrency=1))

    expected = [S.SUCCESS if n // 25 % 2 else S.UNPROCESSED for n in range(250)]
    assert expected == [r.status for r in results]


async def test_the_ledger_meters_all_good_units_beside_an_odd_one(tmp_path: Path) -> None:
    """
    Hour after hour, though the odd record goes out first each time. (core F1)
    """
    odd = refusing(lambda r: r["CustomerAWSAccountId"] == "0" * 12)
    async with house_at(f"sqlite:///{tmp_path / 'ledger.db'}", odd) as house:
        for number in range(25):
            at = NOON - (HOUR / 4 if number else HOUR / 2)
            await house.use(10, customer_aws_account_id=f"{number:012d}", at=at)
        for _ in range(3):
            await house.relay_after(hours=1)

        assert 240 == sum(house.metered().values())
        assert 240 == (await house.balance()).metered


def test_a_customer_refused_for_one_unnamed_product_is_sent_for_another() -> None:
    """
    Where nobody named the product, only records of the same license are surely of the same one.
    """
    account = "1" * 12
    records = [
        usage(1, license_arn=LICENSE.format(n), customer_aws_account_id=account, product_code=None)
        for n in range(2)
    ]
    code = "InvalidCustomerIdentifierException"
    service = MemoryService(refusing(lambda r: r["LicenseArn"].endswith("l-0"), code))

    results = list(batch(service, [*records[0], *records[1]]))

    assert [S.REJECTED, S.SUCCESS] == [r.status for r in results]


def test_what_was_learned_of_a_customer_is_forgotten_after_a_minute() -> None:
    """
    In a stream that runs for weeks, a customer who subscribes meanwhile is metered. (core F4)
    """
    known = {"1" * 12: True}
    service = MemoryService(book=Book(products={"product": Product(customers=known)}))

    async def source() -> Any:
        for minute in range(6):
            if minute == 2:
                known["2" * 12] = True
            (record,) = usage(1, customer_aws_account_id="2" * 12, dimension=f"of minute {minute}")
            yield record
            await asyncio.sleep(61)

    results = send_through("stream", service, source())

    assert [S.REJECTED] * 2 + [S.SUCCESS] * 4 == [r.status for r in results]
