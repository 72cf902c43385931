"""Coalescing: sums are exact, hours that are not over are held, nothing is guessed."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage
from support.strategies import NOON, recent, records

from marketplace_metering_async.coalescing import Coalescer, coalesce
from marketplace_metering_async.errors import InvalidRecordError, QuantityOverflowError
from marketplace_metering_async.limits import MAX_QUANTITY
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

LATER = NOON + timedelta(days=2)


def hour_of(record: UsageRecord) -> tuple[object, ...]:
    return record.key()


@given(st.lists(records(recent), max_size=60))
def test_sums_are_kept_by_key(given_: list[UsageRecord]) -> None:
    """
    Every unit is in exactly one record, stamped with its hour's start.
    """
    sums: Counter[tuple[object, ...]] = Counter()
    for record in given_:
        sums[hour_of(record)] += record.quantity
    if any(total > MAX_QUANTITY for total in sums.values()):
        with pytest.raises(QuantityOverflowError):
            coalesce(given_, now=LATER)
        return

    done = coalesce(given_, now=LATER)

    assert dict(sums) == {hour_of(r): r.quantity for r in done.records}
    assert len(sums) == len(done.records)
    assert all(r.epoch % 3600 == 0 for r in done.records)
    assert sorted(r.epoch for r in done.records) == [r.epoch for r in done.records]
    assert () == done.held


@given(st.lists(records(recent), max_size=40), st.integers(0, 40))
def test_adding_up_twice_changes_nothing(given_: list[UsageRecord], cut: int) -> None:
    """
    Coalescing the records again, or in two steps, gives the same sums.
    """
    try:
        once = coalesce(given_, now=LATER)
    except QuantityOverflowError:
        return
    parts = [coalesce(given_[:cut], now=LATER), coalesce(given_[cut:], now=LATER)]
    again = coalesce([*parts[0].records, *parts[1].records], now=LATER)

    assert {r.key(): r.quantity for r in once.records} == {
        r.key(): r.quantity for r in again.records
    }


def test_allocations_are_merged_by_tag_set() -> None:
    """
    The order of tags does not matter, and usage without allocations counts as untagged.
    """
    red, blue = Tag("team", "red"), Tag("env", "prod")
    given_ = [
        *usage(1, quantity=3, usage_allocations=[UsageAllocation(3, [red, blue])]),
        *usage(1, quantity=4),
        *usage(
            1, quantity=5, usage_allocations=[UsageAllocation(2, [blue, red]), UsageAllocation(3)]
        ),
    ]

    (record,) = coalesce(given_, now=LATER).records

    assert 12 == record.quantity
    assert {frozenset({("team", "red"), ("env", "prod")}): 5, frozenset(): 7} == {
        part.tag_set(): part.allocated_usage_quantity for part in record.usage_allocations
    }


def test_an_hour_that_is_not_over_is_held() -> None:
    """
    Its first record would lock it at a part of its sum; the caller may say otherwise.
    """
    now = datetime(2026, 11, 23, 12, 59, 59, tzinfo=UTC)
    over = usage(1, timestamp=NOON - timedelta(seconds=1))
    running = usage(2, timestamp=NOON)[1:]

    held = coalesce(over + running, now=now)
    sent = coalesce(over + running, now=now, include_current_hour=True)

    assert [NOON - timedelta(hours=1)] == [r.timestamp for r in held.records]
    assert [2] == [hour.record.quantity for hour in held.held]
    assert NOON + timedelta(hours=1) == held.held[0].over_at
    assert 2 == len(sent.records)
    assert 2 == len(coalesce(over + running, now=now + timedelta(seconds=1)).records)


def test_a_sum_above_int32_is_refused_loudly() -> None:
    """
    Never clamped or wrapped, and the customer's id stays out of the text. Covers: V02
    """
    given_ = usage(1, quantity=MAX_QUANTITY) + usage(1, quantity=1)

    with pytest.raises(QuantityOverflowError, match="2147483648") as caught:
        coalesce(given_, now=LATER)

    assert "000000000000" not in str(caught.value)


def test_what_is_no_usage_is_named() -> None:
    """
    With its index.
    """
    with pytest.raises(InvalidRecordError, match=r"usage\[1\].quantity"):
        coalesce([*usage(1), {**usage(1)[0].to_boto(), "Quantity": -1}], now=LATER)
    with pytest.raises(InvalidRecordError, match=r"usage\[0\]: expected a UsageRecord"):
        coalesce([7], now=LATER)  # type: ignore[list-item]


def test_each_piece_knows_its_key() -> None:
    """
    add() tells where among the outcomes the piece went.
    """
    coalescer = Coalescer("p")
    a, b = usage(2, product_code=None)

    assert [0, 1, 0] == [coalescer.add(piece) for piece in (a, b, a)]
    assert 2 == len(coalescer)
    assert [2, 2] == [getattr(o, "quantity", None) for o in coalescer.outcomes(LATER)]
