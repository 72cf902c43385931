"""Sealing: what hours that are due become, without a store."""

from marketplace_metering_async.ledger.frozen_record import Frozen, freeze
from marketplace_metering_async.ledger.model import HourState, UsageKey, name_of
from marketplace_metering_async.ledger.sealing import sealing_of
from marketplace_metering_async.ledger.sums import Sum

NOON = 1_795_435_200
HOUR = 3600
KEY = UsageKey("product", "123456789012", "", "", "requests")
LICENSED = UsageKey("", "123456789012", "", "arn", "requests")


def frozen(key: UsageKey, stamp: int, quantity: int, product: str) -> Frozen:
    return freeze("us-east-1", key, stamp, quantity, license_product=product)


def test_each_hour_gets_the_record_that_is_sent() -> None:
    """
    With the moment of sealing and the region, in the order in which hours came.
    """
    sealing = sealing_of(
        [
            (7, NOON + 59, 17_000_000, name_of(KEY), "", 0),
            (3, NOON - HOUR, 1, name_of(LICENSED), "licensed", 0),
        ],
        "us-east-1",
        NOON + HOUR,
    )

    assert [
        (NOON + HOUR, "us-east-1", *frozen(KEY, NOON + 59, 17_000_000, ""), 7),
        (NOON + HOUR, "us-east-1", *frozen(LICENSED, NOON - HOUR, 1, "licensed"), 3),
    ] == sealing.frozen
    assert [] == sealing.held
    assert [
        Sum("licensed", "requests", HourState.FROZEN, 1, 1, 0),
        Sum("licensed", "requests", HourState.OPEN, -1, -1, 0),
        Sum("product", "requests", HourState.FROZEN, 17_000_000, 1, 0),
        Sum("product", "requests", HourState.OPEN, -17_000_000, -1, 0),
    ] == sealing.sums


def test_what_another_ledger_may_have_sent_is_held() -> None:
    """
    It is frozen as evidence, and ends as UNCONFIRMED at once. ledger C1
    """
    sealing = sealing_of(
        [(1, NOON, 5, name_of(KEY), "", 1), (2, NOON, 8, name_of(KEY), "", 0)], "us-east-1", NOON
    )

    assert [1, 2] == [row[-1] for row in sealing.frozen]
    assert [1] == sealing.held
    assert {"unconfirmed": 5, "frozen": 8, "open": -13} == {
        one.state: one.quantity for one in sealing.sums
    }
