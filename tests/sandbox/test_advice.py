"""Advice: each thing is found where it is, and nothing where all is well."""

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox, SandboxClock
from marketplace_metering_async.sandbox.conformance.http_client import HttpClient
from marketplace_metering_async.testing import SandboxServer, SandboxThread

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
HOUR = datetime(2026, 11, 23, 11, tzinfo=UTC)
BUYER = "111122223333"


@pytest.fixture
def place() -> Any:
    with SandboxThread(Sandbox(clock=SandboxClock(NOW, speed=0), calls_per_second=None)) as running:
        yield running.sandbox


def send(place: Sandbox, *records: dict[str, Any], region: str = "us-east-1") -> None:
    """Send as a client that neither retries nor looks at what comes back."""
    client = boto3.client(
        "meteringmarketplace",
        **{**place.client_arguments, "region_name": region},
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        client.batch_meter_usage(ProductCode="p", UsageRecords=list(records))
    except (BotoCoreError, ClientError):
        pass
    finally:
        client.close()


def record(quantity: int = 1, at: datetime = HOUR, **members: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"Dimension": "requests", "CustomerAWSAccountId": BUYER}
    return {**common, "Timestamp": at, "Quantity": quantity, **members}


def buyers(count: int) -> list[dict[str, Any]]:
    return [record(CustomerAWSAccountId=f"{number:012d}") for number in range(count)]


def about(place: Sandbox) -> dict[str, int]:
    return {one.about: one.count for one in place.advice()}


def test_records_left_behind(place: Sandbox) -> None:
    """
    Until they are sent again, and then no more.
    """
    place.inject(Fault(kind=FaultKind.UNPROCESSED, records=[1, 2], max_hits=1))
    send(place, *buyers(5))
    assert {"unprocessed-not-sent-again": 2} == about(place)
    send(place, buyers(5)[1])
    assert {"unprocessed-not-sent-again": 1} == about(place)
    send(place, buyers(5)[2])
    assert {} == about(place)


def test_a_second_quantity_for_an_hour(place: Sandbox) -> None:
    """
    A resend of the same is none, in whichever member and form.
    """
    send(place, record(5))
    send(place, record(5, at=HOUR + timedelta(minutes=5)))
    same = {**record(), "Timestamp": int(HOUR.timestamp()), "QuantityAsDecimal": "5.0"}
    del same["Quantity"]
    request = {"ProductCode": "p", "UsageRecords": [same]}
    HttpClient(place.url).call("BatchMeterUsage", request, "us-east-1")
    assert {"DuplicateRecord": 2, "Success": 1} == dict(place.book.statuses)
    assert {} == about(place)
    send(place, record(7, at=HOUR + timedelta(minutes=5)))
    (advice,) = place.advice()
    assert ("second-quantity-for-an-hour", 1, (4,)) == (advice.about, advice.count, advice.calls)


@pytest.mark.parametrize("kind", ["error-500", "error-500-after", "reset-after", "garbage"])
def test_other_content_after_a_lost_answer(place: Sandbox, kind: str) -> None:
    """
    The same content is right; a throttle and a refusal leave nothing behind.
    """
    place.inject(Fault(kind=kind, max_hits=1))
    send(place, record(5))
    send(place, record(5))
    place.inject(Fault(kind=FaultKind.THROTTLE, max_hits=1))
    send(place, record(5, at=HOUR - timedelta(hours=1)))
    send(place, record(6, at=HOUR - timedelta(hours=1)))
    assert {} == about(place)
    place.inject(Fault(kind=kind, max_hits=1))
    send(place, record(5, at=HOUR - timedelta(hours=2)))
    send(place, record(6, at=HOUR - timedelta(hours=2)))
    assert 1 == about(place)["retried-with-other-content"]


def test_stamps_of_the_moment(place: Sandbox) -> None:
    """
    Not those of an hour's start, though it may be now; and a few are no habit.
    """
    send(place, *(record(Dimension=f"d{number}", at=NOW) for number in range(2)))
    send(place, *(record(Dimension=f"d{number}", at=HOUR) for number in range(9)))
    assert {} == about(place)
    send(place, record(Dimension="d2", at=NOW - timedelta(seconds=2)))
    assert {"stamped-with-the-time-of-sending": 3} == about(place)
    place.clock.set(HOUR)
    send(place, *(record(Dimension=f"e{number}", at=HOUR) for number in range(9)))
    assert {"stamped-with-the-time-of-sending": 3} == about(place)


def test_a_quantity_that_got_lost(place: Sandbox) -> None:
    """
    As an SDK loses it that does not know the member; 0 units are said to be 0.
    """
    nothing = record(Dimension="seats")
    del nothing["Quantity"]
    send(place, record(0))
    assert {} == about(place)
    send(place, nothing)
    assert {"no-quantity": 1} == about(place)


def test_one_record_a_call(place: Sandbox) -> None:
    """
    Ten within a minute are a habit; spread over hours they are not.
    """
    for one in buyers(12):
        place.advance(seconds=30)
        send(place, one)
    assert {} == about(place)
    for one in buyers(22)[12:]:
        place.advance(seconds=5)
        send(place, one)
    assert 10 <= about(place)["one-record-a-call"] <= 13


@pytest.mark.parametrize("wrong", ["1,5", "ten", [1], {"a": None}, True])
def test_a_quantity_that_was_refused_spoils_no_advice(place: Sandbox, wrong: object) -> None:
    """
    It stays in the calls that are looked at: page and advice answered 500 for two hundred calls.
    """
    odd = {**record(), "Timestamp": HOUR.timestamp(), "Quantity": wrong}
    odd["UsageAllocations"] = [{"AllocatedUsageQuantity": wrong}]
    members = {"ProductCode": "p", "UsageRecords": [odd]}
    refused = HttpClient(place.url, "AK", "secret").call("BatchMeterUsage", members, "us-east-1")

    assert refused.code in {"ValidationException", "SerializationException"}
    assert {} == about(place)


def test_both_identity_schemes_and_two_regions(place: Sandbox) -> None:
    """
    Whatever is on file more than once, with the first of it.
    """
    place.declare_product("p")
    place.subscribe("p", BUYER, customer_identifier="c-1", begins=HOUR - timedelta(hours=9))
    send(place, record())
    assert {} == about(place)
    legacy = record(CustomerIdentifier="c-1")
    del legacy["CustomerAWSAccountId"]
    send(place, legacy)
    (advice,) = place.advice()
    assert "billed-twice" == advice.about
    assert "product code and customer identifier" in advice.says


def test_a_server_tells_the_same(place: Sandbox) -> None:
    """
    Over HTTP.
    """
    place.inject(Fault(kind=FaultKind.UNPROCESSED, records=[0], max_hits=1))
    send(place, record())
    server = SandboxServer()
    server.url = place.url

    assert place.advice() == server.advice()
    assert 1 == len(server.advice())
