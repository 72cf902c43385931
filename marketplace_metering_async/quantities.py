"""
The one place for quantities: exact, in millionths, never a float.

A quantity is an `int` where it is whole, otherwise a `Decimal` without trailing zeros, so that
equal ones are equal in type and text, and so in the bytes of a retry. Sums are sums of millionths:
no context of the decimal module can round them. Source of the numbers: `limits`.
"""

from collections.abc import Collection
from decimal import Decimal
from typing import Final

from marketplace_metering_async import limits

Quantity = int | Decimal
"""What a record keeps; `read` makes it."""

MILLION: Final = 10**limits.DECIMAL_PLACES
AS_DECIMAL: Final = "AsDecimal"
"""What the name of a decimal member has behind the name of its integer sister."""

_GREATEST: Final = int(limits.MAX_DECIMAL_QUANTITY)
_MOST_DIGITS: Final = len(str(_GREATEST))


def read(value: object) -> Quantity | None:
    """
    Return the quantity that *value* states, None where it states none.

    An int, a Decimal of any exponent by its value, or the service's own text: digits without
    leading zeros, and at most one point with up to six digits behind it. True is no quantity, and
    a float is none, since what it says is not what was written.
    """
    if type(value) is int:
        return value if 0 <= value <= _GREATEST else None
    if isinstance(value, str):
        return _of_text(value) if limits.DECIMAL_QUANTITY.fullmatch(value) else None
    if isinstance(value, Decimal):
        return _of_decimal(Decimal(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if 0 <= value <= _GREATEST else None
    return None


def kept(value: Quantity | str) -> Quantity:
    """Return what a record keeps of *value*; no quantity is handed on for the rules to name."""
    if type(value) is int:
        return value
    found = read(value)
    return value if found is None else found  # type: ignore[return-value]  # the rules refuse it


def is_plain(value: object) -> bool:
    """Whether *value* is a quantity as `kept` returns it, seen at a glance; False says nothing."""
    if type(value) is int:
        return 0 <= value <= _GREATEST
    return type(value) is Decimal and limits.DECIMAL_QUANTITY.fullmatch(str(value)) is not None


def _of_text(text: str) -> Quantity:
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return Decimal(f"{whole}.{fraction}") if fraction else int(whole)


def _of_decimal(value: Decimal) -> Quantity | None:
    if not value:
        return 0
    # Written out, any other exponent could fill the memory.
    if not value.is_finite() or not -limits.DECIMAL_PLACES <= value.adjusted() < _MOST_DIGITS:
        return None
    text = f"{value:f}"
    return read(text.rstrip("0").rstrip(".") if "." in text else text)


def millionths(quantity: Quantity) -> int:
    """Return *quantity* in millionths, for sums and comparisons."""
    if type(quantity) is int:
        return quantity * MILLION
    numerator, denominator = quantity.as_integer_ratio()
    return numerator * MILLION // denominator


def of_millionths(number: int) -> Quantity:
    """Return the quantity of *number* millionths, however large a sum it is."""
    whole, rest = divmod(number, MILLION)
    return _of_text(f"{whole}.{rest:0{limits.DECIMAL_PLACES}d}") if rest else whole


def travels_whole(quantity: Quantity, allocated: Collection[Quantity] = ()) -> bool:
    """
    Return whether the integer members carry a record's *quantity*, and what is *allocated* of it.

    Otherwise all of them travel as decimals, for an allocation has the type of its record. The
    choice is made here alone: the service has marked the integer members deprecated. (Parts that
    add up to the quantity are no greater.)
    """
    return (
        type(quantity) is int
        and quantity <= limits.MAX_QUANTITY
        and (not allocated or {int}.issuperset(map(type, allocated)))
    )
