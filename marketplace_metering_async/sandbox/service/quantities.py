"""
Quantities: an int where whole, else a Decimal without trailing zeros; sums are of millionths.

The service says that quantities are compared by value, so that 17, 17.0 and 17.00 are one, in
whichever member they come.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

Quantity = int | Decimal

DECIMAL_OF: Final = {
    "Quantity": "QuantityAsDecimal",
    "UsageQuantity": "UsageQuantityAsDecimal",
    "AllocatedUsageQuantity": "AllocatedUsageQuantityAsDecimal",
}
"""Integer members to their decimal sisters."""

INT32: Final = 2**31 - 1
TEXT: Final = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
"""Of decimal members; match the whole text."""

_MILLION: Final = 10**6
_INTEGER_OF: Final = {decimal: whole for whole, decimal in DECIMAL_OF.items()}


def of_text(text: str) -> Quantity:
    """Return the quantity that a *text* of a decimal member says."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return Decimal(f"{whole}.{fraction}") if fraction else int(whole)


def millionths(quantity: Quantity) -> int:
    """Return a quantity in millionths, whose sums nothing rounds."""
    if type(quantity) is int:
        return quantity * _MILLION
    numerator, denominator = quantity.as_integer_ratio()
    return numerator * _MILLION // denominator


def of_millionths(number: int) -> Quantity:
    """Return the quantity of *number* millionths."""
    whole, rest = divmod(number, _MILLION)
    return of_text(f"{whole}.{rest:06d}") if rest else whole


def total(quantities: Iterable[Quantity]) -> Quantity:
    """Return the exact sum."""
    return of_millionths(sum(map(millionths, quantities)))


def in_members(name: str, quantity: Quantity, member: str) -> dict[str, int | str]:
    """
    Return the members in which an answer repeats a quantity.

    Args:
        name: Of its integer member.
        quantity: How much.
        member: "integer" where it can have it, "decimal", or "both".
    """
    fits = type(quantity) is int and quantity <= INT32
    members: dict[str, int | str] = {}
    if fits and member != "decimal":
        members[name] = int(quantity)
    if not fits or member != "integer":
        members[DECIMAL_OF[name]] = str(quantity)
    return members


def by_value(value: Any) -> Any:  # noqa: ANN401 - JSON
    """
    Return members with one name and text for each quantity, to be compared by value.

    What is no quantity, as in a request that was refused for it, stays as it is.
    """
    if isinstance(value, list):
        return [by_value(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, part in value.items():
        whole = _INTEGER_OF.get(name, name)
        if whole not in DECIMAL_OF or TEXT.fullmatch(str(part)) is None:
            found[name] = by_value(part)
        else:
            found[whole] = str(of_text(str(part)))
    return found
