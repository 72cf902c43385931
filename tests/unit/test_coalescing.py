"""Coalescing: sums are exact, hours that are not over are held, nothing is guessed."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.memory import usage
from support.strategies import NOON

from marketplace_metering_async.coalescing import Coalescer, coalesce
from marketplace_metering_async.errors import InvalidRecordError, QuantityOverflowError
from marketplace_metering_async.limits import MAX_ALLOCATIONS, MAX_DECIMAL_QUANTITY
from marketplace_metering_async.quantities import Quantity
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

LATER = NOON + timedelta(days=2)
RED, BLUE = Tag("team", "red"), Tag("env", "prod")


def by_tags(record: UsageRecord) -> dict[frozenset[tuple[str, str]], Quantity]:
    return {part.tag_set(): part.allocated_usage_quantity for part in record.usage_allocations}


def test_allocations_are_merged_by_tag_set() -> None:
    """
    The order of tags does not matter, and usage without allocations counts as untagged.
    Covers: V08
    """
    given = [
        *usage(1, quantity=3, usage_allocations=[UsageAllocation(3, [RED, BLUE])]),
        *usage(1, quantity=4),
        *usage(
            1, quantity=5, usage_allocations=[UsageAllocation(2, [BLUE, RED]), UsageAllocation(3)]
        ),
    ]

    (record,) = coalesce(given, now=LATER).records

    assert 12 == record.quantity
    both = frozenset({("team", "red"), ("env", "prod")})
    assert {both: 5, frozenset(): 7} == by_tags(record)


def test_no_untagged_part_is_made_of_nothing() -> None:
    """
    A zero without allocations adds no allocation of zero units.
    """
    given = [
        *usage(1, quantity=0),
        *usage(1, quantity=3, usage_allocations=[UsageAllocation(3, [RED])]),
    ]

    (record,) = coalesce(given, now=LATER).records

    assert {frozenset({("team", "red")}): 3} == by_tags(record)


def test_more_tag_sets_than_a_record_may_have_are_refused() -> None:
    """
    Each piece is within the limit, their sum is not; the text names the key.
    """
    given = [
        usage(1, quantity=1, usage_allocations=[UsageAllocation(1, [Tag("n", str(number))])])[0]
        for number in range(MAX_ALLOCATIONS + 1)
    ]

    with pytest.raises(InvalidRecordError, match=r"'requests' of product.*at most 2500"):
        coalesce(given, now=LATER)


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


def test_now_may_be_of_any_zone_but_has_one() -> None:
    """
    A naive time would be somebody's local time.
    """
    abroad = (NOON + timedelta(minutes=59)).astimezone(timezone(timedelta(hours=5, minutes=45)))
    running = usage(1, timestamp=NOON)

    assert 1 == len(coalesce(running, now=abroad).held)
    with pytest.raises(ValueError, match="time zone"):
        coalesce(running, now=NOON.replace(tzinfo=None))


def test_a_sum_above_all_quantities_is_refused_loudly() -> None:
    """
    Never clamped or wrapped; the text names the key, but no whole customer id. Covers: V02
    """
    account = "123456789012"
    given = usage(1, quantity=MAX_DECIMAL_QUANTITY, customer_aws_account_id=account)
    given += usage(1, quantity="0.000001", customer_aws_account_id=account)

    with pytest.raises(QuantityOverflowError) as caught:
        coalesce(given, now=LATER)

    wanted = (
        "'requests' of product, customer …9012, hour 2026-11-23T10:00Z: "
        "the sum 10000000000 is above 9999999999.999999, the greatest quantity"
    )
    assert wanted == str(caught.value)
    assert 10**10 == caught.value.total


def test_the_greatest_quantity_is_none_too_many() -> None:
    """
    The limit itself is a quantity.
    """
    given = usage(1, quantity=MAX_DECIMAL_QUANTITY - 1) + usage(1, quantity=1)

    (record,) = coalesce(given, now=LATER).records

    assert record.quantity == MAX_DECIMAL_QUANTITY


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Quantity": -1}, r"usage\[1\].quantity: expected 0 to"),
        ({"Quantity": True}, r"usage\[1\].quantity"),
        ({"Quantity": 1.0}, r"usage\[1\].quantity"),
        ({"Timestamp": datetime(2026, 11, 23)}, r"usage\[1\].timestamp.*one without"),  # noqa: DTZ001
        ({"Dimension": ""}, r"usage\[1\].dimension"),
        ({"Foo": 1}, r"usage\[1\].Foo"),
    ],
)
def test_what_is_no_usage_is_named(change: dict[str, Any], says: str) -> None:
    """
    With its index. Covers: V01
    """
    with pytest.raises(InvalidRecordError, match=says):
        coalesce([*usage(1), {**usage(1)[0].to_boto(), **change}], now=LATER)


def test_what_is_no_record_at_all_is_named() -> None:
    """
    A TypeError as well.
    """
    with pytest.raises(TypeError, match=r"usage\[0\]: expected a UsageRecord or a mapping"):
        coalesce([7], now=LATER)  # type: ignore[list-item]


def test_the_calls_product_is_that_of_usage_without_one() -> None:
    """
    Usage of the same product meets in one record, whether it names the product or not.
    """
    anonymous, named = usage(1, product_code=None, quantity=2), usage(1, quantity=3)

    assert [5] == [
        r.quantity
        for r in coalesce([*anonymous, *named], now=LATER, product_code="product").records
    ]
    assert [2, 3] == [r.quantity for r in coalesce([*anonymous, *named], now=LATER).records]


def test_a_licenses_product_is_the_first_that_is_named() -> None:
    """
    It is no part of the key, and says with whom the record may share a request.
    """
    arn = "arn:aws:license-manager::123456789012:license:l-a"
    codes = (None, "product", "other")
    given = [usage(1, product_code=code, license_arn=arn)[0] for code in codes]

    assert ["product"] == [r.product_code for r in coalesce(given, now=LATER).records]


def test_each_piece_knows_its_key() -> None:
    """
    add() tells where among the outcomes the piece went; what is refused adds nothing.
    """
    coalescer = Coalescer("p")
    a, b = usage(2, product_code=None)

    assert [0, 1, 0] == [coalescer.add(piece) for piece in (a, b, a)]
    with pytest.raises(InvalidRecordError):
        coalescer.add({"Quantity": 1})
    assert 2 == len(coalescer)
    assert [2, 2] == [getattr(o, "quantity", None) for o in coalescer.outcomes(LATER)]
