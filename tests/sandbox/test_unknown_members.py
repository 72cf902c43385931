"""Members that the service's model does not have, or has of another type, at every level."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel, StructureShape

from marketplace_metering_async import MarketplaceMeteringClient
from marketplace_metering_async.client import shared_of
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.sandbox import Book, Principal, Refusal, Rules, Sandbox
from marketplace_metering_async.sandbox.service.parsing import MEMBERS

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
BUYER = "111122223333"
MODEL = ServiceModel(Loader().load_service_model("meteringmarketplace", "service-2"))

Request = dict[str, Any]


def allocations() -> list[Request]:
    tags = [{"Key": "team", "Value": "blue"}]
    return [{"AllocatedUsageQuantity": 5, "Tags": tags}]


def record(dimension: str = "requests") -> Request:
    return {
        "Timestamp": NOW.timestamp(),
        "CustomerAWSAccountId": BUYER,
        "Dimension": dimension,
        "Quantity": 5,
        "UsageAllocations": allocations(),
    }


BATCH: Request = {"ProductCode": "p", "UsageRecords": [record("seats"), record()]}
HOURLY: Request = {
    "ProductCode": "p",
    "Timestamp": NOW.timestamp(),
    "UsageDimension": "requests",
    "UsageQuantity": 5,
    "UsageAllocations": allocations(),
}
REGISTRATION: Request = {"ProductCode": "p", "PublicKeyVersion": 1}


def answered(book: Book, operation: str, request: Request) -> Request:
    """Return the reply of an operation; a refusal is raised."""
    match operation:
        case "BatchMeterUsage":
            return book.batch_meter_usage(request, now=NOW)
        case "MeterUsage":
            return book.meter_usage(request, now=NOW, principal=Principal())
        case "RegisterUsage":
            return dict(book.register_usage(request, now=NOW, principal=Principal()).claims)
        case _:
            return book.resolve_customer(request, now=NOW)


LEVELS: list[tuple[str, Request, Callable[[Request], Request], str]] = [
    ("BatchMeterUsage", BATCH, lambda r: r, ""),
    ("BatchMeterUsage", BATCH, lambda r: r["UsageRecords"][1], "usageRecords.2.member."),
    (
        "BatchMeterUsage",
        BATCH,
        lambda r: r["UsageRecords"][1]["UsageAllocations"][0],
        "usageRecords.2.member.usageAllocations.1.member.",
    ),
    (
        "BatchMeterUsage",
        BATCH,
        lambda r: r["UsageRecords"][1]["UsageAllocations"][0]["Tags"][0],
        "usageRecords.2.member.usageAllocations.1.member.tags.1.member.",
    ),
    ("MeterUsage", HOURLY, lambda r: r, ""),
    ("MeterUsage", HOURLY, lambda r: r["UsageAllocations"][0], "usageAllocations.1.member."),
    (
        "MeterUsage",
        HOURLY,
        lambda r: r["UsageAllocations"][0]["Tags"][0],
        "usageAllocations.1.member.tags.1.member.",
    ),
    ("RegisterUsage", REGISTRATION, lambda r: r, ""),
    ("ResolveCustomer", {}, lambda r: r, ""),
]
"""Operation, a request that is taken, the structure that gets one member more, and its path."""

levels = pytest.mark.parametrize(("operation", "request_", "structure", "path"), LEVELS)


def asked(book: Book, operation: str, request: Request) -> Request:
    """Return a request of one's own that *book* takes."""
    if operation == "ResolveCustomer":
        return {"RegistrationToken": book.issue_token("p", now=NOW, customer_aws_account_id=BUYER)}
    return deepcopy(request)


@levels
def test_a_member_that_the_model_does_not_have_refuses_the_request(
    operation: str, request_: Request, structure: Callable[[Request], Request], path: str
) -> None:
    """
    The whole request, at every level, by name; nothing is applied (it was booked as 0).
    """
    book = Book()
    request = asked(book, operation, request_)
    structure(request)["QuantityAsFraction"] = "17.42"

    with pytest.raises(Refusal) as caught:
        answered(book, operation, request)

    assert ("SerializationException", 400) == (caught.value.code, caught.value.status)
    assert f"{path}quantityAsFraction: " in caught.value.message
    assert "QuantityAsFraction" in caught.value.remedy
    assert ([], set()) == (book.records, book.workloads.registered)


