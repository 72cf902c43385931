"""An hour that usage adds to: its stamp, what it carries, and when it is due for sealing."""

from datetime import UTC, datetime

import pytest

from marketplace_metering_async.ledger.model import ProductDimension, UsageKey, name_of
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, PostingRules, key_state

HOUR = 3600
NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
NOW = NOON + HOUR // 2
MONTH = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
UNIT = 1_000_000
RULES = PostingRules(grace=600)


def hour_with(
    *moments: int, hour: int = NOON, now: int = NOW, rules: PostingRules = RULES, quantity: int = 1
) -> OpenHour:
    """Return an hour to which usage of *moments* was added."""
    made = OpenHour(hour)
    for at in moments:
        made.add(at, quantity, now, rules)
    return made


def test_the_first_usage_opens_it() -> None:
    """
    Each adds its quantity and itself; nothing is carried that happened in it.
    """
    made = hour_with(NOON, NOW, quantity=3)
    made.add(NOW, 4, NOW + 60, RULES, events=2)

    assert (10, 10, 4, NOW) == (made.quantity, made.added, made.events, made.opened_at)
    assert (True, {}) == (made.changed, made.carried)


def test_the_stamp_is_the_latest_usage_whichever_came_last() -> None:
    """
    Inside the subscription, in the hour that began or ended. Covers: H13
    """
    assert NOON + 1200 == hour_with(NOON + 60, NOON + 1200, NOON + 30).stamp


@pytest.mark.parametrize(
    ("now", "stamp"), [(NOON - 60, NOON), (NOW, NOW), (NOON + 2 * HOUR, NOON + HOUR - 1)]
)
def test_usage_of_another_hour_counts_as_used_once_it_was_known(*, now: int, stamp: int) -> None:
    """
    But inside of the hour that carries it, and not after the subscription's end.
    """
    made = hour_with(NOON - 1, NOON - 2, NOON - HOUR - 1, now=now)

    assert stamp == made.stamp
    assert {NOON - HOUR: (2, 2), NOON - 2 * HOUR: (1, 1)} == made.carried
    assert min(stamp, NOON + 60) == made.moment_of(NOON - 1, now, NOON + 60)


def test_an_hour_is_sealed_a_grace_after_its_end_or_its_first_usage() -> None:
    """
    Whichever is later.
    """
    late = hour_with(NOON - 3 * HOUR, hour=NOON - 3 * HOUR)

    assert (NOON + HOUR + 600, NOW + 600) == (hour_with(NOW).seal_at, late.seal_at)


@pytest.mark.parametrize(
    ("grace", "month_end", "sealed"), [(600, 3600, 3600), (7200, 3600, 7200), (600, 0, 600)]
)
def test_a_months_last_hour_waits_longer(*, grace: int, month_end: int, sealed: int) -> None:
    """
    No other hour of its month can carry what comes later. The hour before it does not. ledger H10
    """
    rules, now = PostingRules(grace=grace, month_end_grace=month_end), MONTH - 60
    last = hour_with(now, hour=MONTH - HOUR, now=now, rules=rules)
    before = hour_with(MONTH - HOUR - 1, hour=MONTH - 2 * HOUR, now=now, rules=rules)

    assert (MONTH + sealed, now + grace) == (last.seal_at, before.seal_at)


def test_zeros_wait_for_usage() -> None:
    """
    A zero that is sent early would lock its hour at zero. Covers: H18
    """
    made = hour_with(NOW, quantity=0)
    waits = made.seal_at
    made.add(NOW, 1, NOW, RULES)

    assert (NOON + 5 * HOUR, NOON + HOUR + 600) == (waits, made.seal_at)


@pytest.mark.parametrize(
    ("closed_at", "due", "urgent"),
    [
        (NOON + HOUR + 600, NOON + HOUR + 600, False),
        (NOON + HOUR, NOON + HOUR, True),
        (NOON + 60, NOW, True),
    ],
)
def test_the_end_of_a_subscription_seals_it_then_or_at_once(
    *, closed_at: int, due: int, urgent: bool
) -> None:
    """
    Where it would be sealed later; and nothing in it is stamped after the end.
    """
    made = hour_with(NOW)
    made.end(closed_at, NOW)

    assert (due, urgent, min(NOW, closed_at)) == (made.seal_at, made.urgent, made.stamp)


def test_an_end_that_is_taken_back_leaves_it_as_it_was() -> None:
    """
    It is due when its time comes, and goes before no other.
    """
    made, ever = hour_with(NOW), hour_with(NOW)
    made.end(NOON + 60, NOW)
    made.changed = False
    made.go_on(RULES)

    assert (ever.seal_at, False, True) == (made.seal_at, made.urgent, made.changed)


@pytest.mark.parametrize("own", [0, 4])
def test_what_is_taken_out_goes_back_where_it_happened(own: int) -> None:
    """
    The hour is gone then, with all that it had; one that only carried has nothing of its own.
    """
    made = OpenHour(NOON, quantity=3 + own, events=2 + bool(own), hour_id=7)
    made.carried_before[NOON - HOUR] = (3, 2)
    itself = {NOON: (4, 1)} if own else {}

    assert {NOON - HOUR: (3, 2), **itself} == made.take_out()
    assert (True, True, -3 - own) == (made.changed, made.removed, made.added)


def test_a_key_is_read_from_its_row() -> None:
    """
    A license's usage is summed up under its own product.
    """
    arn = "arn:aws:license-manager::123456789012:license:l-1"
    license_, plain = (
        UsageKey("", "1" * 12, "", arn, "requests"),
        UsageKey("code", "1" * 12, "", "", "requests"),
    )

    assert KeyState(
        7, ProductDimension("other", "requests"), 5, billed_as="same", has_license=True
    ) == key_state((name_of(license_), 7, 5, "other", "same", None))
    assert KeyState(8, ProductDimension("code", "requests"), held_through=9) == key_state(
        (name_of(plain), 8, None, "", None, 9)
    )
