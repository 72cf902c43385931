"""Chunks for the tests of pure decisions, and JSON-sized records for those of bytes."""

from collections.abc import Callable, Sequence

from marketplace_metering_async.delivery.model import NO_ATTEMPTS, AttemptHistory, Chunk, Lane
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord
from support.memory import usage

PRODUCT = Lane("product")


def chunk_of(
    records: Sequence[UsageRecord],
    histories: Sequence[AttemptHistory] | None = None,
    lane: Lane = PRODUCT,
    first: int = 0,
) -> Chunk:
    """Return a chunk of *records*, which stand from position *first* on."""
    return Chunk(
        lane,
        list(range(first, first + len(records))),
        list(records),
        [NO_ATTEMPTS] * len(records) if histories is None else list(histories),
        [record.to_wire() for record in records],
    )


def large_record(kilobytes: int, product_code: str = "product") -> UsageRecord:
    """Return a record whose allocations take about so many thousands of bytes."""
    value = "v" * 230
    parts = [
        UsageAllocation(0, [*(Tag(f"k{n}", value) for n in range(3)), Tag("n", str(number))])
        for number in range(kilobytes)
    ]
    (record,) = usage(1, quantity=0, product_code=product_code, usage_allocations=parts)
    return record


def at(given: Sequence[UsageRecord]) -> Callable[[Sequence[int]], list[UsageRecord]]:
    """Return what looks records up by their positions in *given*."""
    return lambda positions: [given[position] for position in positions]
