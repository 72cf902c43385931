"""Decimal quantities by the newest boto3, and the same usage by our client: one book."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import newest_boto3

from marketplace_metering_async import MarketplaceMeteringClient, UsageRecord
from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.sandbox import Rules, Sandbox
from marketplace_metering_async.testing import SandboxThread

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
SCRIPT = Path(__file__).with_name("decimals_by_boto3.py")
PART, PART_AS_DECIMAL = "AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal"


def record(customer: int, **members: Any) -> dict[str, Any]:
    return {
        "Timestamp": HOUR.isoformat(),
        "CustomerAWSAccountId": f"{customer:012d}",
        "Dimension": "requests",
        **members,
    }


def split(*parts: Any) -> list[dict[str, Any]]:
    name = PART if isinstance(parts[0], int) else PART_AS_DECIMAL
    return [
        {name: part, "Tags": [{"Key": "team", "Value": str(n)}]} for n, part in enumerate(parts)
    ]


TAKEN: dict[str, dict[str, Any]] = {
    "whole": record(1, Quantity=17),
    "decimal": record(2, QuantityAsDecimal="17.42"),
    "greatest": record(3, QuantityAsDecimal="9999999999.999999"),
    "smallest": record(4, QuantityAsDecimal="0.000001"),
    "split whole": record(5, Quantity=3, UsageAllocations=split(1, 2)),
    "split": record(6, QuantityAsDecimal="1", UsageAllocations=split("0.7", "0.30")),
    "whole again": record(1, QuantityAsDecimal="17.00"),
    "again": record(2, QuantityAsDecimal="17.420"),
}
"""Steps that the service takes, the last two by value: their quantity is on file already."""

OTHER = {"other": record(1, QuantityAsDecimal="17.000001")}
"""Another value of a key that is on file."""

REFUSED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "both": (record(7, Quantity=1, QuantityAsDecimal="1"), "ValidationException", False),
    "pattern": (record(7, QuantityAsDecimal="017"), "ValidationException", False),
    "places": (record(7, QuantityAsDecimal="0.1234567"), "ValidationException", False),
    "mixed": (
        record(7, Quantity=1, UsageAllocations=split("1")),
        "InvalidUsageAllocationsException",
        True,
    ),
    "sum": (
        record(7, QuantityAsDecimal="0.3", UsageAllocations=split("0.1", "0.1")),
        "InvalidUsageAllocationsException",
        True,
    ),
}
"""Records, the codes of their refusals, and whether the model knows those."""


@pytest.fixture
def place() -> Iterator[Sandbox]:
    sandbox = Sandbox(rules=Rules(identical_resend="success"), calls_per_second=None)
    with SandboxThread(sandbox):
        yield sandbox


def by_boto3(sandbox: Sandbox, steps: list[Any]) -> dict[str, dict[str, Any]]:
    done = subprocess.run(  # noqa: S603 - a script of ours
        [newest_boto3.python(), str(SCRIPT), json.dumps({"endpoint": sandbox.url, "steps": steps})],
        capture_output=True,
        check=False,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": "AKIDWITNESS",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    )
    assert 0 == done.returncode, done.stderr.decode()
    return {line["step"]: line for line in map(json.loads, done.stdout.splitlines())}


def batch(*records: dict[str, Any]) -> dict[str, Any]:
    return {"ProductCode": "prod", "UsageRecords": list(records)}


def test_boto3_and_our_client_make_one_book(place: Sandbox) -> None:
    """
    Either member, decimals and wholes, allocations, and repetitions by value.
    """
    given_ = TAKEN | OTHER
    theirs = by_boto3(place, [(n, "batch_meter_usage", batch(r)) for n, r in given_.items()])
    metered = [(r.customer, r.quantity, r.allocations) for r in place.book.records]
    place.reset()

    async def by_us() -> dict[str, Any]:
        async with MarketplaceMeteringClient(**place.client_arguments) as client:
            return {
                name: (await client.batch_meter_usage([one], product_code="prod"))[0].service_status
                for name, one in given_.items()
            }

    ours = asyncio.run(by_us())

    said = {name: line["answer"]["Results"][0] for name, line in theirs.items()}
    assert {name: result["Status"] for name, result in said.items()} == ours
    assert ours == dict.fromkeys(TAKEN, "Success") | dict.fromkeys(OTHER, "DuplicateRecord")
    assert metered == [(r.customer, r.quantity, r.allocations) for r in place.book.records]
    assert {"requests": Decimal("10000000038.42")} == place.book.totals()
    for name, result in said.items():
        echoed = {n: v for n, v in result["UsageRecord"].items() if n.startswith("Quantity")}
        assert echoed == {n: v for n, v in given_[name].items() if n.startswith("Quantity")}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_boto3s_own_exception(place: Sandbox, name: str) -> None:
    """
    The whole request is refused, and the good record beside the bad one is not processed.
    """
    bad, code, modelled = REFUSED[name]

    said = by_boto3(place, [(name, "batch_meter_usage", batch(record(1, Quantity=1), bad))])[name]

    assert (code, modelled) == (said["code"], said["own"])
    assert 0 == len(place.book)


@pytest.mark.parametrize("name", REFUSED)
def test_our_client_sends_nothing_that_is_refused(place: Sandbox, name: str) -> None:
    """
    It is a verdict on that record alone, and its allocations get the type of their record.
    """
    bad, _, _ = REFUSED[name]

    async def by_us() -> Any:
        async with MarketplaceMeteringClient(**place.client_arguments) as client:
            return await client.batch_meter_usage([record(1, Quantity=1), bad], product_code="prod")

    good, other = asyncio.run(by_us())

    assert good.metered
    assert (name == "mixed") == bool(other.metered)
    assert other.metered or isinstance(other.error, InvalidRecordError)


@pytest.mark.parametrize(
    ("members", "booked"),
    [
        ({"UsageQuantity": 17}, 17),
        ({"UsageQuantityAsDecimal": "17.42"}, Decimal("17.42")),
        ({"UsageQuantityAsDecimal": "17.0"}, 17),
    ],
)
def test_boto3_and_our_client_meter_a_workload_alike(
    place: Sandbox, members: dict[str, Any], booked: Any
) -> None:
    """
    MeterUsage, each under its own credentials; both members together are refused.
    """
    usage = {"ProductCode": "prod", "Timestamp": HOUR.isoformat(), "UsageDimension": "requests"}
    both = {"UsageQuantity": 1, "UsageQuantityAsDecimal": "1"}
    said = by_boto3(
        place,
        [("one", "meter_usage", usage | members), ("both", "meter_usage", usage | both)],
    )

    async def by_us() -> Any:
        async with MarketplaceMeteringClient(**place.client_arguments) as client:
            return await client.meter_usage(
                product_code="prod",
                timestamp=HOUR,
                usage_dimension="requests",
                usage_quantity=booked,
            )

    ours = asyncio.run(by_us())

    assert "ValidationException" == said["both"]["code"]
    assert [booked, booked] == [record.quantity for record in place.book.records]
    assert said["one"]["answer"]["MeteringRecordId"]
    assert ours.metering_record_id


def test_what_our_records_say_boto3_takes(place: Sandbox) -> None:
    """
    `to_boto()` gives what the newest boto3 validates and sends.
    """
    made = [UsageRecord.from_boto(one) for one in list(TAKEN.values())[:6]]
    plain = [{**one.to_boto(), "Timestamp": HOUR.isoformat()} for one in made]

    said = by_boto3(place, [("all", "batch_meter_usage", batch(*plain))])["all"]

    assert ["Success"] * 6 == [result["Status"] for result in said["answer"]["Results"]]
    assert [one.quantity for one in made] == [one.quantity for one in place.book.records]
