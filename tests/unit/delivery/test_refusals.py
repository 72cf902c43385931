"""What one refusal teaches of other records: little, and for a minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage

from marketplace_metering_async.delivery import refusals
from marketplace_metering_async.delivery.refusals import LicenseGroups, SimilarRefusals
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.service_errors import MODELLED_ERRORS

DIMENSION = "InvalidUsageDimensionException"
CUSTOMER = "InvalidCustomerIdentifierException"


def refusal(code: str) -> MarketplaceMeteringException:
    return MODELLED_ERRORS[code](code, status=400)


def licensed(name: object, product_code: str | None = None, **members: object) -> UsageRecord:
    arn = f"arn:aws:license-manager::123456789012:license:l-{name}"
    return usage(1, product_code=product_code, license_arn=arn, **members)[0]


def test_a_wrong_dimension_is_wrong_for_every_customer_of_the_product() -> None:
    """
    And for no other dimension and no other product.
    """
    similar = SimilarRefusals(None)
    one, other = usage(2)
    error = refusal(DIMENSION)

    assert not similar
    similar.note(one, error, 0.0)

    assert similar
    assert (error, "dimension") == similar.find(other)
    assert similar.find(usage(1, dimension="another")[0]) is None
    assert similar.find(usage(1, product_code="another")[0]) is None


@pytest.mark.parametrize("name", ["customer_aws_account_id", "customer_identifier"])
def test_a_wrong_customer_is_wrong_in_every_dimension(name: str) -> None:
    """
    By whichever id the record names; the other customers are not held back.
    """
    both = {"customer_aws_account_id": None, "customer_identifier": None}
    one = usage(1, **(both | {name: "1234"}))[0]
    similar = SimilarRefusals(None)
    error = refusal(CUSTOMER)

    similar.note(one, error, 0.0)

    assert (error, name) == similar.find(usage(1, dimension="x", **(both | {name: "1234"}))[0])
    assert similar.find(usage(1, **(both | {name: "5678"}))[0]) is None
    assert similar.find(usage(1, **(both | {"customer_identifier": "5678"}))[0]) is None


@pytest.mark.parametrize("code", sorted(set(MODELLED_ERRORS) - {DIMENSION, CUSTOMER}))
def test_other_refusals_say_nothing_of_other_records(code: str) -> None:
    """
    A license is refused for its activation period, a timestamp for its hour, a tag for itself.
    """
    similar = SimilarRefusals("p")
    similar.note(licensed("a"), refusal(code), 0.0)

    assert not similar
    assert not SimilarRefusals.concerns_others(code)


def test_a_refusal_holds_back_for_a_minute() -> None:
    """
    From the latest time it was met.
    """
    similar = SimilarRefusals(None)
    first, again = usage(2)
    similar.note(first, refusal(DIMENSION), 100.0)
    similar.note(again, refusal(DIMENSION), 130.0)

    similar.forget(189.9)
    assert similar.find(first)
    similar.forget(190.0)

    assert similar.find(first) is None
    assert not similar


def test_the_product_of_the_call_stands_in() -> None:
    """
    Where a record names none; licenses of products nobody named speak for themselves.
    """
    of_call = SimilarRefusals("product")
    of_call.note(usage(1, product_code=None)[0], refusal(DIMENSION), 0.0)
    assert of_call.find(usage(1)[0])

    unnamed = SimilarRefusals(None)
    unnamed.note(licensed("a"), refusal(DIMENSION), 0.0)
    assert unnamed.find(licensed("a", customer_aws_account_id="99"))
    assert unnamed.find(licensed("b")) is None

    named = SimilarRefusals(None)
    named.note(licensed("a", "p"), refusal(DIMENSION), 0.0)
    assert named.find(licensed("b", "p"))


def test_licenses_share_until_they_are_taken_apart() -> None:
    """
    Each part is a group; who has one keeps it; records without a license have none.
    """
    groups = LicenseGroups()
    a, b, c, d = map(licensed, "abcd")
    assert not groups.explain([a, b])

    groups.separate([[a, b], [c]])
    groups.separate([[a, d], usage(1)])

    assert groups.group_of(a) == groups.group_of(b) is not None
    assert 3 == len({groups.group_of(record) for record in (a, c, d)})
    assert [groups.group_of(licensed("new")), groups.group_of(usage(1)[0])] == [None, None]
    assert groups.explain([a, c])
    assert not groups.explain([a, b, licensed("new"), usage(1)[0]])


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), max_size=8))
def test_what_was_taken_apart_is_not_put_together_again(parts: list[list[int]]) -> None:
    """
    Whatever is separated later, the group of a license never changes.
    """
    groups = LicenseGroups()
    known: dict[int, int | None] = {}
    for part in parts:
        groups.separate([[licensed(name) for name in part]])
        for name in part:
            known.setdefault(name, groups.group_of(licensed(name)))

    assert None not in known.values()
    assert known == {name: groups.group_of(licensed(name)) for name in known}


def test_groups_are_remembered_in_bounded_memory() -> None:
    """
    The oldest are forgotten first.
    """
    groups = LicenseGroups()
    names = range(refusals._MOST_LICENSES + 3)

    groups.separate([licensed(name)] for name in names)

    remembered = [name for name in names if groups.group_of(licensed(name)) is not None]
    assert list(names[3:]) == remembered
