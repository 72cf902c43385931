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

from marketplace_metering_async import rules
from marketplace_metering_async.errors import (
    InvalidRecordError,
    MeteringError,
    QuantityOverflowError,
    mask,
)
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY
from marketplace_metering_async.quantities import millionths, of_millionths
from marketplace_metering_async.records import (
    SECONDS_PER_HOUR,
    Tag,
    UsageAllocation,
    UsageRecord,
    record_of,
    utc_of,
)

_TagSet = frozenset[tuple[str, str]]
_UNTAGGED: _TagSet = frozenset()


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
        held: Hours that are not over, with what they have so far, in the same order.
    """

    records: tuple[UsageRecord, ...]
    held: tuple[HeldHour, ...]


@define
class _Sum:
    """
    What a key has so far.

    Attributes:
        first: The first piece; its members but the quantity are those of the record.
        quantity: Of all pieces, in millionths, as the others.
        by_tags: What was allocated, by tag set.
        unallocated: Of the pieces without allocations.
    """

    first: UsageRecord
    quantity: int
    by_tags: dict[_TagSet, int]
    unallocated: int


HourOutcome = UsageRecord | HeldHour | MeteringError
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
        record = record_of(usage)
        place = self._places.setdefault(record.key(self._product_code), len(self._sums))
        if place == len(self._sums):
            self._sums.append(_Sum(record, 0, {}, 0))
        _grow(self._sums[place], record)
        return place

    def outcomes(self, now: datetime, *, include_current_hour: bool = False) -> list[HourOutcome]:
        """
        Return what became of each key at *now* (aware), in the order of first appearance.

        Raises:
            ValueError: if *now* has no time zone.
        """
        for violation in rules.timestamp("now", now):
            raise ValueError(str(violation))
        outcomes: list[HourOutcome] = []
        for total in self._sums:
            outcome = _outcome(total, total.first.product_code or self._product_code)
            if isinstance(outcome, UsageRecord) and not include_current_hour:
                over_at = outcome.timestamp + timedelta(hours=1)
                outcomes.append(outcome if over_at <= now else HeldHour(outcome, over_at))
            else:
                outcomes.append(outcome)
        return outcomes


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
    would lock it at a part of its sum. Quantities add up exactly. Allocations are merged by tag
    set; usage without any counts as untagged beside usage that has some.

    Args:
        usage: UsageRecord objects or mappings as boto3 takes them.
        now: An aware time.
        product_code: The product of usage that names none; the records still name none.
        include_current_hour: Whether an hour that is not over is sent as well.

    Raises:
        InvalidRecordError: for usage that is no valid record, with its index in the path; or for
            a sum that makes no valid record, as one of more than 2,500 tag sets.
        QuantityOverflowError: if a sum is above 9999999999.999999.
        ValueError: if *now* has no time zone.
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


def _grow(total: _Sum, record: UsageRecord) -> None:
    quantity = millionths(record.quantity)
    total.quantity += quantity
    if not record.usage_allocations:
        total.unallocated += quantity
    for part in record.usage_allocations:
        tags, share = part.tag_set(), millionths(part.allocated_usage_quantity)
        total.by_tags[tags] = total.by_tags.get(tags, 0) + share
    if total.first.product_code is None and record.product_code is not None:
        # The key of a license has no product in it, and any piece may be the one that names it.
        total.first = evolve(total.first, product_code=record.product_code)


def _outcome(total: _Sum, product_code: str | None) -> UsageRecord | MeteringError:
    first = total.first
    start = utc_of(first.epoch // SECONDS_PER_HOUR * SECONDS_PER_HOUR)
    quantity = of_millionths(total.quantity)
    if quantity > MAX_DECIMAL_QUANTITY:
        return QuantityOverflowError(_place(first, product_code, start), quantity)
    try:
        return evolve(
            first,
            timestamp=start,
            quantity=quantity,
            usage_allocations=_allocations(total),
        )
    except InvalidRecordError as error:  # more tag sets than a record may have
        return error.under(_place(first, product_code, start))


def _place(first: UsageRecord, product_code: str | None, start: datetime) -> str:
    """Name a key for a person, without the customer's whole id."""
    customer = mask(first.customer_aws_account_id or first.customer_identifier or "")
    product = mask(first.license_arn) if first.license_arn else product_code or "no product"
    hour = f"{start:%Y-%m-%dT%H:%MZ}"
    return f"{rules.describe(first.dimension)} of {product}, customer {customer}, hour {hour}"


def _allocations(total: _Sum) -> Sequence[UsageAllocation]:
    if not total.by_tags:
        return ()
    merged = total.by_tags
    if total.unallocated:
        merged = {**merged, _UNTAGGED: merged.get(_UNTAGGED, 0) + total.unallocated}
    return [
        UsageAllocation(of_millionths(share), [Tag(key, value) for key, value in sorted(tags)])
        for tags, share in merged.items()
    ]
