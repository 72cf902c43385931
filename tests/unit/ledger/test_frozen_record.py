"""The frozen record: the same in each attempt, in the member that was chosen at its sealing."""

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.claims import CLAIM

from marketplace_metering_async.aws.wire import dumps
from marketplace_metering_async.ledger.frozen_record import (
    QUANTITY,
    QUANTITY_AS_DECIMAL,
    digest,
    digest_of_event,
    freeze,
    member_of,
    number_of,
    record_of,
)
from marketplace_metering_async.ledger.hours import deadline_of
from marketplace_metering_async.ledger.model import FrozenHour, UsageKey
from marketplace_metering_async.limits import DECIMAL_QUANTITY, MAX_DECIMAL_QUANTITY, MAX_QUANTITY
from marketplace_metering_async.quantities import kept, millionths

NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
KEY = UsageKey("product", "111122223333", "", "", "requests")
BOTH = (QUANTITY, QUANTITY_AS_DECIMAL)
LICENSE = "arn:aws:license-manager:us-east-1:111122223333:license:l-1"


@pytest.mark.parametrize(
    ("quantity", "member"),
    [
        (0, QUANTITY),
        (17_000_000, QUANTITY),
        (17_000_001, QUANTITY_AS_DECIMAL),
        (MAX_QUANTITY * 1_000_000, QUANTITY),
        ((MAX_QUANTITY + 1) * 1_000_000, QUANTITY_AS_DECIMAL),
    ],
)
def test_whole_quantities_that_fit_travel_as_integers(quantity: int, member: str) -> None:
    """
    All others as decimals. Design, Quantities
    """
    assert member == member_of(quantity)


def test_sealing_chooses_what_is_sent() -> None:
    """
    The member, and until when; and the digest holds all that the service counts by.
    """
    frozen = freeze("us-east-1", KEY, NOON, 5_000_000, license_product="")
    content: dict[str, Any] = {"region_name": "us-east-1", "key": KEY, "stamp": NOON}
    content |= {"quantity": 5_000_000, "member": QUANTITY, "license_product": ""}
    others: list[dict[str, Any]] = [
        {"region_name": "eu-west-1"},
        {"member": QUANTITY_AS_DECIMAL},
        {"license_product": "other"},
        {"stamp": NOON + 1},
        {"quantity": 5_000_001},
    ]

    assert (deadline_of(NOON), QUANTITY) == frozen[:2]
    assert frozen.digest == made(content)
    assert all(frozen.digest != made(content | other) for other in others)


def made(content: dict[str, Any]) -> bytes:
    return digest(**content)


@pytest.mark.parametrize(
    ("key", "license_product", "product"),
    [
        (KEY, "", "product"),
        (UsageKey("", "111122223333", "", LICENSE, "requests"), "licensed", "licensed"),
        (UsageKey("", "111122223333", "", LICENSE, "requests"), "", None),
    ],
)
def test_the_record_is_what_was_frozen(
    key: UsageKey, license_product: str, product: str | None
) -> None:
    """
    In units, stamped with the moment of the latest usage.
    """
    held = evolve(CLAIM, key=key, license_product=license_product, stamp=NOON)
    record = record_of(held)

    assert (5, datetime.fromtimestamp(NOON, UTC)) == (record.quantity, record.timestamp)
    assert (product, key.license_arn or None) == (record.product_code, record.license_arn)


def held(quantity: int, member: str) -> FrozenHour:
    return evolve(CLAIM, quantity=quantity, member=member)


@pytest.mark.parametrize(
    ("quantity", "member", "sent"),
    [
        (17_000_000, QUANTITY, 17),
        (17_000_000, QUANTITY_AS_DECIMAL, "17"),
        (17_420_001, QUANTITY_AS_DECIMAL, "17.420001"),
        (500_000, QUANTITY_AS_DECIMAL, "0.5"),
    ],
)
def test_a_record_is_sent_in_the_member_that_it_was_frozen_with(
    quantity: int, member: str, sent: object
) -> None:
    """
    Not in the one that would be chosen today; in canonical text, and the same bytes each time.
    Issue 20
    """
    record = record_of(held(quantity, member))
    on_the_wire, again = record.to_wire(), record.to_wire()

    assert {member: sent} == {m: on_the_wire[m] for m in BOTH if m in on_the_wire}
    assert dumps(on_the_wire) == dumps(again)


@given(st.integers(0, millionths(MAX_DECIMAL_QUANTITY)))
def test_what_is_sent_is_what_was_frozen_to_the_last_millionth(quantity: int) -> None:
    """
    Whichever member carries it; the text of a decimal is one that the service takes. Issue 20
    """
    member = member_of(quantity)
    sent = record_of(held(quantity, member)).to_wire()[member]

    assert type(sent) is (int if member == QUANTITY else str)
    assert quantity == millionths(kept(sent))
    assert DECIMAL_QUANTITY.fullmatch(str(sent))
    assert not str(sent).endswith(".0")


MOMENTS = st.none() | st.datetimes().map(
    lambda moment: int(moment.replace(tzinfo=UTC, microsecond=0).timestamp())
)
AMOUNTS = st.integers(0, millionths(kept(MAX_DECIMAL_QUANTITY)))


@given(st.tuples(MOMENTS, AMOUNTS), st.tuples(MOMENTS, AMOUNTS))
def test_events_of_which_the_same_was_said_have_one_digest(
    one: tuple[int | None, int], other: tuple[int | None, int]
) -> None:
    """
    And no others: of one key it is what was said itself. Covers: V12
    """
    key = number_of(KEY)

    assert (digest_of_event(key, *one) == digest_of_event(key, *other)) == (one == other)


@pytest.mark.parametrize("key", [0, 2**64 - 1])
@pytest.mark.parametrize("at", [None, -62_135_596_800, 253_402_300_799])
@pytest.mark.parametrize("quantity", [0, 10**16 - 1])
def test_a_digest_has_room_for_whatever_is_said(key: int, at: int | None, quantity: int) -> None:
    """
    From the first second that Python knows to the last.
    """
    digest = digest_of_event(key, at, quantity)

    assert int.from_bytes(digest[:8]) == key
    assert int.from_bytes(digest[13:]) == quantity


@pytest.mark.parametrize("member", UsageKey._fields)
def test_another_key_has_another_number(member: str) -> None:
    """
    Whichever id of it differs.
    """
    assert number_of(KEY._replace(**{member: "other"})) != number_of(KEY)
