"""What of a group is plain, and what a store is to do about it; the same as if it were not."""

from typing import Any

import pytest

from marketplace_metering_async.errors import EventConflictError
from marketplace_metering_async.ledger.model import ProductDimension, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, PostingRules
from marketplace_metering_async.ledger.plain_usage import PlainHours, Plan
from marketplace_metering_async.ledger.posting import MOST_AHEAD, TO_SEND, AddedUsage, added_to
from marketplace_metering_async.ledger.sums import RECORDED, Sum
from marketplace_metering_async.ledger.whole_dimensions import MOST_WHOLE

HOUR = 3600
NOON = 1_795_435_200
NOW = NOON + 1800
UNIT = 1_000_000
RULES = PostingRules(grace=600)
KEY, OTHER = (UsageKey("product", who, "", "", "requests") for who in ("1" * 12, "2" * 12))
OF = KEY.summed_under("")


def usage(
    quantity: int = UNIT,
    event_id: str | None = None,
    *,
    key: UsageKey = KEY,
    at: int = NOW,
    digest: bytes = b"said",
) -> Usage:
    return Usage(key, "", at, quantity, event_id, digest)


def hours(*more: int, **other: Any) -> PlainHours:
    """Return a memory of noon, and *more* hours, of KEY, that were just added to."""
    members = {"quantity": UNIT, "events": 1, "stamp": NOW, "opened_at": NOW - 60, "changed": True}
    there = {h: OpenHour(h, seal_at=h + HOUR + 600, **(members | other)) for h in (NOON, *more)}
    found = PlainHours()
    found.remember({KEY: KeyState(7, OF, hours=there)}, RULES, NOW)
    return found


def rows(plan: Plan) -> list[tuple[int, ...]]:
    """Return what each part adds to which row: quantity, pieces, stamp, key_id, hour."""
    return [
        (part.quantity, len(part.places), part.stamp, part.into.key_id, part.into.hour)
        for part in plan.parts
    ]


def test_usage_of_a_remembered_hour_is_added_to_its_row() -> None:
    """
    In one row an hour, with the latest stamp; whatever is not remembered is posted carefully.
    """
    group = [usage(at=NOW - 5), usage(3 * UNIT), usage(key=OTHER), usage(at=NOON - 1)]
    plan = hours().plan(group, NOW, RULES)

    assert [(4 * UNIT, 2, NOW, 7, NOON)] == rows(plan)
    assert MOST_WHOLE - UNIT == plan.most  # what is careful may come to the same hour
    assert [group[2], group[3]] == plan.careful_usage()
    assert [
        Sum("product", "requests", "open", 4 * UNIT, 0, 0),
        Sum("product", "requests", RECORDED, 4 * UNIT, 0, NOW),
    ] == plan.sums()
    late, other = AddedUsage(late=True), AddedUsage()
    assert [added_to(NOON), added_to(NOON), other, late] == plan.results([other, late])


def test_two_hours_of_a_key_leave_room_for_each_other() -> None:
    """
    Where one of them turns out to be sealed, the other one may have to carry its usage.
    """
    group = [usage(2 * UNIT, at=NOON - 1), usage(3 * UNIT)]
    memory = hours(NOON - HOUR)
    plan = memory.plan(group, NOW, RULES)

    assert [NOON - HOUR, NOON] == [part.into.hour for part in plan.parts]
    assert MOST_WHOLE - 3 * UNIT == plan.most
    assert MOST_WHOLE == memory.plan(group[:1], NOW, RULES).most


@pytest.mark.parametrize(
    "other", [{"changed": False}, {"quantity": 0}, {"events": 0}, {"urgent": True}]
)
def test_an_hour_is_remembered_as_this_process_has_left_it(other: dict[str, Any]) -> None:
    """
    Only where more usage would leave it as it is; until it is forgotten, or goes by other rules.
    """
    memory = hours()

    assert not hours(**other).plan([usage()], NOW, RULES).parts
    assert memory.plan([usage()], NOW, RULES).parts
    assert not memory.plan([usage()], NOW, PostingRules(grace=60)).parts
    memory.forget(memory.plan([usage()], NOW, RULES).parts[0].into)
    assert not memory.plan([usage()], NOW, RULES).parts


