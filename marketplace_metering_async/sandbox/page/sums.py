"""
Sums over the book that grow with it: by product, customer, dimension and hour.

A dimension of a product is a unit of its own, so that nothing is added up over several of them.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from attrs import Factory, define, frozen

from marketplace_metering_async.sandbox.service.book import Book, Metered
from marketplace_metering_async.sandbox.service.quantities import (
    Quantity,
    millionths,
    of_millionths,
)
from marketplace_metering_async.sandbox.service.sums import Following

COLUMNS: Final = ("product", "customer", "dimension", "hour")
"""What usage can be broken down by."""

_HOUR: Final = timedelta(hours=1)
_SLICE: Final = 2000
"""Of how many things the event loop does not hear; a few milliseconds' worth."""

T = TypeVar("T")

Cell = tuple[str, str, str, datetime]
Unit = tuple[str, str]
"""A product, or the license of an unknown one, and a dimension."""


async def _slices(things: list[T]) -> AsyncIterator[list[T]]:
    for at in range(0, len(things), _SLICE):
        yield things[at : at + _SLICE]
        await asyncio.sleep(0)


@frozen
class SumRow:
    """
    The usage of one combination of the columns asked for.

    Attributes:
        place: The columns.
        quantity: The sum; None where it would be one of several units.
        records: How many.
    """

    place: tuple[Any, ...]
    quantity: Quantity | None
    records: int


@frozen
class UnitSum:
    """
    The usage of one dimension of a product.

    Attributes:
        product: Its code; the license where the product is not known.
        dimension: Its name.
        quantity: Of all records.
        records: How many.
        hours: The quantities of the hours asked for.
    """

    product: str
    dimension: str
    quantity: Quantity
    records: int
    hours: list[Quantity]


@define
class _UnitTotal:
    quantity: int = 0
    records: int = 0
    hours: defaultdict[datetime, int] = Factory(lambda: defaultdict(int))


class TableSums(Following):
    """
    What was metered, added up; `follow` takes in what has come to the book since.

    Attributes:
        regions: Where they were metered, since the service counts each region for itself.
    """

    def __init__(self, book: Book) -> None:
        """Begin with nothing of *book*."""
        super().__init__()
        self.regions: set[str] = set()
        self._book = book
        self._cells: dict[Cell, list[int]] = {}
        self._products: dict[str, str] = {}
        self._units: dict[Unit, _UnitTotal] = {}

    def __len__(self) -> int:
        """Return how many records were taken in."""
        return sum(unit.records for unit in self._units.values())

    async def follow(self) -> None:
        """Take in the records since the last time; begin anew where the book has forgotten."""
        for _ in self.catch_up(self._book.metered):
            await asyncio.sleep(0)

    async def rows(self, by: Sequence[str], search: str, most: int) -> tuple[list[SumRow], int]:
        """Return the *most* latest rows broken down *by* some columns, and how many there are."""
        found = await self._grouped([COLUMNS.index(name) for name in by], search.casefold())
        hour_at = by.index("hour") if "hour" in by else None

        def order(item: tuple[tuple[Any, ...], list[Any]]) -> tuple[Any, ...]:
            place, (quantity, records, unit) = item
            if hour_at is None:
                return (-records if unit is None else -quantity, *place)
            rest = place[:hour_at] + place[hour_at + 1 :]
            return (-place[hour_at].timestamp(), *rest)

        chosen: list[tuple[tuple[Any, ...], list[Any]]] = []
        async for some in _slices(list(found.items())):
            chosen = heapq.nsmallest(most, chosen + some, key=order)
        rows = [
            SumRow(place, None if unit is None else of_millionths(quantity), records)
            for place, (quantity, records, unit) in chosen
        ]
        return rows, len(found)

    async def _grouped(self, at: list[int], wanted: str) -> dict[tuple[Any, ...], list[Any]]:
        """Return quantity, records and unit, None for several, by the columns *at* some places."""
        found: dict[tuple[Any, ...], list[Any]] = {}
        async for some in _slices(list(self._cells.items())):
            for cell, (quantity, records) in some:
                if wanted and not any(wanted in name.casefold() for name in cell[:3]):
                    continue
                unit = (self._products[cell[0]], cell[2])
                total = found.setdefault(tuple(cell[index] for index in at), [0, 0, unit])
                total[0] += quantity
                total[1] += records
                if total[2] != unit:
                    total[2] = None
        return found

    def units(self, hours: Sequence[datetime], most: int) -> tuple[list[UnitSum], int]:
        """Return the *most* used units, by name, with their *hours*; and how many there are."""
        busiest = heapq.nlargest(most, self._units.items(), key=lambda unit: unit[1].records)
        sums = [
            UnitSum(
                product,
                dimension,
                of_millionths(total.quantity),
                total.records,
                [of_millionths(total.hours.get(hour, 0)) for hour in hours],
            )
            for (product, dimension), total in sorted(busiest, key=lambda unit: unit[0])
        ]
        return sums, len(self._units)

    def latest_hours(self, now: datetime, count: int) -> list[datetime]:
        """
        Return *count* hours, oldest first.

        They end with the hour of *now*, or with the latest usage if all of it lies elsewhere.
        """
        last = _hour_of(now)
        used = {hour for total in self._units.values() for hour in total.hours}
        if used and not any(last - count * _HOUR < hour <= last for hour in used):
            last = max(used)
        return [last - back * _HOUR for back in range(count - 1, -1, -1)]

    def _add(self, record: Metered) -> None:
        product, hour = record.product_code or record.license_arn or "", _hour_of(record.timestamp)
        total = self._cells.setdefault((product, record.customer, record.dimension, hour), [0, 0])
        quantity = millionths(record.quantity)
        total[0] += quantity
        total[1] += 1
        if product not in self._products:
            find = self._book.catalogue.product_of_license
            known = find(product) if record.license_arn else None
            self._products[product] = known or product
        unit = self._units.setdefault((self._products[product], record.dimension), _UnitTotal())
        unit.quantity += quantity
        unit.records += 1
        unit.hours[hour] += quantity
        self.regions.add(record.region)

    def _forget(self) -> None:
        for kept in (self._cells, self._products, self._units, self.regions):
            kept.clear()


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
