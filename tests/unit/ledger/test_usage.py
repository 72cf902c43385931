"""From what a caller says to usage; the laws of its memory are in properties/."""

from datetime import UTC, datetime
from typing import Any

from marketplace_metering_async.ledger.usage import UsageReader

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


def read(**members: Any) -> Any:
    given: dict[str, Any] = {
        "dimension": "requests",
        "quantity": 17,
        "customer_aws_account_id": "111122223333",
        "customer_identifier": None,
        "license_arn": None,
        "product_code": "product",
        "at": None,
        "event_id": None,
    }
    return UsageReader().usage(NOW, **(given | members))


def test_a_quantity_is_kept_in_millionths() -> None:
    """
    Whichever way it is read: the whole rules, or the key that is known.
    """
    reader = UsageReader()
    members = {"customer_identifier": None, "license_arn": None, "at": None, "event_id": None}
    same: Any = {"dimension": "d", "customer_aws_account_id": "1", "product_code": "p", **members}

    assert [17_000_000, 18_000_000] == [
        reader.usage(NOW, quantity=quantity, **same).quantity for quantity in (17, 18)
    ]


def test_an_event_is_known_by_all_that_was_said_of_it() -> None:
    """
    Where nobody said when, the moment of the call is no part of it.
    """
    digests = {
        read(event_id="e", **more).digest
        for more in ({}, {"quantity": 18}, {"at": NOW}, {"dimension": "other"})
    }

    assert 4 == len(digests)
    assert b"" == read().digest