def wrong_values(shape: Any) -> list[Any]:
    """Return a value of each type of JSON that *shape* is not."""
    values: dict[str, Any] = {
        "structure": {"Key": "a"},
        "list": [1],
        "string": "a",
        "boolean": True,
        "float": 1.5,
    }
    if shape.type_name in {"integer", "timestamp"}:
        values["float"] = "1.5"
    if shape.type_name == "timestamp":
        values["ages"] = 1e18
    values.pop(shape.type_name, None)
    if shape.type_name == "list":
        values["parts"] = [1]
    return list(values.values())


def shape_at(operation: str, path: str) -> Any:
    """Return the model of the structure at *path* of a request."""
    shape: Any = MODEL.operation_model(operation).input_shape
    for step in path.replace("member.", "").split("."):
        if step.isdigit():
            shape = shape.member
        elif step:
            shape = shape.members[step[0].upper() + step[1:]]
    return shape


@levels
def test_a_member_of_another_type_refuses_the_request(
    operation: str, request_: Request, structure: Callable[[Request], Request], path: str
) -> None:
    """
    Whichever member it is, at every level, as the model has it; nothing is applied.
    """
    for name, member in shape_at(operation, path).members.items():
        for value in wrong_values(member):
            book = Book()
            request = asked(book, operation, request_)
            structure(request)[name] = value

            with pytest.raises(Refusal) as caught:
                answered(book, operation, request)

            assert "SerializationException" == caught.value.code, (name, value)
            assert f"{path}{name[0].lower()}{name[1:]}" in caught.value.message, (name, value)
            assert ([], set()) == (book.records, book.workloads.registered)


def values_beyond(shape: Any) -> Iterator[Any]:
    """Yield values of the type of *shape* that are just outside what it allows."""
    limits = shape.metadata
    of_length: dict[str, Callable[[int], Any]] = {
        "string": "1".__mul__,
        "list": [{}].__mul__,
        "integer": int,
    }
    if (one := of_length.get(shape.type_name)) is None:
        return
    if "max" in limits:
        yield one(limits["max"] + 1)
    if "min" in limits and (shape.type_name == "integer" or limits["min"]):
        yield one(limits["min"] - 1)
    for odd in ("\u20ac", "\u0661", "a") if "pattern" in limits else ():
        if not re.fullmatch(limits["pattern"], odd):
            yield odd


@levels
def test_a_member_beyond_a_limit_of_the_model_refuses_the_request(
    operation: str, request_: Request, structure: Callable[[Request], Request], path: str
) -> None:
    """
    Each limit of each member, at every level, as the model has them; nothing is applied.
    """
    for name, member in shape_at(operation, path).members.items():
        for value in values_beyond(member):
            book = Book()
            request = asked(book, operation, request_)
            changed = structure(request)
            changed.pop(name.removesuffix("AsDecimal"), None)
            changed[name] = value

            with pytest.raises(Refusal) as caught:
                answered(book, operation, request)

            place = re.escape(f"{path}{name[0].lower()}{name[1:]}")
            assert 400 == caught.value.status, (name, value)
            assert re.search(f"{place}[':]", caught.value.message), (name, value)
            assert ([], set()) == (book.records, book.workloads.registered)


BLUE, RED = {"Key": "team", "Value": "blue"}, {"Key": "team", "Value": "red"}


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        ([[BLUE], [BLUE]], "InvalidUsageAllocationsException", "2.member: its tags are those of"),
        ([None, None], "InvalidUsageAllocationsException", "2.member: its tags are those of"),
        ([[BLUE, RED]], "InvalidTagException", "1.member.tags: a key is there twice"),
        ([[{"Key": "team"}]], "InvalidTagException", "1.member.value: not of 1 to 256"),
        ([[{"Value": "blue"}]], "InvalidTagException", "1.member.key: not of 1 to 100"),
    ],
)
def test_tags_name_one_share_each(parts: list[Any], code: str, says: str) -> None:
    """
    No two shares have the same tags, no share one key twice, and no tag is half there.
    """
    shares = [{"AllocatedUsageQuantity": 5, "Tags": tags} for tags in parts]
    whole = record() | {"Quantity": 5 * len(parts), "UsageAllocations": shares}

    with pytest.raises(Refusal, match=says) as caught:
        Book().batch_meter_usage({"ProductCode": "p", "UsageRecords": [whole]}, now=NOW)

    assert code == caught.value.code