def test_the_memory_is_bounded() -> None:
    """
    It begins anew when it is full, once an hour: those that add to one key after the other would
    find none there otherwise, as soon as they have one more.
    """
    memory = hours(*range(NOON + HOUR, NOON + 20_000 * HOUR, HOUR))
    there = {NOON: OpenHour(NOON, quantity=UNIT, events=1, stamp=NOW, changed=True)}

    def is_known(now: int, key: UsageKey) -> bool:
        memory.remember({OTHER: KeyState(8, OF, hours=there)}, RULES, now)
        return bool(memory.plan([usage(key=key)], NOW, RULES).parts)

    assert [True, False] == [is_known(NOW, key) for key in (KEY, OTHER)]
    assert [False, True] == [is_known(NOW + HOUR, key) for key in (KEY, OTHER)]


def test_usage_that_hardly_leaves_time_to_send_is_not_plain() -> None:
    """
    Its hour may have to be another one; all of an hour is plain, or none.
    """
    memory = hours(NOON - 24 * HOUR)
    old = usage(at=NOON - 24 * HOUR + 1)

    def is_plain(now: int) -> bool:
        return bool(memory.plan([old], now, RULES).parts)

    last = NOON - RULES.grace - TO_SEND
    assert [True, False] == [is_plain(last), is_plain(last + 1)]


def test_ids_that_are_forgotten_too_late_for_this_time_make_nothing_plain() -> None:
    """
    Who plans without knowing compares afterwards.
    """
    memory = hours()
    latest = memory.plan([usage()], NOW, RULES).ids_since

    assert NOW - 24 * HOUR - MOST_AHEAD < latest + TO_SEND < NOW
    assert memory.plan([usage()], NOW, RULES, since=latest).parts
    assert not memory.plan([usage()], NOW, RULES, since=latest + 1).parts


def test_an_id_that_is_given_twice_is_looked_at() -> None:
    """
    And no other usage with it.
    """
    group = [usage(event_id="a"), usage(event_id="b"), usage(event_id="a", digest=b"other")]
    plan = hours().plan(group, NOW, RULES)

    assert [group[0], group[2]] == plan.careful_usage()
    assert {"b": b"said"} == plan.events()


def test_a_fraction_of_a_whole_dimension_is_looked_at() -> None:
    """
    Whoever refuses it says why.
    """
    group = [usage(UNIT // 2), usage()]
    whole = frozenset([ProductDimension("", "requests")])
    plan = hours().plan(group, NOW, RULES, whole=whole)

    assert [group[0]] == plan.careful_usage()


def test_events_that_were_there_add_nothing() -> None:
    """
    They are repeated, or in conflict; an hour without others is left alone.
    """
    group = [
        usage(event_id="a", at=NOW),
        usage(2 * UNIT, "b", at=NOW - 9),
        usage(4 * UNIT, "c"),
        usage(event_id="d", at=NOON + HOUR),
    ]
    plan = hours(NOON + HOUR).plan(group, NOON + HOUR, RULES)
    plan.known({"a": b"said", "c": b"something else", "d": b"said"})

    assert [(2 * UNIT, 1, NOW - 9)] == [row[:3] for row in rows(plan)]
    repeated, added, conflict, also = plan.results([])
    assert AddedUsage(repeated=True) == repeated == also
    assert added_to(NOON) == added
    assert isinstance(conflict, EventConflictError)
    assert ["open", RECORDED] == [one.state for one in plan.sums()]


def test_an_hour_that_is_not_as_it_was_is_forgotten() -> None:
    """
    Its usage is posted carefully, in the order of the group, and its events are given back.
    """
    memory = hours(NOON + HOUR)
    group = [usage(event_id="a"), usage(key=OTHER), usage(), usage(event_id="b", at=NOON + HOUR)]
    plan = memory.plan(group, NOON + HOUR, RULES)

    assert ["a"] == plan.miss(plan.parts[:1])
    assert group[:3] == plan.careful_usage()
    assert [NOON + HOUR] == [row[4] for row in rows(plan)]
    assert [group[0]] == memory.plan(group[:1], NOW, RULES).careful_usage()
