"""Laws of adding up: each unit is in one record, and neither order nor split changes a sum."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import NOON

from marketplace_metering_async.coalescing import Coalescer, HeldHour, coalesce
from marketplace_metering_async.errors import QuantityOverflowError
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY
from marketplace_metering_async.quantities import MILLION, Quantity, millionths, of_millionths
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

LATER = NOON + timedelta(days=2)
LICENSE = "arn:aws:license-manager::123456789012:license:l-"

tag_sets = st.sampled_from(
    [(), (Tag("team", "red"),), (Tag("team", "blue"),), (Tag("team", "red"), Tag("env", "prod"))]
)


def amounts(most: int) -> st.SearchStrategy[Quantity]:
    """Whole ones, and decimals to the last millionth."""
    return st.integers(0, most) | st.integers(0, most * MILLION).map(of_millionths)


@st.composite
def pieces(draw: st.DrawFn, most: int = 1000) -> UsageRecord:
    """Usage of few keys, so that many pieces meet in one; under each identity scheme."""
    scheme: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"customer_aws_account_id": "000000000001", "product_code": "p"},
                {"customer_aws_account_id": "000000000002", "product_code": "p"},
                {"customer_identifier": "000000000001", "product_code": "p"},
                {"customer_aws_account_id": "000000000001", "license_arn": LICENSE + "a"},
                {"customer_aws_account_id": "000000000001", "license_arn": LICENSE + "b"},
            ]
        )
    )
    sets = draw(st.lists(tag_sets, unique=True, max_size=3))
    parts = [UsageAllocation(draw(amounts(most)), tags) for tags in sets]
    allocated = sum(millionths(part.allocated_usage_quantity) for part in parts)
    return UsageRecord(
        timestamp=NOON - timedelta(minutes=draw(st.integers(0, 200)), seconds=1),
        dimension=draw(st.sampled_from(["requests", "Requests"])),
        quantity=of_millionths(allocated) if parts else draw(amounts(most)),
        usage_allocations=parts,
        **scheme,
    )


def sums(records: list[UsageRecord] | tuple[UsageRecord, ...]) -> Counter[Any]:
    """Millionths by key."""
    found: Counter[Any] = Counter()
    for record in records:
        found[record.key()] += millionths(record.quantity)
    return found


def allocated(records: list[UsageRecord] | tuple[UsageRecord, ...]) -> Counter[Any]:
    """Millionths by key and tag set; what has no allocation counts as untagged."""
    found: Counter[Any] = Counter()
    for record in records:
        for part in record.usage_allocations:
            found[record.key(), part.tag_set()] += millionths(part.allocated_usage_quantity)
        if not record.usage_allocations:
            found[record.key(), frozenset()] += millionths(record.quantity)
    return found


@given(st.lists(pieces(), max_size=40))
def test_every_unit_is_in_exactly_one_record(given_: list[UsageRecord]) -> None:
    """
    One record a key, with the sum of its pieces, stamped with the hour's start, oldest first.
    """
    done = coalesce(given_, now=LATER)

    assert +sums(given_) == +sums(done.records)
    assert len({piece.key() for piece in given_}) == len(done.records)
    assert all(record.epoch % 3600 == 0 for record in done.records)
    assert sorted(record.epoch for record in done.records) == [r.epoch for r in done.records]


@given(st.lists(pieces(), max_size=40))
def test_allocations_keep_their_sums_and_add_up(given_: list[UsageRecord]) -> None:
    """
    Every tag set of a key keeps its units, and a record's allocations add up to its quantity.
    """
    done = coalesce(given_, now=LATER)

    assert +allocated(given_) == +allocated(done.records)
    for record in done.records:
        parts = [millionths(part.allocated_usage_quantity) for part in record.usage_allocations]
        assert not parts or millionths(record.quantity) == sum(parts)
        assert bool(parts) is any(
            piece.usage_allocations for piece in given_ if piece.key() == record.key()
        )


@given(st.lists(pieces(), max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_usage_changes_no_sum(given_: list[UsageRecord], random: Any) -> None:
    """
    Usage may come in any order.
    """
    shuffled = list(given_)
    random.shuffle(shuffled)

    one, other = coalesce(given_, now=LATER), coalesce(shuffled, now=LATER)

    assert sums(one.records) == sums(other.records)
    assert +allocated(one.records) == +allocated(other.records)


@given(st.lists(pieces(), max_size=30), st.integers(0, 30))
def test_adding_up_in_steps_is_adding_up_at_once(given_: list[UsageRecord], cut: int) -> None:
    """
    Hourly records add up again to the same, also where they were made of parts of the usage.
    """
    once = coalesce(given_, now=LATER)
    parts = [coalesce(half, now=LATER).records for half in (given_[:cut], given_[cut:])]

    assert once.records == coalesce(once.records, now=LATER).records
    again = coalesce([*parts[0], *parts[1]], now=LATER)
    assert sums(once.records) == sums(again.records)
    assert +allocated(once.records) == +allocated(again.records)


@given(st.lists(pieces(), max_size=30), st.integers(-300, 300))
def test_held_hours_are_those_that_are_not_over(given_: list[UsageRecord], minutes: int) -> None:
    """
    Records and held hours together are all there is, and the time alone decides which is which.
    """
    now = NOON + timedelta(minutes=minutes)

    done = coalesce(given_, now=now)
    everything = coalesce(given_, now=now, include_current_hour=True)

    held = [hour.record for hour in done.held]
    assert sorted(everything.records, key=repr) == sorted([*done.records, *held], key=repr)
    assert all(record.timestamp + timedelta(hours=1) <= now for record in done.records)
    assert all(hour.over_at > now for hour in done.held)
    assert not everything.held


@given(st.lists(pieces(), max_size=30))
def test_each_piece_can_be_traced_to_its_record(given_: list[UsageRecord]) -> None:
    """
    The index that add() returns is that of the outcome which the piece went into.
    """
    coalescer = Coalescer()
    places = [coalescer.add(piece) for piece in given_]
    outcomes = coalescer.outcomes(LATER)

    assert len(coalescer) == len(outcomes) == len(set(places))
    assert list(dict.fromkeys(places)) == sorted(set(places))  # in the order of first appearance
    for place, outcome in enumerate(outcomes):
        assert isinstance(outcome, UsageRecord)
        mine = [millionths(p.quantity) for p, at in zip(given_, places, strict=True) if at == place]
        assert sum(mine) == millionths(outcome.quantity)


@given(st.lists(pieces(most=int(MAX_DECIMAL_QUANTITY) // 3), min_size=1, max_size=20))
def test_a_sum_is_exact_or_refused(given_: list[UsageRecord]) -> None:
    """
    Never clamped, never wrapped: above all quantities a key is refused, only that key. Covers: V02
    """
    coalescer = Coalescer()
    for piece in given_:
        coalescer.add(piece)
    wanted = sums(given_)
    too_large = {key for key, total in wanted.items() if total > millionths(MAX_DECIMAL_QUANTITY)}

    outcomes = coalescer.outcomes(LATER)

    good = [outcome for outcome in outcomes if isinstance(outcome, UsageRecord)]
    assert {record.key(): millionths(record.quantity) for record in good} == {
        key: total for key, total in wanted.items() if key not in too_large
    }
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuantityOverflowError)]
    assert len(too_large) == len(refused)
    assert sorted(wanted[key] for key in too_large) == sorted(
        millionths(error.total) for error in refused
    )
    if too_large:
        with pytest.raises(QuantityOverflowError):
            coalesce(given_, now=LATER)


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_an_hour_is_one_of_utc(moment: datetime) -> None:
    """
    Whatever the zone, its half hours and folds: floored in UTC, in integers. Covers: H09, H10, H12
    """
    piece = UsageRecord(
        timestamp=moment, dimension="d", quantity=1, customer_aws_account_id="1", product_code="p"
    )

    (outcome,) = coalesce([piece], now=LATER + timedelta(days=400)).records

    assert 0 <= moment.timestamp() - outcome.epoch < 3600
    assert 0 == outcome.epoch % 3600


def test_held_and_refused_keys_do_not_hide_each_other() -> None:
    """
    A key above all quantities is refused even while its hour is not over.
    """
    coalescer = Coalescer("p")
    for quantity in (MAX_DECIMAL_QUANTITY, 1):
        coalescer.add(
            UsageRecord(
                timestamp=NOON, dimension="d", quantity=quantity, customer_aws_account_id="1"
            )
        )
    coalescer.add(
        UsageRecord(timestamp=NOON, dimension="e", quantity=1, customer_aws_account_id="1")
    )

    overflow, held = coalescer.outcomes(NOON)

    assert isinstance(overflow, QuantityOverflowError)
    assert isinstance(held, HeldHour)