@levels
def test_a_switch_lets_unknown_members_pass(
    operation: str, request_: Request, structure: Callable[[Request], Request], path: str
) -> None:
    """
    They are ignored, and the answer repeats none of a record's.
    """
    del path
    book, plain = Book(rules=Rules(unknown_members="ignore")), Book()
    request = asked(book, operation, request_)
    structure(request)["QuantityAsFraction"] = "17.42"

    reply = answered(book, operation, request)

    answered(plain, operation, asked(plain, operation, request_))
    assert plain.totals() == book.totals()
    of_records = [result["UsageRecord"].keys() for result in reply.get("Results", ())]
    assert not any("QuantityAsFraction" in members for members in of_records)


@pytest.mark.parametrize("value", [None, 0, "", [], {}])
def test_the_name_decides_and_not_the_value(value: object) -> None:
    """
    A member that is null, or empty, is as unknown as any other.
    """
    with pytest.raises(Refusal, match="SerializationException"):
        Book().batch_meter_usage({**BATCH, "DryRun": value}, now=NOW)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [("BatchMeterUsage", BATCH), ("MeterUsage", HOURLY), ("RegisterUsage", REGISTRATION)],
)
def test_letter_case_counts(operation: str, request_: Request) -> None:
    """
    As in the service's model.
    """
    request = {**request_, "productCode": request_["ProductCode"]}

    with pytest.raises(Refusal, match="SerializationException"):
        answered(Book(), operation, request)


def test_a_missing_quantity_is_still_none() -> None:
    """
    By the service's model it defaults to 0, in both operations.
    """
    book = Book()
    usage = {name: record()[name] for name in ("Timestamp", "CustomerAWSAccountId", "Dimension")}
    hourly = {name: HOURLY[name] for name in ("ProductCode", "Timestamp", "UsageDimension")}

    reply = book.batch_meter_usage({"ProductCode": "p", "UsageRecords": [usage]}, now=NOW)
    book.meter_usage(hourly, now=NOW, principal=Principal())

    assert ["Success"] == [result["Status"] for result in reply["Results"]]
    assert [0, 0] == [metered.quantity for metered in book.records]


@pytest.mark.parametrize(
    "name", ["", BUYER, "arn:aws:license-manager::1:license:l-1", "a b", "\ud800", "x" * 65]
)
def test_a_name_that_is_none_is_not_repeated(name: str) -> None:
    """
    Clients put the message into their logs: it names no customer and no license.
    """
    with pytest.raises(Refusal) as caught:
        Book().batch_meter_usage({**BATCH, name: 1}, now=NOW)

    said = f"{caught.value.message} {caught.value.remedy}"
    assert caught.value.message.startswith("the request: ")
    assert not name or name not in said


def test_the_members_are_those_of_the_service_s_model() -> None:
    """
    Of every structure that a request is made of: no more and no fewer.
    """
    shapes: dict[str, frozenset[str]] = {}

    def walk(name: str, shape: Any) -> None:
        if shape.type_name == "list":
            walk(shape.member.name, shape.member)
        elif isinstance(shape, StructureShape) and name not in shapes:
            shapes[name] = frozenset(shape.members)
            for member in shape.members.values():
                walk(member.name, member)

    for operation in MODEL.operation_names:
        walk(operation, MODEL.operation_model(operation).input_shape)

    if "QuantityAsDecimal" not in shapes["UsageRecord"]:  # of before October 2026
        for name in ("UsageRecord", "UsageAllocation", "MeterUsage"):
            shapes[name] |= {one for one in MEMBERS[name] if one.endswith("AsDecimal")}
    assert shapes == MEMBERS


async def test_the_answer_has_the_service_s_shape() -> None:
    """
    A status of 400 with code and message, as for a member of another type; on the page as well.
    """
    body = json.dumps({**BATCH, "QuantityAsFraction": "17.42"}).encode()
    async with (
        Sandbox() as sandbox,
        MarketplaceMeteringClient(**sandbox.client_arguments) as client,
    ):
        await client.endpoint()
        with pytest.raises(MarketplaceMeteringException) as caught:
            await shared_of(client).connection.call("BatchMeterUsage", body)

    assert ("SerializationException", 400) == (caught.value.code, caught.value.status)
    assert "quantityAsFraction" in caught.value.message
    (call,) = sandbox.history
    assert "QuantityAsFraction" in str(call.remedy)
    assert 0 == len(sandbox.book)
