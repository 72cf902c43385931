"""Duplicates: records that the service would take for one, beside plain tables."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage
from support.virtual import START

from marketplace_metering_async.delivery.duplicates import (
    Duplicates,
    SchemeOverlaps,
    UsageHashes,
    is_same,
)
from marketplace_metering_async.errors import ConflictingRecordsError
from marketplace_metering_async.records import Tag, UsageAllocation, UsageRecord

ARN = "arn:aws:license-manager::123456789012:license:l-1"


def test_identical_records_follow_the_first() -> None:
    """
    One that differs puts all of them in conflict, whichever came first.
    """
    a, b = usage(2)
    (changed,) = usage(1, quantity=9)
    given_ = [a, b, a, changed, a]
    duplicates = Duplicates(None, given_.__getitem__)

    assert [False, False, True] == [duplicates.note(n, given_[n]) for n in range(3)]
    assert {0: [2]} == duplicates.copies
    assert [] == list(duplicates.conflicts())

    assert duplicates.note(3, changed)
    assert duplicates.note(4, a)

    (conflict,) = duplicates.conflicts()
    assert isinstance(conflict, ConflictingRecordsError)
    assert (0, 2, 3, 4) == conflict.positions
    assert {} == duplicates.copies


def test_quantities_are_compared_by_value() -> None:
    """
    17, 17.0 and 17.00 are one record, split by tags or not, and 17.000001 is another.
    """

    def whole(quantity: Any) -> UsageRecord:
        return usage(1, quantity=quantity)[0]

    def split(quantity: Any) -> UsageRecord:
        return usage(1, quantity=quantity, usage_allocations=[UsageAllocation(quantity)])[0]

    for make in (whole, split):
        alike = [make(quantity) for quantity in (17, "17.0", Decimal("17.00"), Decimal("0.17E2"))]

        assert all(is_same(alike[0], one) for one in alike)
        assert not is_same(alike[0], make("17.000001"))


@pytest.mark.parametrize(
    "difference",
    [
        {"quantity": 2},
        {"quantity": "1.000001"},
        {"timestamp": usage(1)[0].timestamp.replace(second=1)},
        {"usage_allocations": [UsageAllocation(1, [Tag("k", "v")])]},
    ],
)
def test_any_difference_the_service_would_see_counts(difference: dict[str, Any]) -> None:
    """
    Quantity, time within the hour, allocations.
    """
    one, other = usage(1)[0], usage(1, **difference)[0]

    assert one.key() == other.key()
    assert is_same(one, usage(1)[0])
    assert not is_same(one, other)
    duplicates = Duplicates(None, [one, other].__getitem__)
    assert [False, True] == [duplicates.note(0, one), duplicates.note(1, other)]
    assert [(0, 1)] == [conflict.positions for conflict in duplicates.conflicts()]


def test_the_product_of_the_call_makes_keys_equal() -> None:
    """
    A record that names it and one that does not are of one key.
    """
    given_ = [usage(1)[0], usage(1, product_code=None)[0]]

    for code, copies in (("product", {0: [1]}), ("another", {})):
        duplicates = Duplicates(code, given_.__getitem__)
        for position, record in enumerate(given_):
            duplicates.note(position, record)
        assert copies == duplicates.copies


def test_the_first_that_is_gone_is_compared_with_nothing() -> None:
    """
    What cannot be compared is no copy.
    """
    (record,) = usage(1)
    duplicates = Duplicates(None, lambda position: None)

    assert [False, True] == [duplicates.note(n, record) for n in range(2)]
    assert [(0, 1)] == [conflict.positions for conflict in duplicates.conflicts()]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2)), max_size=30))
def test_duplicates_beside_a_plain_table(given_: list[tuple[str, int]]) -> None:
    """
    Each record is sent, a copy of one that is, or in a conflict; and never two of these.
    """
    records = [
        usage(1, dimension=dimension, quantity=quantity)[0] for dimension, quantity in given_
    ]
    groups: dict[str, list[int]] = {}
    for position, (dimension, _) in enumerate(given_):
        groups.setdefault(dimension, []).append(position)
    duplicates = Duplicates(None, records.__getitem__)

    repeated = [p for p, record in enumerate(records) if duplicates.note(p, record)]

    assert sorted(chain.from_iterable(group[1:] for group in groups.values())) == repeated
    same = [group for group in groups.values() if 1 == len({given_[p][1] for p in group})]
    assert {group[0]: group[1:] for group in same if group[1:]} == duplicates.copies
    differing = sorted(tuple(group) for group in groups.values() if group not in same)
    assert differing == sorted(conflict.positions for conflict in duplicates.conflicts())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30))
def test_usage_that_comes_twice(given_: list[tuple[str, int, bool]]) -> None:
    """
    Whatever shares a key, or an hour under both schemes, is found before it is compared, and no
    other.
    """
    hashes = UsageHashes()
    records = [
        usage(
            1,
            dimension=dimension,
            timestamp=START.replace(minute=0) + timedelta(minutes=30 * half),
            license_arn=ARN if licensed else None,
        )[0]
        for dimension, half, licensed in given_
    ]
    for record in records:
        hashes.note([record])

    times = Counter((dimension, half // 2) for dimension, half, _ in given_)
    repeated = [times[dimension, half // 2] > 1 for dimension, half, _ in given_]
    assert repeated == [hashes.is_repeated(record) for record in records]
    assert any(repeated) == bool(hashes.repeated)


def under(scheme: str, product_code: str | None = "product", **members: Any) -> UsageRecord:
    arn = ARN if scheme == "license" else None
    return usage(1, product_code=product_code, license_arn=arn, **members)[0]


@pytest.mark.parametrize("schemes", [("license", "code"), ("code", "license")])
def test_one_hour_under_both_schemes_is_found(schemes: tuple[str, str]) -> None:
    """
    The service would bill both; whichever comes first, all of the other scheme are named.
    """
    overlaps = SchemeOverlaps(None)
    first, second = map(under, schemes)

    assert [] == overlaps.note(0, first)
    assert [] == overlaps.note(1, first)
    assert [0, 1] == overlaps.note(2, second)
    assert [2] == overlaps.note(3, first)
    assert not overlaps.is_unclear


@pytest.mark.parametrize(
    "other",
    [
        {"product_code": "another"},
        {"dimension": "another"},
        {"customer_aws_account_id": "999"},
        {"timestamp": usage(1)[0].timestamp.replace(hour=3)},
    ],
)
def test_others_do_not_overlap(other: dict[str, Any]) -> None:
    """
    Another product, dimension, account or hour.
    """
    overlaps = SchemeOverlaps(None)
    overlaps.note(0, under("license"))

    assert [] == overlaps.note(1, under("code", **{"product_code": "product", **other}))
    assert not overlaps.is_unclear


@pytest.mark.parametrize(
    ("codes", "of_call", "unclear"),
    [
        ((None, "product"), None, True),
        ((None, "product"), "product", False),
        (("product", "another"), None, False),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_that_nobody_named_is_a_suspicion(
    codes: tuple[str | None, str],
    of_call: str | None,
    unclear: bool,  # noqa: FBT001
    swapped: bool,  # noqa: FBT001
) -> None:
    """
    Of a license alone, since a product code is named for every other record.
    """
    overlaps = SchemeOverlaps(of_call)
    pair = [under("license", codes[0]), under("code", codes[1])]

    found = [
        overlaps.note(n, record) for n, record in enumerate(reversed(pair) if swapped else pair)
    ]

    assert unclear == overlaps.is_unclear
    assert ([0] if of_call else []) == found[1]


def test_what_was_forgotten_is_no_suspicion() -> None:
    """
    Neither where the record names its product, nor where the call does.
    """
    for of_call, code in ((None, "product"), ("product", None), ("other", "product")):
        overlaps = SchemeOverlaps(of_call)
        record = under("code", code)
        overlaps.note(0, record)
        overlaps.forget(0, record)

        unnamed = SchemeOverlaps(None) if of_call else overlaps
        assert [] == unnamed.note(1, under("license", None))
        assert not unnamed.is_unclear
        assert [] == overlaps.note(2, under("license", code or "product"))


def test_overlaps_are_drained_in_steps() -> None:
    """
    Each lets go of one dimension and no more, however many there are, and names what overlaps.
    """
    overlaps = SchemeOverlaps(None)
    for n, dimension in enumerate("abcdef"):
        overlaps.note(n, under("code", dimension=dimension))
    overlaps.note(6, under("license", dimension="e"))
    draining = overlaps.drain()

    assert [[], [[4, 6]], []] == [next(draining) for _ in range(3)]
    assert [[0], [1], [2], [], [], []] == [
        overlaps.note(7, under("license", dimension=dimension)) for dimension in "abcdef"
    ]


def test_legacy_identifiers_overlap_with_nothing() -> None:
    """
    A license always goes with an account, so there is nothing to compare them by.
    """
    overlaps = SchemeOverlaps(None)
    legacy = usage(1, customer_aws_account_id=None, customer_identifier="c")[0]

    assert [[], [], []] == [
        overlaps.note(n, record)
        for n, record in enumerate([legacy, under("license", None), legacy])
    ]
    assert not overlaps.is_unclear


@given(
    st.lists(
        st.tuples(st.sampled_from(["code", "license"]), st.sampled_from("ab"), st.booleans()),
        max_size=30,
    )
)
def test_forgotten_records_overlap_no_more(steps: list[tuple[str, str, bool]]) -> None:
    """
    One that has its verdict leaves room, and the others of its hour stay.
    """
    overlaps = SchemeOverlaps("product")
    kept: list[tuple[int, str, str]] = []
    for position, (scheme, dimension, ends) in enumerate(steps):
        expected = [p for p, s, d in kept if s != scheme and d == dimension]
        assert expected == overlaps.note(position, under(scheme, None, dimension=dimension))
        kept.append((position, scheme, dimension))
        if ends:
            gone, of_scheme, of_dimension = kept.pop(len(kept) // 2)
            for _ in range(2):  # the second time says nothing
                overlaps.forget(gone, under(of_scheme, None, dimension=of_dimension))
