"""Customers: one value for the four members that say whose usage it is."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from marketplace_metering_async import (
    Customer,
    InvalidRecordError,
    InvalidRecordTypeError,
    ResolveCustomerResult,
    UsageRecord,
)

ACCOUNT = "111122223333"
LICENSE = "arn:aws:license-manager::111122223333:license:l-0123456789abcdef0123456789abcdef"
BUYERS = [
    {"customer_aws_account_id": ACCOUNT, "product_code": "p"},
    {"customer_aws_account_id": ACCOUNT},
    {"customer_identifier": "legacy-1", "product_code": "p"},
    {"customer_aws_account_id": ACCOUNT, "license_arn": LICENSE, "product_code": "p"},
]
ids = pytest.mark.parametrize("ids", BUYERS, ids=["account", "no product", "identifier", "license"])


def record(**members: Any) -> UsageRecord:
    when = datetime(2026, 11, 23, 10, tzinfo=UTC)
    return UsageRecord(timestamp=when, dimension="requests", quantity=5, **members)


@ids
def test_a_customer_stands_for_its_members(ids: dict[str, str]) -> None:
    """
    The record is the same as one with the members beside each other, and gives the customer back.
    """
    customer = Customer(**ids)

    assert record(**ids) == record(customer=customer)
    assert hash(record(**ids)) == hash(record(customer=customer))
    assert repr(record(**ids)) == repr(record(customer=customer))
    assert customer == record(**ids).customer
    assert record(customer=customer) == evolve(record(customer=customer), quantity=5)


def test_a_product_may_stand_beside_a_customer_without_one() -> None:
    """
    It is then the customer's.
    """
    customer = Customer(customer_aws_account_id=ACCOUNT)

    assert "p" == record(customer=customer, product_code="p").customer.product_code


@pytest.mark.parametrize("name", ["customer_aws_account_id", "license_arn", "product_code"])
def test_no_member_stands_beside_a_customer_that_has_it(name: str) -> None:
    """
    Which of the two would be meant?
    """
    customer = Customer(**BUYERS[3])

    with pytest.raises(InvalidRecordError, match=f"^{name}: expected None beside customer"):
        record(customer=customer, **{name: BUYERS[3][name]})


def test_a_customer_is_no_text() -> None:
    """
    An account in its place is a mistake of type.
    """
    with pytest.raises(
        InvalidRecordTypeError, match=r"^customer: expected a Customer, got '…3333'"
    ):
        record(customer=ACCOUNT)


@pytest.mark.parametrize(
    ("ids", "path"),
    [
        ({}, "customer_aws_account_id"),
        ({"customer_aws_account_id": "x"}, "customer_aws_account_id"),
        ({"customer_aws_account_id": ACCOUNT, "customer_identifier": "c"}, "customer_identifier"),
        ({"license_arn": LICENSE}, "customer_aws_account_id"),
        ({"customer_identifier": "c", "product_code": "with blank"}, "product_code"),
    ],
)
def test_what_the_service_would_refuse_is_no_customer(ids: dict[str, str], path: str) -> None:
    """
    By the rules of a record.
    """
    with pytest.raises(InvalidRecordError, match=f"^{path}: "):
        Customer(**ids)


def test_ids_are_masked() -> None:
    """
    A customer's repr may stand in a log.
    """
    text = repr(Customer(**BUYERS[3]))

    assert "…3333" in text
    assert not re.search(f"{ACCOUNT}|0123456789abcdef", text)


@pytest.mark.parametrize(
    ("found", "customer"),
    [
        *((ids, ids) for ids in BUYERS),
        ({**BUYERS[0], "customer_identifier": "legacy-1"}, BUYERS[0]),
    ],
)
def test_who_resolved_a_token_can_be_metered(
    found: dict[str, str], customer: dict[str, str]
) -> None:
    """
    By account where the service names both.
    """
    assert Customer(**customer) == ResolveCustomerResult(**found, agreement_id="a").customer


def test_a_response_that_names_nobody_is_no_customer() -> None:
    """
    It raises where the customer is asked for, not before.
    """
    result = ResolveCustomerResult(product_code="p")

    with pytest.raises(InvalidRecordError, match="neither"):
        result.customer  # noqa: B018 - a property


@ids
def test_a_customer_keeps_exact_texts(ids: dict[str, str]) -> None:
    """
    As a record does: an Enum of product codes is another class wherever the customer is pickled to.
    """

    class Text(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "its own"

    customer = Customer(**{name: Text(value) for name, value in ids.items()})

    assert {str} == {type(getattr(customer, name)) for name in ids}
    assert repr(Customer(**ids)) == repr(customer)
