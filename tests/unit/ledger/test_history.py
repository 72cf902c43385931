"""The story of every hour: what is asked for, and what rows mean."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from marketplace_metering_async.ledger.history import (
    HistoryPlace,
    HistoryQuery,
    entry_of,
    page_of,
    stranded_entry_of,
)
from marketplace_metering_async.ledger.model import HourState

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
KEY: dict[str, Any] = {
    "product_code": "product",
    "customer_aws_account_id": "111122223333",
    "customer_identifier": "",
    "license_arn": "",
    "license_product": "",
    "dimension": "requests",
}


def test_a_month_is_one_of_utc() -> None:
    """
    Whatever zone its moment is given in.
    """
    first, end = (int(datetime(2026, m, 1, tzinfo=UTC).timestamp()) for m in (11, 12))
    moment = datetime(2026, 12, 1, 2, tzinfo=timezone(timedelta(hours=3)))

    assert (first, end) == (HistoryQuery.of(moment).first, HistoryQuery.of(moment).end)
    assert 0 == HistoryQuery.of(None).first
    assert NOON < HistoryQuery.of(None).end


def test_only_members_that_are_given_are_asked_for() -> None:
    """
    An empty text is one: of those that have none.
    """
    query = HistoryQuery.of(None, product_code="product", license_arn=None, dimension="")

    assert {"product_code": "product", "dimension": ""} == query.members


def test_an_hour_is_told_with_what_it_carried_and_its_attempts() -> None:
    """
    In units and in times of UTC.
    """
    row = KEY | {
        "hour": NOON,
        "state": "metered",
        "quantity": 7_000_000,
        "events": 2,
        "stamp": NOON + 60,
        "sealed_at": NOON + 4200,
        "region_name": "us-east-1",
        "digest": b"\x01\xff",
        "settled_at": NOON + 4300,
        "metering_record_id": "id",
        "reason": None,
        "in_doubt": 1,
        "hour_id": 7,
    }
    attempt = {
        "at": NOON + 4300,
        "status": "Success",
        "error": None,
        "request_id": "request",
        "metering_record_id": "id",
    }
    carried = {"origin": NOON - 3600, "quantity": 3_000_000, "events": 1}
    said = {"at": NOON, "before": "conflict", "after": "metered", "note": "seen in CloudTrail"}
    entry = entry_of(row, [carried], [attempt], [said])

    assert (HourState.METERED, 7, 2, "01ff") == (
        entry.state,
        entry.quantity,
        entry.events,
        entry.digest,
    )
    assert [(datetime.fromtimestamp(NOON - 3600, UTC), 3, 1)] == [
        (one.origin, one.quantity, one.events) for one in entry.carried
    ]
    assert [("Success", "request")] == [(one.status, one.request_id) for one in entry.attempts]
    assert [("conflict", "metered", "seen in CloudTrail")] == [
        (one.before, one.after, one.note) for one in entry.resolutions
    ]
    assert ("hour-7", None, True) == (entry.name, entry.customer_identifier, entry.in_doubt)


def test_a_licenses_product_is_its_own() -> None:
    """
    What no hour carries has the hour in which it happened, and no record.
    """
    licensed = {"license_arn": "arn", "product_code": "", "license_product": "licensed"}
    row = KEY | licensed | {"origin": NOON, "state": "month_over", "quantity": 10**6, "events": 1}
    entry = stranded_entry_of(row | {"stranded_id": 3}, [])

    assert ("licensed", "arn", 1) == (entry.product_code, entry.license_arn, entry.quantity)
    assert ("stranded-3", None, ()) == (entry.name, entry.timestamp, entry.attempts)


def test_quantities_are_ints_where_whole() -> None:
    """
    Else Decimals, to the last millionth. Issue 20
    """
    row = KEY | {"origin": NOON, "state": "month_over", "events": 1}
    told = [
        stranded_entry_of(row | {"stranded_id": 3, "quantity": q}, []).quantity
        for q in (17_000_000, 17_000_001)
    ]

    assert [17, Decimal("17.000001")] == told
    assert [int, Decimal] == [type(quantity) for quantity in told]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_page_goes_on_after_any_place(*, newest_first: bool) -> None:
    """
    Of both kinds, whichever the place is of: each entry once, in order.
    """
    row = KEY | {"origin": NOON, "state": "month_over", "quantity": 1, "events": 1}
    entry = stranded_entry_of(row | {"stranded_id": 3}, [])
    places = [
        HistoryPlace(hour, is_stranded=stranded, row=number)
        for hour in (NOON, NOON + 3600)
        for stranded in (False, True)
        for number in (1, 2)
    ]
    query = HistoryQuery.of(datetime.fromtimestamp(NOON, UTC), newest_first=newest_first)
    found, place = [], query.start
    while True:
        page = page_of(
            [
                (one, entry)
                for one in places
                if (one.hour, one.row) != (at := place.among(stranded=one.is_stranded))
                and ((one.hour, one.row) < at) is newest_first
            ],
            query,
            3,
        )
        if not page:
            break
        place = page[-1][0]
        found += [at for at, _ in page]

    assert sorted(places, reverse=newest_first) == found


def test_of_a_customer_each_key_is_looked_at_by_itself() -> None:
    """
    But not of a product, which has as many as there are.
    """
    assert HistoryQuery.of(license_arn="arn").is_of_customer
    assert not HistoryQuery.of(product_code="product").is_of_customer


def test_states_are_states() -> None:
    """
    A text that stands alone is none, though it could be taken for its letters.
    """
    with pytest.raises(ValueError, match="not a valid HourState"):
        HistoryQuery.of(states=HourState.CONFLICT)  # type: ignore[arg-type]
