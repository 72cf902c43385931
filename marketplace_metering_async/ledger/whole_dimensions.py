"""Dimensions declared whole: of them a ledger takes only what the integer members carry."""

from collections.abc import Iterable
from typing import Final

from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.ledger.model import ProductDimension, Usage
from marketplace_metering_async.limits import MAX_QUANTITY, MAX_TEXT
from marketplace_metering_async.quantities import MILLION, millionths, of_millionths

MOST_WHOLE: Final = millionths(MAX_QUANTITY)
"""Up to that much, whatever it is made of, one hour takes all."""

WholeDimensions = frozenset[ProductDimension]
"""Each of one product, or of all where its product is ''."""


def declared(names: Iterable[str | tuple[str, str]]) -> WholeDimensions:
    """
    Return what a caller declares: names of dimensions, or pairs of product code and dimension.

    Raises:
        TypeError: for one text, whose letters are no dimensions.
        ValueError: for a name of another kind.
    """
    if isinstance(names, str):
        raise TypeError(f"whole: expected a list of dimensions, got the text {names!r}")
    return frozenset(map(_one, names))


def _one(name: object) -> ProductDimension:
    texts = ("", name) if isinstance(name, str) else name
    match texts:
        case (str(product), str(dimension)) if 1 <= len(dimension) <= MAX_TEXT:
            return ProductDimension(product, dimension)
    raise ValueError(f"whole: expected a dimension, or (product code, dimension), got {name!r}")


def concerns(usage: Usage) -> bool:
    """Return whether *usage* is refused where its dimension is declared whole."""
    return usage.quantity % MILLION != 0 or usage.quantity > MOST_WHOLE


def refusal(usage: Usage, whole: WholeDimensions) -> InvalidRecordError | None:
    """Return the refusal of *usage* where it is of a *whole* dimension, and no whole quantity."""
    of = usage.key.summed_under(usage.license_product)
    if whole.isdisjoint((of, of._replace(product_code=""))) or not concerns(usage):
        return None
    expected = (
        f"a whole number from 0 to {MAX_QUANTITY}, for the ledger has {of.dimension!r} declared "
        "whole: add fractions up before you add them, or open the ledger with another whole="
    )
    return InvalidRecordError([Violation("quantity", expected, str(of_millionths(usage.quantity)))])
