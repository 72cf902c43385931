"""What only the live service can answer: each reading can be chosen, and none bills unseen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketplace_metering_async.sandbox import Book, Product, Refusal, Rules
from marketplace_metering_async.sandbox.as_json import as_json, from_json

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
HOUR = datetime(2026, 11, 23, 11, tzinfo=UTC)
ALLOCATED = [{"AllocatedUsageQuantity": 5}]


def record(at: datetime = HOUR, **members: Any) -> dict[str, Any]:
    return {
        "Timestamp": at.timestamp(),
        "CustomerAWSAccountId": "111122223333",
        "Dimension": "requests",
        "Quantity": 5,
        **members,
    }


def book_with(**rules: Any) -> Book:
    return Book(rules=Rules(**rules))


def answer(book: Book, *records: Any, now: datetime = NOW, region: str = "us-east-1") -> list[str]:
    """Return a word for each record: its status, or "Unprocessed", or the code of a refusal."""
    request = {"ProductCode": "p", "UsageRecords": list(records)}
    try:
        reply = book.batch_meter_usage(request, now=now, region=region)
    except Refusal as refusal:
        return [refusal.code]
    return [r["Status"] for r in reply["Results"]] + ["Unprocessed"] * len(
        reply["UnprocessedRecords"]
    )


@pytest.mark.parametrize(
    ("reading", "status"), [("hour", "DuplicateRecord"), ("timestamp", "Success")]
)
def test_the_key_is_the_hour_or_the_timestamp(reading: str, status: str) -> None:
    """
    U1. By the timestamp the same hour can be billed twice, and the book tells.
    """
    book = book_with(key_by=reading)
    answer(book, record())

    assert [status] == answer(book, record(HOUR + timedelta(minutes=1)))
    assert (status == "Success") == bool(book.double_billed())


@pytest.mark.parametrize(
    ("resend", "means", "again", "allocated"),
    [
        ("duplicate", "all", "DuplicateRecord", "DuplicateRecord"),
        ("success", "all", "Success", "DuplicateRecord"),
        ("success", "quantity", "Success", "Success"),
    ],
)
def test_an_identical_resend(resend: str, means: str, again: str, allocated: str) -> None:
    """
    U2 and U3. Success brings the old id; allocations belong to it or not; nothing is added.
    """
    book = book_with(identical_resend=resend, identical_means=means)
    answer(book, record())

    assert [again] == answer(book, record())
    assert [allocated] == answer(book, record(UsageAllocations=ALLOCATED))
    assert ["DuplicateRecord"] == answer(book, record(Quantity=6))
    assert {"requests": 5} == book.totals()


@pytest.mark.parametrize(
    ("rules", "at", "taken"),
    [
        ({}, NOW - timedelta(hours=24), False),
        ({"age_edge": "taken"}, NOW - timedelta(hours=24), True),
        ({"age_edge": "taken"}, NOW - timedelta(hours=24, seconds=1), False),
        ({}, NOW - timedelta(hours=23, minutes=45), True),
        ({"age_from": "hour"}, NOW - timedelta(hours=23, minutes=45), False),
        ({"future": 300}, NOW + timedelta(minutes=5), True),
        ({"future": 300}, NOW + timedelta(minutes=5, seconds=1), False),
        ({"age": 3600}, NOW - timedelta(hours=1), False),
    ],
)
def test_the_edges_of_the_window(rules: dict[str, Any], at: datetime, *, taken: bool) -> None:
    """
    U4. Inclusive or not, from the timestamp or its hour, with or without tolerance.
    """
    expected = "Success" if taken else "TimestampOutOfBoundsException"

    assert [expected] == answer(book_with(**rules), record(at))


def test_a_key_twice_in_one_request() -> None:
    """
    U5. The request is refused, or the second one is a duplicate.
    """
    both = (record(), record(Quantity=6))

    assert ["ValidationException"] == answer(book_with(), *both)
    lenient = book_with(repeated_key="duplicate", result_order="given")
    assert ["Success", "DuplicateRecord"] == answer(lenient, *both)
    assert {"requests": 5} == lenient.totals()


def test_two_requests_at_one_instant() -> None:
    """
    U6. The second one may be left unprocessed; a moment later it is answered.
    """
    book = book_with(same_instant=2)
    answer(book, record())

    assert ["Unprocessed"] == answer(book, record())
    assert ["DuplicateRecord"] == answer(book, record(), now=NOW + timedelta(seconds=2))


def test_a_key_may_be_forgotten() -> None:
    """
    U7. Then the same usage is billed again, and both records are on file.
    """
    book = book_with(key_memory=3600)
    answer(book, record())

    assert ["DuplicateRecord"] == answer(book, record(), now=NOW + timedelta(minutes=59))
    assert ["Success"] == answer(book, record(), now=NOW + timedelta(hours=1))
    assert (2, {"requests": 10}) == (len(book), book.totals())
    assert 1 == len(book.double_billed())


@pytest.mark.parametrize(("taken", "status"), [(False, "Success"), (True, "DuplicateRecord")])
def test_not_subscribed_may_take_the_key(*, taken: bool, status: str) -> None:
    """
    U8. The service's pages say that a later submission succeeds.
    """
    book = book_with(not_subscribed_takes_key=taken)
    book.catalogue.suspended.add("111122223333")
    book.products["p"] = Product()
    assert ["CustomerNotSubscribed"] == answer(book, record())
    book.catalogue.suspended.clear()

    assert [status] == answer(book, record())
    assert ["Success"] == answer(book, record(Dimension="other"))


@pytest.mark.parametrize(("order", "back"), [("reversed", True), ("given", False)])
def test_results_come_in_an_order_of_their_own(order: str, *, back: bool) -> None:
    """
    U10. None is promised.
    """
    request = {
        "ProductCode": "p",
        "UsageRecords": [record(Dimension=name) for name in ("a", "b", "c")],
    }
    reply = book_with(result_order=order).batch_meter_usage(request, now=NOW)
    names = [result["UsageRecord"]["Dimension"] for result in reply["Results"]]

    assert sorted("abc", reverse=back) == names


def test_an_answer_may_fill_in_what_was_left_out() -> None:
    """
    U10. The echo has a quantity, and whole seconds.
    """
    given = record(HOUR + timedelta(milliseconds=500))
    del given["Quantity"]
    request = {"ProductCode": "p", "UsageRecords": [given]}
    (filled,) = book_with(echo="filled").batch_meter_usage(request, now=NOW)["Results"]
    (plain,) = book_with().batch_meter_usage(request, now=NOW)["Results"]

    assert given == plain["UsageRecord"]
    whole = int(HOUR.timestamp())
    assert given | {"Quantity": 0, "Timestamp": whole} == filled["UsageRecord"]


def test_a_key_counts_in_its_region_or_everywhere() -> None:
    """
    In its region, as AWS's own pipeline has it; then two regions bill twice.
    """
    by_region, everywhere = book_with(), book_with(key_scope="everywhere")
    for book in (by_region, everywhere):
        answer(book, record())

    assert ["Success"] == answer(by_region, record(), region="eu-west-1")
    assert ["DuplicateRecord"] == answer(everywhere, record(), region="eu-west-1")
    assert 1 == len(by_region.double_billed())


@pytest.mark.parametrize(
    ("rules", "keys", "code"),
    [
        ({}, 6, "Success"),
        ({"tags_counted": "record"}, 6, "InvalidTagException"),
        ({"tags_counted": "record"}, 5, "Success"),
    ],
)
def test_tags_are_counted_in_an_allocation_or_in_the_record(
    rules: dict[str, Any], keys: int, code: str
) -> None:
    """
    Over two allocations.
    """
    allocations = [
        {
            "AllocatedUsageQuantity": quantity,
            "Tags": [{"Key": str(n), "Value": "v"} for n in numbers],
        }
        for numbers, quantity in ((range(3), 2), (range(3, keys), 3))
    ]

    assert [code] == answer(book_with(**rules), record(UsageAllocations=allocations))


@pytest.mark.parametrize(
    ("rules", "text", "code"),
    [
        ({}, "a!b", "Success"),
        ({"tag_characters": "prose"}, "a!b", "InvalidTagException"),
        ({"tag_characters": "prose"}, "a b+-=._:/@", "Success"),
        ({}, "a\\b", "InvalidTagException"),
    ],
)
def test_the_characters_of_tags(rules: dict[str, Any], text: str, code: str) -> None:
    """
    The pattern of the service's model takes more than its prose, and less: no backslash.
    """
    allocations = [{"AllocatedUsageQuantity": 5, "Tags": [{"Key": "k", "Value": text}]}]

    assert [code] == answer(book_with(**rules), record(UsageAllocations=allocations))


def test_rules_go_through_json_and_back() -> None:
    """
    Times in seconds; what is no reading, or no rule, is refused.
    """
    rules = Rules(age=timedelta(hours=6), key_by="timestamp", regions=["us-east-1"])

    assert rules == from_json(Rules, as_json(rules))
    assert rules == Rules().changed(as_json(rules))
    for wrong in ({"key_by": "day"}, {"age": -1}, {"not_subscribed_takes_key": "yes"}, {"x": 1}):
        with pytest.raises((ValueError, TypeError)):
            Rules().changed(wrong)


@pytest.mark.parametrize(
    ("reading", "word"),
    [("refuse", "InvalidCustomerIdentifierException"), ("status", "CustomerNotSubscribed")],
)
def test_an_unknown_customer(reading: str, word: str) -> None:
    """
    The service's pages list it under both the error and the status.
    """
    book = book_with(unknown_customer=reading)
    book.products["p"] = Product(customers={"999999999999": True})

    assert [word] == answer(book, record())
