"""Sums over the book that grow with it: by product, customer, dimension and hour."""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import Factory, define, frozen

from marketplace_metering_async.sandbox.service.book import Book, Metered
from marketplace_metering_async.sandbox.service.quantities import (
    Quantity,
    millionths,
    of_millionths,
)

COLUMNS: Final = ("product", "customer", "dimension", "hour")
"""What usage can be broken down by."""

_HOUR: Final = timedelta(hours=1)

Cell = tuple[str, str, str, datetime]


@frozen
class SumRow:
    """The usage of one combination of the columns asked for."""

    place: tuple[Any, ...]
    quantity: Quantity
    records: int


@define
class TableSums:
    """
    What was metered, added up; `follow` takes in what has come to the book since.

    Attributes:
        regions: Where they were metered, since the service counts each region for itself.
    """

    regions: set[str] = Factory(set)
    _millionths: int = 0
    _cells: dict[Cell, list[int]] = Factory(dict)
    _seen: int = 0
    _first: Metered | None = None

    def __len__(self) -> int:
        """Return how many records were taken in."""
        return self._seen

    @property
    def quantity(self) -> Quantity:
        """Of all records."""
        return of_millionths(self._millionths)

    def follow(self, book: Book) -> None:
        """Take in the records since the last time; begin anew with a book that has forgotten."""
        records = book.records
        first = records[0] if records else None
        if first is not self._first or len(records) < self._seen:
            self._forget()
        for record in records[self._seen :]:
            self._add(record)
        self._seen = len(records)
        self._first = first

    def rows(self, by: Sequence[str], search: str, most: int) -> tuple[list[SumRow], int]:
        """Return the *most* latest rows broken down *by* some columns, and how many there are."""
        at = [COLUMNS.index(name) for name in by]
        wanted = search.casefold()
        found: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
        for cell, (quantity, records) in self._cells.items():
            if wanted and not any(wanted in name.casefold() for name in cell[:3]):
                continue
            total = found[tuple(cell[index] for index in at)]
            total[0] += quantity
            total[1] += records
        hour_at = by.index("hour") if "hour" in by else None

        def order(item: tuple[tuple[Any, ...], list[int]]) -> tuple[Any, ...]:
            place, (quantity, _) = item
            if hour_at is None:
                return (-quantity, *place)
            rest = place[:hour_at] + place[hour_at + 1 :]
            return (-place[hour_at].timestamp(), *rest)

        chosen = heapq.nsmallest(most, found.items(), key=order)
        rows = [SumRow(place, of_millionths(units), records) for place, (units, records) in chosen]
        return rows, len(found)

    def hours(self, now: datetime, count: int) -> list[tuple[datetime, dict[str, Quantity]]]:
        """
        Return *count* hours with the usage of each dimension, oldest first.

        They end with the hour of *now*, or with the latest usage if all of it lies elsewhere.
        """
        last = _hour_of(now)
        used = {cell[3] for cell in self._cells}
        if used and not any(last - count * _HOUR < hour <= last for hour in used):
            last = max(used)
        window = {last - back * _HOUR: defaultdict[str, int](int) for back in range(count)}
        for (_, _, dimension, hour), (quantity, _) in self._cells.items():
            if hour in window:
                window[hour][dimension] += quantity
        return [
            (hour, {dimension: of_millionths(units) for dimension, units in sums.items()})
            for hour, sums in sorted(window.items())
        ]

    def _add(self, record: Metered) -> None:
        product = record.product_code or record.license_arn or ""
        cell = (product, record.customer, record.dimension, _hour_of(record.timestamp))
        total = self._cells.setdefault(cell, [0, 0])
        units = millionths(record.quantity)
        total[0] += units
        total[1] += 1
        self._millionths += units
        self.regions.add(record.region)

    def _forget(self) -> None:
        self._cells.clear()
        self.regions.clear()
        self._millionths = self._seen = 0


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
