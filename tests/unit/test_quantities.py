"""Quantities: read exactly, one text for each, sums to the last millionth, one choice of member."""

import decimal
import enum
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import quantities as any_quantity

from marketplace_metering_async import limits, quantities, rules

GREATEST = 9_999_999_999_999_999
NUMBERS = st.integers(0, GREATEST)
"""Millionths."""


@contextmanager
def careless_context() -> Iterator[None]:
    """A program's own settings of the decimal module, in which sums are rounded."""
    with decimal.localcontext() as context:
        context.prec = 3
        context.rounding = decimal.ROUND_UP
        context.traps = dict.fromkeys(context.traps, True)
        yield


class Five(enum.IntEnum):
    FIVE = 5


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (0, 0),
        (17, 17),
        (Five.FIVE, 5),
        (2**31, 2_147_483_648),
        ("17", 17),
        ("17.0", 17),
        ("17.420", Decimal("17.42")),
        ("0.000001", Decimal("0.000001")),
        ("9999999999.999999", Decimal("9999999999.999999")),
        (Decimal("1E3"), 1000),
        (Decimal("17.00"), 17),
        (Decimal("0.1000000000"), Decimal("0.1")),
        (Decimal("1E-6"), Decimal("0.000001")),
        (Decimal("-0"), 0),
        (Decimal("0E-9"), 0),
    ],
)
def test_what_is_exact_is_read_by_value(given_: Any, kept: int | Decimal) -> None:
    """
    An int where it is whole, else a Decimal, with one text.
    """
    found = quantities.read(given_)

    assert (type(kept), str(kept)) == (type(found), str(found))
    assert () == rules.quantity("quantity", given_)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (0.1, 'as "0.1" or Decimal("0.1"), got 0.1 (float)'),
        (3.0, 'as "3.0" or Decimal("3.0"), got 3.0 (float)'),
        (1e-07, 'as "17.42" or Decimal("17.42"), got 1e-07 (float)'),
        (True, "got True (bool)"),
        (None, "got None"),
        ([], "got a list"),
        (-1, "expected 0 to 9999999999.999999, got -1"),
        (10**10, "expected 0 to 9999999999.999999, got 10000000000"),
        pytest.param(10**5000, "got a number of 16610 bits", id="huge"),
        ("1e3", "digits without leading zeros"),
        ("1,5", "at most one point"),
        ("-1", "expected 0 to 9999999999.999999, got '-1'"),
        ("-0", "expected 0 to"),
        ("0.1234567", "expected at most 6 decimal places, got '0.1234567'"),
        ("1.0000000", "at most 6 decimal places"),
        ("NaN", "digits without leading zeros"),
        ("", "digits without leading zeros"),
        ("017", "digits without leading zeros"),
        (" 5", "digits without leading zeros"),
        ("5\n", "digits without leading zeros"),
        ("٣", "digits without leading zeros"),
        ("1_000", "digits without leading zeros"),
        (".5", "digits without leading zeros"),
        ("5.", "digits without leading zeros"),
        ("10000000000", "expected 0 to 9999999999.999999"),
        (Decimal("NaN"), "got NaN"),
        (Decimal("sNaN"), "got sNaN"),
        (Decimal("Infinity"), "got Infinity"),
        (Decimal("-0.5"), "expected 0 to"),
        (Decimal("0.1234567"), "at most 6 decimal places"),
        (Decimal("1E+999999999"), "expected 0 to"),
        (Decimal("1E-999999999"), "at most 6 decimal places"),
        (Decimal("9999999999.9999995"), "expected 0 to"),
    ],
)
def test_what_cannot_be_sent_is_refused(given_: Any, says: str) -> None:
    """
    With words of what it is to be.
    """
    assert quantities.read(given_) is None

    (violation,) = rules.quantity("quantity", given_)
    assert says in str(violation)


def test_what_is_no_quantity_is_kept_as_it_is() -> None:
    """
    For the rules to name it.
    """
    for value in (0.1, True, "1e3", -1, None):
        assert quantities.kept(value) is value  # type: ignore[arg-type]


@given(NUMBERS)
def test_one_value_has_one_text(number: int) -> None:
    """
    However it was written, and whatever the program's context of the decimal module is.
    """
    with careless_context():
        quantity = quantities.of_millionths(number)
        written = f"{number // 10**6}.{number % 10**6:06d}"
        alike = [quantity, written, Decimal(written), str(quantity), Decimal(written + "000")]

        assert {str(quantity)} == {str(quantities.read(one)) for one in alike}
        assert {type(quantity)} == {type(quantities.read(one)) for one in alike}
        assert number == quantities.millionths(quantity)
    assert limits.DECIMAL_QUANTITY.fullmatch(str(quantity))
    assert (type(quantity) is int) == (number % 10**6 == 0)


@given(st.lists(NUMBERS, max_size=30))
def test_sums_are_exact(numbers: list[int]) -> None:
    """
    To the last millionth, also above what a record can carry.
    """
    with careless_context():
        parts = [quantities.of_millionths(number) for number in numbers]
        total = quantities.of_millionths(sum(map(quantities.millionths, parts)))

        assert sum(numbers) == quantities.millionths(total)


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{0,12}\.?[0-9]{0,8}", fullmatch=True)))
def test_texts_are_those_of_the_service(text: str) -> None:
    """
    No text is taken that the model's pattern refuses, and none is refused that it takes.
    """
    models = re.fullmatch(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?", text)

    assert (models is not None) == (quantities.read(text) is not None)


@pytest.mark.parametrize(
    ("quantity", "parts", "whole"),
    [
        (17, [], True),
        (2**31 - 1, [], True),
        (2**31, [], False),
        (Decimal("0.5"), [], False),
        (3, [1, 2], True),
        (1, [Decimal("0.5"), Decimal("0.5")], False),
    ],
)
def test_the_integer_member_carries_what_fits(
    quantity: Any,
    parts: list[Any],
    whole: bool,  # noqa: FBT001
) -> None:
    """
    Whole and up to int32, all allocations too.
    """
    assert whole is quantities.travels_whole(quantity, parts)


@given(st.one_of(any_quantity, st.integers(), st.decimals(), st.booleans()))
def test_what_is_plain_is_kept_as_it_is(value: Any) -> None:
    """
    The quick look lets nothing through that a record would not keep.
    """
    if quantities.is_plain(quantities.kept(value)):
        assert () == rules.quantity("quantity", value)
    else:
        assert quantities.read(value) is None
