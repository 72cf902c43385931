"""The sums that a ledger keeps, so that nobody has to add up its hours: what a change adds."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from marketplace_metering_async.ledger.model import ProductDimension

RECORDED: Final = "recorded"
"""Stands in place of a state for all usage that was ever added, counted apart from the states."""


class Sum(NamedTuple):
    """
    The usage of a product and dimension in one state, or a change of it.

    Attributes:
        state: A HourState's value, or RECORDED.
        quantity: Millionths.
        records: How many hours have them.
        latest: Of RECORDED, the latest timestamp of an hour; 0 otherwise.
    """

    product_code: str
    dimension: str
    state: str
    quantity: int
    records: int
    latest: int


class Sums:
    """How one transaction changes the sums."""

    def __init__(self, changes: Iterable[Sum] = ()) -> None:
        """Begin with *changes*."""
        self._changes: dict[tuple[ProductDimension, str], tuple[int, int, int]] = {}
        for one in changes:
            of = ProductDimension(one.product_code, one.dimension)
            self._changes[of, one.state] = (one.quantity, one.records, one.latest)

    def add(
        self, of: ProductDimension, state: str, quantity: int, records: int = 0, latest: int = 0
    ) -> None:
        """Add to a sum; below 0 takes away."""
        had = self._changes.get((of, state), (0, 0, 0))
        changed = (had[0] + quantity, had[1] + records, max(had[2], latest))
        self._changes[of, state] = changed

    def move(self, of: ProductDimension, before: str, after: str, quantity: int) -> None:
        """Move the units of one record from a state to another one."""
        self.add(of, before, -quantity, -1)
        self.add(of, after, quantity, 1)

    def changes(self) -> list[Sum]:
        """Return what changes, in one order for all who write it down, so that none deadlock."""
        return [
            Sum(*of, state, *change)
            for (of, state), change in sorted(self._changes.items())
            if any(change)
        ]
