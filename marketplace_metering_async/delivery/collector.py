"""Verdicts that come in any order, brought into the order of what was given."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import cast, overload

from attrs import define

from marketplace_metering_async.results import (
    BatchMeterUsageResult,
    RecordResult,
    RecordStatus,
    SettledRecords,
    Verdict,
    in_order,
)


class ResultCollector:
    """
    Takes what was given, and later the verdict on each, in columns.

    Attributes:
        counts: How many have which verdict, so far.
    """

    def __init__(self) -> None:
        self.counts: Counter[RecordStatus] = Counter()
        self._given: list[object] = []
        self._verdicts: list[Verdict | None] = []
        self._record_ids: list[str | None] = []
        self._missing = 0

    def __len__(self) -> int:
        """Return how many records were given so far."""
        return len(self._given)

    def expect(self, given: Sequence[object]) -> None:
        """Take note of what else was given."""
        self._given += given
        self._verdicts += [None] * len(given)
        self._record_ids += [None] * len(given)
        self._missing += len(given)

    def add(self, outcomes: Iterable[SettledRecords]) -> None:
        """
        Take outcomes in.

        Raises:
            ValueError: for a position that has one already, or lies outside what was given.
        """
        verdicts, record_ids = self._verdicts, self._record_ids
        for verdict, positions, ids in outcomes:
            for position, record_id in zip(positions, ids, strict=True):
                if not 0 <= position < len(verdicts):
                    raise ValueError(f"a foreign result for records[{position}]")
                if verdicts[position] is not None:
                    raise ValueError(f"a second result for records[{position}]")
                verdicts[position] = verdict
                record_ids[position] = record_id
            self.counts[verdict.status] += len(positions)
            self._missing -= len(positions)

    def missing(self, among: Sequence[int] | None = None) -> list[int]:
        """Return which of some positions, or of all, have no verdict."""
        places = range(len(self._verdicts)) if among is None else among
        return [place for place in places if self._verdicts[place] is None]

    def result(self, *, calls: int = 0, throttled: int = 0) -> BatchMeterUsageResult:
        """
        Return all results.

        Raises:
            ValueError: if a position has none.
        """
        if self._missing:
            raise ValueError(f"{self._missing} records have no result")
        verdicts = cast("list[Verdict]", self._verdicts)
        results = _Columns(self._given, verdicts, self._record_ids)
        return BatchMeterUsageResult(results, in_order(self.counts), calls, throttled)


@define(eq=False, repr=False)
class _Columns(Sequence[RecordResult]):
    """
    Results in columns, each made when it is asked for.

    A million objects more would take as much memory as the records, and the time of the garbage
    collector, which looks at all of them again and again while the rest is sent.
    """

    _given: list[object]
    _verdicts: list[Verdict]
    _record_ids: list[str | None]

    @overload
    def __getitem__(self, index: int) -> RecordResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordResult]: ...
    def __getitem__(self, index: int | slice) -> RecordResult | Sequence[RecordResult]:
        places = range(len(self._given))[index]
        return self._at(places) if isinstance(places, int) else [self._at(n) for n in places]

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[RecordResult]:
        return map(RecordResult, count(), self._given, self._verdicts, self._record_ids)

    def _at(self, place: int) -> RecordResult:
        return RecordResult(
            place, self._given[place], self._verdicts[place], self._record_ids[place]
        )
