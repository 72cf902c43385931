"""Decimal quantities: the service model's rules, since October 2026, for every operation."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import MarketplaceMeteringClient, RecordStatus, UsageRecord
from marketplace_metering_async.sandbox import (
    Book,
    Fault,
    FaultKind,
    Principal,
    Refusal,
    Rules,
    Sandbox,
)
from marketplace_metering_async.sandbox.page.view import View

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
PART, PART_AS_DECIMAL = "AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal"


def record(customer: int = 1, **members: Any) -> dict[str, Any]:
    return {
        "Timestamp": int(NOW.timestamp()) - 3600,
        "CustomerAWSAccountId": f"{customer:012d}",
        "Dimension": "requests",
        **members,
    }


def send(book: Book, *records: Any) -> dict[str, Any]:
    request = {"ProductCode": "p", "UsageRecords": list(records)}
    return book.batch_meter_usage(request, now=NOW, region="us-east-1")


def tagged(value: str, **amount: Any) -> dict[str, Any]:
    return {**amount, "Tags": [{"Key": "team", "Value": value}]}


@pytest.mark.parametrize(
    ("members", "booked"),
    [
        ({}, 0),
        ({"Quantity": 17}, 17),
        ({"QuantityAsDecimal": "17"}, 17),
        ({"QuantityAsDecimal": "17.00"}, 17),
        ({"QuantityAsDecimal": "17.420001"}, Decimal("17.420001")),
        ({"QuantityAsDecimal": "9999999999.999999"}, Decimal("9999999999.999999")),
        ({"Quantity": None, "QuantityAsDecimal": "0.5"}, Decimal("0.5")),
        ({"Quantity": 3, "UsageAllocations": [tagged("a", **{PART: 3})]}, 3),
        (
            {
                "QuantityAsDecimal": "1",
                "UsageAllocations": [
                    tagged("a", **{PART_AS_DECIMAL: "0.7"}),
                    tagged("b", **{PART_AS_DECIMAL: "0.30"}),
                ],
            },
            1,
        ),
        ({"UsageAllocations": [{PART_AS_DECIMAL: "0"}]}, 0),
        ({"UsageAllocations": [{PART: 0}]}, 0),
    ],
)
def test_either_member_is_booked_by_value(members: dict[str, Any], booked: Any) -> None:
    """
    An int where it is whole, and the answer repeats what was given.
    """
    book, given_ = Book(), record(**members)

    (result,) = send(book, given_)["Results"]

    assert [(type(booked), booked)] == [(type(r.quantity), r.quantity) for r in book.records]
    assert {n: v for n, v in given_.items() if v is not None} == result["UsageRecord"]


@pytest.mark.parametrize(
    ("members", "code", "says"),
    [
        ({"Quantity": 17, "QuantityAsDecimal": "17"}, "ValidationException", "exclude each other"),
        ({"QuantityAsDecimal": 17}, "SerializationException", "a string"),
        ({"Quantity": "17"}, "SerializationException", "an integer"),
        ({"Quantity": 17.5}, "SerializationException", "an integer"),
        *(
            ({"QuantityAsDecimal": text}, "ValidationException", "regular expression")
            for text in ["", "017", "1e3", "1,5", "-1", " 5", ".5", "5.", "0.1234567", "9" * 11]
        ),
        (
            {"Quantity": 1, "UsageAllocations": [{PART_AS_DECIMAL: "1"}]},
            "InvalidUsageAllocationsException",
            "not of the type",
        ),
        (
            {"QuantityAsDecimal": "1", "UsageAllocations": [{PART: 1}]},
            "InvalidUsageAllocationsException",
            "not of the type",
        ),
        (
            {"UsageAllocations": [{PART: 0}, tagged("a", **{PART_AS_DECIMAL: "0"})]},
            "InvalidUsageAllocationsException",
            "not of the type",
        ),
        (
            {"Quantity": 1, "UsageAllocations": [{PART: 1, PART_AS_DECIMAL: "1"}]},
            "ValidationException",
            "exclude each other",
        ),
        ({"Quantity": 0, "UsageAllocations": [{}]}, "ValidationException", "must not be null"),
        (
            {"QuantityAsDecimal": "0.3", "UsageAllocations": [{PART_AS_DECIMAL: "0.300001"}]},
            "InvalidUsageAllocationsException",
            "do not add up",
        ),
    ],
)
def test_any_breach_refuses_the_whole_request(
    members: dict[str, Any], code: str, says: str
) -> None:
    """
    Nothing of it is processed, not the good records either.
    """
    book = Book()

    with pytest.raises(Refusal) as caught:
        send(book, record(1, Quantity=1), record(2, **members))

    assert code == caught.value.code
    assert says in caught.value.message
    assert 0 == len(book)


@pytest.mark.parametrize(
    "again", [{"Quantity": 17}, {"QuantityAsDecimal": "17.0"}, {"QuantityAsDecimal": "17.00"}]
)
def test_a_repetition_is_known_by_value(again: dict[str, Any]) -> None:
    """
    17, 17.0 and 17.00 are one quantity, in whichever member.
    """
    book = Book(rules=Rules(identical_resend="success"))
    (first,) = send(book, record(Quantity=17))["Results"]

    (same,) = send(book, record(**again))["Results"]
    (other,) = send(book, record(QuantityAsDecimal="17.000001"))["Results"]

    assert first["MeteringRecordId"] == same["MeteringRecordId"]
    assert "DuplicateRecord" == other["Status"]
    assert {"requests": 17} == book.totals()


@given(st.lists(st.integers(0, 10**16 - 1), min_size=1, max_size=25))
def test_sums_are_exact(numbers: list[int]) -> None:
    """
    In the book, its comparisons and the page, to the last millionth.
    """
    book = Book()
    texts = [f"{number // 10**6}.{number % 10**6:06d}" for number in numbers]
    send(book, *(record(n, QuantityAsDecimal=text) for n, text in enumerate(texts)))
    expected = Decimal(sum(numbers)).scaleb(-6)

    (total,) = book.totals().values()

    assert expected == total
    assert (type(total) is int) == (sum(numbers) % 10**6 == 0)
    case, by = ("p", "requests"), ("product_code", "dimension")
    assert [] == book.differences({case: expected}, by=by)
    assert 1 == len(book.differences({case: expected + Decimal("0.000001")}, by=by))


@pytest.mark.parametrize(
    ("members", "refused"),
    [
        ({"Quantity": 17}, False),
        ({"QuantityAsDecimal": "17.000"}, False),
        ({"QuantityAsDecimal": "17.5"}, True),
        (
            {
                "QuantityAsDecimal": "1",
                "UsageAllocations": [
                    tagged("a", **{PART_AS_DECIMAL: "0.5"}),
                    tagged("b", **{PART_AS_DECIMAL: "0.5"}),
                ],
            },
            True,
        ),
    ],
)
def test_a_product_may_take_whole_quantities_only(
    members: dict[str, Any],
    refused: bool,  # noqa: FBT001
) -> None:
    """
    Whether it has to allow decimals is not published; by default it has not.
    """
    send(Book(), record(**members))
    strict = Book(rules=Rules(fractions="refused"))
    with pytest.raises(Refusal, match="whole quantities only") if refused else nullcontext():
        send(strict, record(**members))


@pytest.mark.parametrize(
    ("reading", "given_", "echoed"),
    [
        ("integer", {"QuantityAsDecimal": "17.0"}, {"Quantity": 17}),
        ("integer", {"QuantityAsDecimal": "0.50"}, {"QuantityAsDecimal": "0.5"}),
        ("integer", {"QuantityAsDecimal": "2147483648"}, {"QuantityAsDecimal": "2147483648"}),
        ("decimal", {"Quantity": 17}, {"QuantityAsDecimal": "17"}),
        ("both", {"Quantity": 17}, {"Quantity": 17, "QuantityAsDecimal": "17"}),
        ("both", {"QuantityAsDecimal": "0.5"}, {"QuantityAsDecimal": "0.5"}),
        ("both", {}, {}),
        (
            "decimal",
            {"Quantity": 1, "UsageAllocations": [{PART: 1}]},
            {"QuantityAsDecimal": "1", "UsageAllocations": [{PART_AS_DECIMAL: "1"}]},
        ),
    ],
)
def test_the_member_of_the_echo_can_be_chosen(
    reading: str, given_: dict[str, Any], echoed: dict[str, Any]
) -> None:
    """
    In which one the service repeats a quantity is not published.
    """
    book = Book(rules=Rules(echo_member=reading))  # type: ignore[arg-type]

    (result,) = send(book, record(**given_))["Results"]

    assert record(**echoed) == result["UsageRecord"]


@pytest.mark.parametrize("reading", ["given", "integer", "decimal", "both"])
@pytest.mark.parametrize("filled", ["given", "filled"])
async def test_our_client_reads_every_echo(reading: Any, filled: Any) -> None:
    """
    By value over both members; one that was altered proves nothing.
    """
    quantities: list[Any] = [17, "0.5", "17.420001", 2**31, 0]
    records = [
        UsageRecord(
            timestamp=datetime.now(UTC),
            dimension="requests",
            quantity=quantity,
            customer_aws_account_id=f"{n:012d}",
            product_code="p",
        )
        for n, quantity in enumerate(quantities)
    ]
    sandbox = Sandbox(rules=Rules(echo_member=reading, echo=filled), calls_per_second=None)
    async with sandbox, MarketplaceMeteringClient(**sandbox.client_arguments) as client:
        result = await client.batch_meter_usage(records)
        sandbox.reset()
        sandbox.inject(Fault(kind=FaultKind.ALTER, max_hits=1))
        altered = await client.batch_meter_usage(records[1:2], timeout=1)

    assert {RecordStatus.SUCCESS: 5} == result.counts
    assert 1 == result.calls
    assert [None] == [one.metered for one in altered]


def meter(book: Book, **members: Any) -> str:
    request = {
        "ProductCode": "p",
        "Timestamp": NOW.timestamp(),
        "UsageDimension": "requests",
        **members,
    }
    try:
        return str(book.meter_usage(request, now=NOW, principal=Principal())["MeteringRecordId"])
    except Refusal as refusal:
        return refusal.code


def test_meter_usage_has_the_same_rules() -> None:
    """
    Both members, mixed allocations, repetitions and tokens by value.
    """
    book = Book()
    first = meter(book, UsageQuantityAsDecimal="17.00")

    assert first == meter(book, UsageQuantity=17)
    assert "DuplicateRequestException" == meter(book, UsageQuantityAsDecimal="17.1")
    assert "ValidationException" == meter(book, UsageQuantity=17, UsageQuantityAsDecimal="17")
    mixed = [{PART: 17}]
    assert "InvalidUsageAllocationsException" == meter(
        book, UsageQuantityAsDecimal="17", UsageAllocations=mixed
    )
    book.rules = Rules(fractions="refused")
    assert "ValidationException" == meter(book, UsageQuantityAsDecimal="0.5")
    assert {"requests": 17} == book.totals()


def test_a_client_token_goes_with_quantities_by_value() -> None:
    """
    A retry may use the other member; another value is another request.
    """
    book = Book()
    share = {"UsageQuantityAsDecimal": "17.5", "UsageAllocations": [{PART_AS_DECIMAL: "17.50"}]}
    first = meter(book, ClientToken="t", **share)
    same = {"UsageQuantityAsDecimal": "17.500", "UsageAllocations": [{PART_AS_DECIMAL: "17.5"}]}
    whole = meter(book, ClientToken="u", UsageDimension="seats", UsageQuantity=3)

    assert first == meter(book, ClientToken="t", **same)
    again = {"UsageDimension": "seats", "UsageQuantityAsDecimal": "3.0"}
    assert whole == meter(book, ClientToken="u", **again)
    assert "IdempotencyConflictException" == meter(book, ClientToken="t", UsageQuantity=17)


async def test_decimals_outlive_the_process_and_are_shown(tmp_path: Path) -> None:
    """
    State file, controls, copies and page: the exact value, in JSON as text.
    """
    usage = record(
        QuantityAsDecimal="1234567890.000001",
        UsageAllocations=[{PART_AS_DECIMAL: "1234567890.000001"}],
    )
    exact = Decimal("1234567890.000001")
    for _ in range(2):
        async with Sandbox(state=tmp_path / "state") as sandbox:
            if not sandbox.book.records:
                send(sandbox.book, usage)
            (booked,) = sandbox.book.records
            assert (exact, (((), exact),)) == (booked.quantity, booked.allocations)
            shown = await View(sandbox, sandbox).figures(by=["hour"], search="", monotonic=0.0)
            told = json.loads(json.dumps(shown))
            assert "1234567890.000001" == told["units"]["units"][0]["quantity"]
            assert "1234567890.000001" == told["usage"]["rows"][0]["quantity"]


@pytest.mark.parametrize(
    ("quantity", "members", "booked"),
    [
        (17, {"UsageQuantity": 17}, 17),
        ("17.0", {"UsageQuantity": 17}, 17),
        ("17.420", {"UsageQuantityAsDecimal": "17.42"}, "17.42"),
        (2**31, {"UsageQuantityAsDecimal": "2147483648"}, 2**31),
    ],
)
async def test_our_client_meters_a_workload(
    quantity: Any, members: dict[str, Any], booked: Any
) -> None:
    """
    MeterUsage with either member, in canonical text; the controls tell the exact sum.
    """
    async with (
        Sandbox() as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments) as client,
    ):
        result = await client.meter_usage(
            product_code="p",
            timestamp=datetime.now(UTC),
            usage_dimension="d",
            usage_quantity=quantity,
        )
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{sandbox.url}/_sandbox/book", params={"records": 1}) as response,
        ):
            book = await response.json()

    (call,) = sandbox.history
    assert result.metering_record_id
    assert call.request is not None
    assert members == {n: v for n, v in call.request.items() if "Quantity" in n}
    assert {"d": booked} == book["totals"]
    assert booked == book["records"][0]["quantity"]
