"""
Sums over the book that are kept, and take in each record once.

Records only come, until all is forgotten; so whoever asks again waits for what is new, and an
event loop has its turns between two slices of many.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Lock
from typing import Any, Final

from marketplace_metering_async.sandbox.service.metered import Metered, MeteredRecords
from marketplace_metering_async.sandbox.service.quantities import (
    Quantity,
    millionths,
    of_millionths,
)

_SLICE: Final = 2000
"""Records that are taken in at a step."""


class Following(ABC):
    """What follows the records of a book; any thread may ask."""

    def __init__(self) -> None:
        self._taken_in: tuple[object, int] = (None, 0)
        self._turn = Lock()

    def catch_up(self, records: MeteredRecords) -> Iterator[None]:
        """
        Take in what has come since, a few milliseconds' worth at a step.

        It begins anew where the book has forgotten, or where what it goes by has changed.
        """
        while not self._follow(records):
            yield

    def _follow(self, records: MeteredRecords) -> bool:
        """Take in some records, and return whether all are taken in."""
        with self._turn:
            basis = (records.generation, self._basis())
            before, count = self._taken_in
            if before != basis:
                self._forget()
                count = 0
            some = records.records(count, _SLICE)
            for record in some:
                self._add(record)
            self._taken_in = (basis, count + len(some))
            return len(some) < _SLICE

    def _basis(self) -> object:
        """Return what it goes by beside the records."""
        return None

    @abstractmethod
    def _add(self, record: Metered) -> None:
        """Take in a record."""

    @abstractmethod
    def _forget(self) -> None:
        """Begin anew."""


class Totals(Following):
    """The quantities by one attribute of Metered, as text, or by several, as they are."""

    def __init__(self, by: str | tuple[str, ...]) -> None:
        super().__init__()
        self._by = by
        self._sums: Counter[Any] = Counter()

    def items(self) -> Iterator[tuple[Any, Quantity]]:
        """Return the sums as of now."""
        with self._turn:
            sums = list(self._sums.items())
        return ((case, of_millionths(total)) for case, total in sums)

    def _add(self, record: Metered) -> None:
        by = self._by
        case = (
            str(getattr(record, by))
            if isinstance(by, str)
            else tuple([getattr(record, name) for name in by])
        )
        self._sums[case] += millionths(record.quantity)

    def _forget(self) -> None:
        self._sums.clear()


class RepeatedUsage(Following):
    """Usage of one buyer, product, dimension and hour that is on file more than once."""

    def __init__(
        self, whose: Callable[[Metered], tuple[str, str]], basis: Callable[[], object]
    ) -> None:
        """
        Begin with nothing.

        Args:
            whose: Tells product and buyer behind a record.
            basis: Tells what *whose* goes by; another value where it has changed.
        """
        super().__init__()
        self._whose = whose
        self._whose_basis = basis
        self._first: dict[tuple[str, str, str, datetime], Metered] = {}
        self._several: dict[tuple[str, str, str, datetime], list[Metered]] = {}

    def _basis(self) -> object:
        return self._whose_basis()

    def lines(self) -> Iterator[str]:
        """Return a line for each as of now, but for what several agreements allow."""
        with self._turn:
            cases = list(self._several.items())
        return (line for case, records in cases if (line := _line(case, records)))

    def _add(self, record: Metered) -> None:
        case = (*self._whose(record), record.dimension, record.hour)
        first = self._first.setdefault(case, record)
        if first is not record:
            self._several.setdefault(case, [first]).append(record)

    def _forget(self) -> None:
        self._first.clear()
        self._several.clear()


def _line(case: tuple[str, str, str, datetime], records: list[Metered]) -> str | None:
    licenses = {record.license_arn for record in records}
    several_agreements = None not in licenses and len(licenses) == len(records)
    if several_agreements or all(record.workload is not None for record in records):
        return None
    *names, hour = case
    parts = ", ".join(f"{r.quantity} by {r.identity} in {r.region}" for r in records)
    return f"{' '.join(names)} {hour:%Y-%m-%dT%H:%MZ}: {parts}"
