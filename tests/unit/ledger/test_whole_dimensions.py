"""Dimensions declared whole: who is one, and what is said of a fraction."""

from typing import Any

import pytest

from marketplace_metering_async.ledger.model import Usage, UsageKey
from marketplace_metering_async.ledger.whole_dimensions import concerns, declared, refusal

LICENSE = "arn:aws:license-manager::111122223333:license:l-1"


def usage(quantity: int, license_arn: str = "", licensed: str = "") -> Usage:
    product = "" if license_arn else "product"
    key = UsageKey(product, "111122223333", "", license_arn, "seats")
    return Usage(key, licensed, 0, quantity, None, b"")


def test_a_dimension_is_declared_for_a_product_or_for_all() -> None:
    """
    By its name, or together with the product's code.
    """
    assert {("", "seats"), ("product", "users")} == declared(["seats", ("product", "users")])
    assert frozenset() == declared([])


@pytest.mark.parametrize("wrong", ["seats", ["a", ""], [("p", "a", "b")], [7], [("p", None)]])
def test_what_names_no_dimension_is_refused(wrong: Any) -> None:
    """
    One text too, whose letters would be taken for dimensions.
    """
    with pytest.raises((TypeError, ValueError), match=r"^whole: expected"):
        declared(wrong)


@pytest.mark.parametrize(
    ("quantity", "does"), [(0, False), (10**6, False), (1, True), (2**31 * 10**6, True)]
)
def test_only_what_travels_as_a_decimal_is_compared(quantity: int, *, does: bool) -> None:
    """
    So that whole quantities cost no look at what is declared.
    """
    assert does == concerns(usage(quantity))


def test_a_refusal_says_what_to_do() -> None:
    """
    With its place, what was given, and where the rule comes from.
    """
    text = str(refusal(usage(1_500_000), declared(["seats"])))

    assert text.startswith("quantity: expected a whole number from 0 to 2147483647")
    assert "'seats' declared whole" in text
    assert "add fractions up before you add them" in text
    assert "got 1.5" in text


def test_a_licenses_usage_is_of_the_product_that_it_names() -> None:
    """
    Where it names none, only what is declared for all products is meant.
    """
    of_one, of_all = declared([("licensed", "seats")]), declared(["seats"])
    named, nameless = usage(1, LICENSE, "licensed"), usage(1, LICENSE)

    assert refusal(named, of_one) is not None
    assert refusal(nameless, of_one) is None
    assert refusal(nameless, of_all) is not None
