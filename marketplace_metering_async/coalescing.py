"""
Usage as it happened to the hourly records that the service counts: adding up, when asked to.

The service keeps the first record of a key (product or license, customer, dimension, clock hour)
and refuses the others, so usage of one hour must be added up before it is sent, and an hour must
be over before it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, evolve, frozen

from marketplace_metering_async.errors import (
    InvalidRecordError,
    MeteringError,
    QuantityOverflowError,
    Violation,
)
from marketplace_metering_async.limits import MAX_QUANTITY
from marketplace_metering_async.records import SECONDS_PER_HOUR, Tag, UsageAllocation, UsageRecord
from marketplace_metering_async.rules import shown

_TagSet = frozenset[tuple[str, str]]


@frozen
class HeldHour:
    """
    The sum of an hour that is not over: sent now, it would lock the hour at a part of its sum.

    Attributes:
        record: What would be sent.
        over_at: When the hour is over (UTC).
    """

    record: UsageRecord
    over_at: datetime


@frozen
class Coalesced:
    """
    Hourly records that add up to the usage given.

    Attributes:
        records: To send, by hour and then by first appearance.
        held: Hours that are not over, with what they have so far.
    """

    records: tuple[UsageRecord, ...]
    held: tuple[HeldHour, ...]


@define
class _Sum:
    first: UsageRecord
    quantity: int
    by_tags: dict[_TagSet, int] | None


Outcome = UsageRecord | HeldHour | MeteringError
"""What became of a key: a record, a held hour, or the reason why there is no record."""


class Coalescer:
    """
    Adds usage up, one piece after the other; its memory grows with the number of keys only.

    Allocations are merged by tag set. Where some pieces of a key have allocations and others have
    none, the latter count as untagged, so that the allocations still add up to the quantity.
    """

    def __init__(self, product_code: str | None = None) -> None:
        """Begin with nothing; *product_code* is that of usage which names none."""
        self._product_code = product_code
        self._places: dict[tuple[str | int | None, ...], int] = {}
        self._sums: list[_Sum] = []

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._sums)

    def add(self, usage: UsageRecord | Mapping[str, Any]) -> int:
        """
        Add *usage*, and return the index of its key among the outcomes.

        Raises:
            InvalidRecordError: if it is no valid record; nothing was added.
        """
        if isinstance(usage, UsageRecord):
            record = usage
        elif isinstance(usage, Mapping):
            record = UsageRecord.from_boto(usage)
        else:
            wanted = "a UsageRecord or a mapping"
            raise InvalidRecordError.of([Violation("", wanted, shown(usage), wrong_type=True)])
        place = self._places.setdefault(record.key(self._product_code), len(self._sums))
        if place == len(self._sums):
            self._sums.append(_Sum(record, record.quantity, _by_tags(record)))
        else:
            _grow(self._sums[place], record)
        return place

    def outcomes(self, now: datetime, *, include_current_hour: bool = False) -> list[Outcome]:
        """Return what became of each key at *now* (UTC), in the order of first appearance."""
        return [_outcome(s, i, now, include_current_hour) for i, s in enumerate(self._sums)]


def coalesce(
    usage: Iterable[UsageRecord | Mapping[str, Any]],
    *,
    now: datetime | None = None,
    product_code: str | None = None,
    include_current_hour: bool = False,
) -> Coalesced:
    """
    Add *usage* up to one record for each product or license, customer, dimension and hour.

    Records are stamped with the hour's start. An hour that is not over at *now* (by default the
    machine's time) is held back and reported, unless *include_current_hour*: its first record
    would lock it at a part of its sum. Quantities are exact whole units.

    Args:
        usage: UsageRecord objects or mappings as boto3 takes them.
        now: An aware time.
        product_code: The product of usage that names none; the records still name none.
        include_current_hour: Whether an hour that is not over is sent as well.

    Raises:
        InvalidRecordError: for usage that is no valid record, with its index in the path.
        QuantityOverflowError: if a sum is above 2147483647.
    """
    coalescer = Coalescer(product_code)
    for index, piece in enumerate(usage):
        try:
            coalescer.add(piece)
        except InvalidRecordError as error:
            raise error.under(f"usage[{index}]") from None
    outcomes = coalescer.outcomes(
        now or datetime.now(UTC), include_current_hour=include_current_hour
    )
    for outcome in outcomes:
        if isinstance(outcome, MeteringError):
            raise outcome
    records = [outcome for outcome in outcomes if isinstance(outcome, UsageRecord)]
    held = [outcome for outcome in outcomes if isinstance(outcome, HeldHour)]
    return Coalesced(
        records=tuple(sorted(records, key=lambda record: record.epoch)),
        held=tuple(sorted(held, key=lambda hour: hour.record.epoch)),
    )


def _by_tags(record: UsageRecord) -> dict[_TagSet, int] | None:
    if not record.usage_allocations:
        return None
    return {part.tag_set(): part.allocated_usage_quantity for part in record.usage_allocations}


def _grow(total: _Sum, record: UsageRecord) -> None:
    more = _by_tags(record)
    if more is not None or total.by_tags is not None:
        merged = {frozenset(): total.quantity} if total.by_tags is None else total.by_tags
        for tags, quantity in (more or {frozenset(): record.quantity}).items():
            merged[tags] = merged.get(tags, 0) + quantity
        total.by_tags = merged
    total.quantity += record.quantity


def _outcome(total: _Sum, index: int, now: datetime, include_current_hour: bool) -> Outcome:  # noqa: FBT001
    first = total.first
    start = datetime.fromtimestamp(first.epoch // SECONDS_PER_HOUR * SECONDS_PER_HOUR, UTC)
    if total.quantity > MAX_QUANTITY:
        place = f"{first.dimension!r} in the hour from {start:%Y-%m-%dT%H:%MZ} (key {index})"
        return QuantityOverflowError(place, total.quantity)
    try:
        record = evolve(
            first,
            timestamp=start,
            quantity=total.quantity,
            usage_allocations=_allocations(total.by_tags),
        )
    except InvalidRecordError as error:  # such as more allocations than a record may have
        return error
    over_at = start + timedelta(hours=1)
    return record if include_current_hour or over_at <= now else HeldHour(record, over_at)


def _allocations(by_tags: dict[_TagSet, int] | None) -> Sequence[UsageAllocation]:
    if by_tags is None:
        return ()
    return [
        UsageAllocation(quantity, [Tag(key, value) for key, value in sorted(tags)])
        for tags, quantity in by_tags.items()
    ]
