"""Where usage goes, without a store: every rule of the way in, on its edge."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.errors import (
    EventConflictError,
    EventTooOldError,
    InvalidRecordError,
    LateUsageError,
)
from marketplace_metering_async.ledger.hours import deadline_of, hour_of, latest_lost_at
from marketplace_metering_async.ledger.model import HourState, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import (
    LONGEST_GRACE,
    KeyState,
    OpenHour,
    PostingRules,
)
from marketplace_metering_async.ledger.posting import (
    AddedUsage,
    Changes,
    KnownEvents,
    Posting,
    Wanted,
    first_hours,
    introduce_rivals,
    lost_hours,
    wanted_by,
)
from marketplace_metering_async.ledger.sums import RECORDED, Sum, Sums
from marketplace_metering_async.ledger.watermark import UNKNOWN
from marketplace_metering_async.ledger.whole_dimensions import declared
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY, MAX_QUANTITY

HOUR = 3600
NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())
NOW = NOON + HOUR // 2
MONTH = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
UNIT = 1_000_000
FULL = MAX_QUANTITY * UNIT
MOST = int(MAX_DECIMAL_QUANTITY * UNIT)
KEY = UsageKey("product", "111122223333", "", "", "requests")
OF = KEY.summed_under("")
RULES = PostingRules(grace=600)
REFUSING = PostingRules(grace=600, late="refuse")


def usage(at: int = NOW, quantity: int = 1, event_id: str | None = None) -> Usage:
    return Usage(KEY, "", at, quantity, event_id, b"digest of it")


def stored(hour: int, *, is_open: bool = True, **more: Any) -> OpenHour:
    members = {"quantity": 5, "events": 1, "stamp": hour, "opened_at": hour, "hour_id": 7}
    return OpenHour(hour, is_open=is_open, **(members | more))


class Way:
    """One key's way in."""

    def __init__(
        self,
        *hours: OpenHour,
        now: int = NOW,
        rules: PostingRules = RULES,
        closed_at: int | None = None,
        known: KnownEvents | None = None,
        whole: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.key = KeyState(1, OF, closed_at, {hour.hour: hour for hour in hours})
        self.posting = Posting(now, rules, {KEY: self.key}, known, whole=declared(whole))

    def post(self, at: int = NOW, quantity: int = 1, event_id: str | None = None) -> Any:
        return self.posting.post(usage(at, quantity, event_id))

    @property
    def changes(self) -> Changes:
        return self.posting.changes()

    def hour(self, hour: int = NOON) -> OpenHour:
        return self.key.hours[hour]

    def sums(self) -> dict[str, tuple[int, int]]:
        return {one.state: (one.quantity, one.records) for one in self.changes.sums}


@given(st.lists(st.integers(-30 * 24, 0), min_size=1))
def test_a_group_asks_for_the_past_that_matters_and_no_more(hours: list[int]) -> None:
    """
    From its earliest hour on whose window may be open; of hours before, for themselves alone.
    """
    first = hour_of(latest_lost_at(NOW))
    asked = [NOON + hour * HOUR for hour in hours]

    wanted = wanted_by([usage(at + HOUR // 4) for at in asked], NOW)

    earliest = min(max(at, first) for at in asked)
    assert {KEY: Wanted("", earliest, frozenset(at for at in asked if at < first))} == wanted


def test_rivals_are_looked_at_from_the_same_hour_on() -> None:
    """
    And where one of them is asked for itself, from the earlier one; a lost hour, of both.
    """
    key, rival, alone = (KeyState(number, OF) for number in (1, 2, 3))
    key.rivals, rival.rivals = [rival], [key]
    keys = {KEY: key, KEY._replace(dimension="r"): rival, KEY._replace(dimension="a"): alone}
    wants = [Wanted("", 7, frozenset({5})), Wanted("", 8), Wanted("", 9, frozenset({6}))]
    wanted = dict(zip(keys, wants, strict=True))

    assert {1: 7, 2: 7, 3: 9} == first_hours(keys, wanted)
    assert {1: 7, 2: 7} == first_hours(keys, {KEY: wanted[KEY]})
    assert [(1, 5), (2, 5)] == lost_hours(keys, wanted)


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def test_usage_adds_to_the_hour_in_which_it_happened() -> None:
    """
    A new hour, or one that is there; the first usage opens it.
    """
    new, old = Way(), Way(stored(NOON))

    assert AddedUsage(hour=moment(NOON)) == new.post(quantity=3) == old.post(quantity=3)
    assert (3, 1, NOW) == (new.hour().quantity, new.hour().events, new.hour().opened_at)
    assert (8, 2, NOON) == (old.hour().quantity, old.hour().events, old.hour().opened_at)
    assert [(0, 8, 2, NOW, NOON, NOON + HOUR + 600, 7)] == old.changes.grown_hours
    assert [(0, 3, 1, NOW, NOW, NOON + HOUR + 600, 1, NOON)] == new.changes.new_hours
    assert not old.changes.new_hours
    assert not new.changes.grown_hours


@pytest.mark.parametrize(("before", "late"), [(4200, False), (4199, True)])
def test_an_hour_takes_usage_while_its_window_stays_open(*, before: int, late: bool) -> None:
    """
    For the grace and an hour more, which sealing and sending may take. ledger H10
    """
    at = NOW - 24 * HOUR + before
    added = Way().post(at)

    assert late == added.late
    assert moment(hour_of(at) + (HOUR if late else 0)) == added.hour


@pytest.mark.parametrize(("before", "refused"), [(900, False), (899, True)])
def test_an_hour_that_can_hardly_be_sent_takes_usage_that_no_other_may(
    *, before: int, refused: bool
) -> None:
    """
    Until five minutes before it would be too late: late usage is refused, or its month is over.
    ledger H10
    """
    at = NOW - 24 * HOUR + before
    refusing = Way(rules=REFUSING).post(at)
    month_end = Way(now=MONTH + 6 * HOUR - before).post(MONTH - 10)

    assert refused == isinstance(refusing, LateUsageError)
    assert refused or moment(hour_of(at)) == refusing.hour
    assert month_end == (
        AddedUsage(ended=HourState.MONTH_OVER) if refused else AddedUsage(hour=moment(MONTH - HOUR))
    )


def test_the_last_usage_of_a_subscription_waits_for_no_grace() -> None:
    """
    It is sealed at once, and sent until five minutes before it would be too late. ledger H10
    """
    at = NOW - 24 * HOUR + 300
    way = Way(closed_at=at + 60)

    assert AddedUsage(hour=moment(hour_of(at))) == way.post(at)
    assert AddedUsage(ended=HourState.SUBSCRIPTION_OVER) == Way(closed_at=at).post(at - 1)


def test_late_usage_goes_to_the_first_unsealed_hour_after_its_own() -> None:
    """
    Its moment there is now, or the last of an hour that is over, and never one before. ledger H10
    """
    sealed = stored(NOON - 3 * HOUR, is_open=False)
    way = Way(sealed, stored(NOON - 2 * HOUR, is_open=False))
    added = way.post(NOON - 3 * HOUR + 60, 3)
    running = Way(*(stored(NOON - n * HOUR, is_open=False) for n in (3, 2, 1)))
    running.post(NOON - 3 * HOUR + 60, 3)

    assert AddedUsage(hour=moment(NOON - HOUR), late=True) == added
    assert NOON - 1 == way.hour(NOON - HOUR).stamp
    assert NOW == running.hour().stamp
    assert [(1, NOON - HOUR, NOON - 3 * HOUR, 3, 1)] == way.changes.carried


def test_usage_of_long_ago_goes_to_the_first_hour_whose_window_is_open() -> None:
    """
    Of its month, weeks later. ledger H10
    """
    assert moment(NOON - 23 * HOUR) == Way().post(NOON - 20 * 24 * HOUR).hour


@pytest.mark.parametrize(
    ("after", "hour"), [(4 * HOUR + 3000, True), (5 * HOUR + 2700, True), (5 * HOUR + 2701, False)]
)
def test_usage_that_is_late_at_a_months_end_goes_to_an_hour_of_its_month(
    *, after: int, hour: bool
) -> None:
    """
    As long as one can be sent. ledger H10
    """
    way = Way(stored(MONTH - 2 * HOUR, is_open=False), now=MONTH + after)
    added = way.post(MONTH - 2 * HOUR)

    assert added == (
        AddedUsage(hour=moment(MONTH - HOUR), late=True)
        if hour
        else AddedUsage(ended=HourState.MONTH_OVER)
    )


@pytest.mark.parametrize("rules", [RULES, REFUSING])
def test_an_hour_that_is_open_takes_usage_until_it_is_sealed(rules: PostingRules) -> None:
    """
    Whatever the grace of one that begins now, if its own still leaves time to send it; where no
    relay has sealed it, as long as it can be sent. ledger H10
    """
    patient, end = evolve(rules, grace=4 * HOUR), MONTH + 4 * HOUR
    added = AddedUsage(hour=moment(MONTH - HOUR))

    assert added == Way(stored(MONTH - HOUR, seal_at=end), now=end - 1, rules=patient).post(
        MONTH - 1
    )
    assert added == Way(
        stored(MONTH - HOUR, seal_at=end), now=MONTH + 6 * HOUR - 300, rules=rules
    ).post(MONTH - 1)
    for way in (
        Way(now=end - 1, rules=patient),
        Way(stored(MONTH - HOUR, seal_at=end), now=MONTH + 6 * HOUR - 299, rules=rules),
        Way(stored(MONTH - HOUR, seal_at=end, is_open=False), now=MONTH + 4 * HOUR, rules=rules),
    ):
        late = way.post(MONTH - 1)
        assert isinstance(late, LateUsageError) or HourState.MONTH_OVER == late.ended


def test_a_subscription_that_ended_carries_late_usage_until_its_last_second() -> None:
    """
    With no grace, and stamped no later. ledger H10
    """
    closed_at = NOON - HOUR + 1800
    way = Way(stored(NOON - 3 * HOUR, is_open=False), closed_at=closed_at)
    last = Way(*(stored(NOON - n * HOUR, is_open=False) for n in (3, 2)), closed_at=closed_at)

    assert moment(NOON - 2 * HOUR) == way.post(NOON - 3 * HOUR).hour
    assert moment(NOON - HOUR) == last.post(NOON - 3 * HOUR).hour
    assert closed_at == last.hour(NOON - HOUR).stamp
    assert (True, NOW) == (last.hour(NOON - HOUR).urgent, last.hour(NOON - HOUR).seal_at)


def test_a_subscription_that_will_end_goes_on_until_then() -> None:
    """
    Its hours are sealed as others', the last one when it ends. ledger M2
    """
    way = Way(closed_at=NOW + 300)
    way.post()

    assert (True, NOW + 300) == (way.hour().urgent, way.hour().seal_at)
    later = Way(closed_at=NOW + 3 * HOUR)
    later.post()
    assert (False, NOON + HOUR + 600) == (later.hour().urgent, later.hour().seal_at)


def test_a_subscription_ends_in_hours_that_are_open() -> None:
    """
    They are sealed at once, and stamped no later; sealed ones stay as they are. ledger M1
    """
    way = Way(
        stored(NOON - 2 * HOUR, is_open=False),
        stored(NOON - HOUR, seal_at=NOW + 60),
        stored(NOON, stamp=NOON + 1500, seal_at=NOON + HOUR + 600, hour_id=8),
    )
    sealing = way.posting.close(KEY, NOON + 900)

    assert 2 == sealing
    assert [
        (1, 5, 1, NOON - HOUR, NOON - HOUR, NOW, 7),
        (1, 5, 1, NOON + 900, NOON, NOW, 8),
    ] == way.changes.grown_hours
    assert [] == way.changes.sums[1:]


def test_what_was_used_after_a_subscription_had_ended_is_stranded() -> None:
    """
    And what such an hour carried goes back into the subscription, if there is time. ledger M1
    """
    after = stored(NOON, quantity=9, events=3)
    after.carried_before = {NOON - 3 * HOUR: (4, 1), NOON - HOUR: (1, 1)}
    way = Way(stored(NOON - 3 * HOUR, is_open=False), after)
    sealing = way.posting.close(KEY, NOON - HOUR - 1)

    assert 0 == sealing
    assert [7] == way.changes.removed_hours
    assert (4, 1) == (way.hour(NOON - 2 * HOUR).quantity, way.hour(NOON - 2 * HOUR).events)
    assert NOON - HOUR - 1 == way.hour(NOON - 2 * HOUR).stamp
    assert [
        (1, NOON - HOUR, "subscription_over", 1, 1, NOW),
        (1, NOON, "subscription_over", 4, 1, NOW),
    ] == way.changes.stranded
    assert {"open": (-5, 0), "subscription_over": (5, 0)} == {
        state: change for state, change in way.sums().items() if state != RECORDED
    }


def test_usage_ahead_of_now_is_not_carried_back() -> None:
    """
    Of a caller whose clock is ahead, into an hour that was sealed before our clock was set back.
    """
    way = Way(stored(NOON + HOUR, is_open=False), now=NOON + HOUR - 60)

    assert moment(NOON + 2 * HOUR) == way.post(NOON + HOUR + 60).hour


def test_late_usage_that_is_added_twice_is_one_row() -> None:
    """
    By the hour in which it happened.
    """
    way = Way(stored(NOON - HOUR, is_open=False))
    way.post(NOON - HOUR, 3)
    way.post(NOON - HOUR + 60, 4)

    assert [(1, NOON, NOON - HOUR, 7, 2)] == way.changes.carried
    assert {"open": (7, 1), RECORDED: (7, 0)} == way.sums()


def test_late_usage_may_be_refused() -> None:
    """
    Nothing is added then, and its event is not known.
    """
    way = Way(stored(NOON - HOUR, is_open=False), rules=REFUSING)

    assert isinstance(way.post(NOON - HOUR, event_id="late"), LateUsageError)
    assert Changes() == way.changes


def test_what_was_used_after_the_end_is_not_late() -> None:
    """
    It would not be taken in time either: it is kept, as usage that nobody is billed for.
    """
    way = Way(stored(NOON - HOUR, is_open=False), rules=REFUSING, closed_at=NOON - HOUR)

    added = way.post(NOON - HOUR + 1)

    assert HourState.SUBSCRIPTION_OVER is added.ended


def test_an_hour_that_is_full_is_not_late() -> None:
    """
    What it has no room for goes to the next one, also where late usage is refused.
    """
    full = stored(NOON, quantity=FULL - UNIT)
    way = Way(full, rules=REFUSING)

    assert AddedUsage(hour=moment(NOON)) == way.post(quantity=UNIT)
    assert AddedUsage(hour=moment(NOON + HOUR), late=True) == way.post(quantity=UNIT)
    assert (FULL, UNIT) == (way.hour().quantity, way.hour(NOON + HOUR).quantity)


@pytest.mark.parametrize(
    ("there", "more", "fits"),
    [
        (FULL - UNIT, UNIT, True),
        (FULL, UNIT, False),
        (FULL, 1, True),
        (FULL, FULL + UNIT, True),
        (FULL + 1, UNIT, True),
        (MOST - 1, 1, True),
        (MOST, 1, False),
        (MOST, UNIT, False),
    ],
)
def test_whole_quantities_add_up_to_a_sum_that_travels_whole(
    there: int, more: int, *, fits: bool
) -> None:
    """
    A product that takes no decimals gets none that nobody added; fractions, and what alone is too
    large for the integer members, add up to what the decimal ones carry. Design, Quantities
    """
    way = Way(stored(NOON, quantity=there))
    way.post(quantity=more)

    assert (there + more if fits else there) == way.hour().quantity
    assert fits or more == way.hour(NOON + HOUR).quantity


@pytest.mark.parametrize(
    ("whole", "quantity", "refused"),
    [
        ({("", "requests")}, UNIT, False),
        ({("", "requests")}, 1, True),
        ({("", "requests")}, FULL, False),
        ({("", "requests")}, FULL + UNIT, True),
        ({("product", "requests")}, 1, True),
        ({("other", "requests"), ("", "others")}, 1, False),
        ((), 1, False),
    ],
)
def test_a_whole_dimension_takes_no_fraction(
    whole: Sequence[tuple[str, str]], quantity: int, *, refused: bool
) -> None:
    """
    Nor what the integer members cannot carry; nothing is added then, and its event is not known.
    Issue 20
    """
    way = Way(whole=whole)
    said = way.post(quantity=quantity, event_id="e")

    assert refused == isinstance(said, InvalidRecordError)
    assert (0 if refused else quantity) == sum(hour.quantity for hour in way.key.hours.values())
    assert refused == (not way.changes.events)


def test_an_event_that_is_known_is_no_fraction_again() -> None:
    """
    It was added before its dimension was declared whole.
    """
    way = Way(known=KnownEvents({"e": b"digest of it"}), whole=[("", "requests")])

    assert AddedUsage(repeated=True) == way.post(quantity=1, event_id="e")


def test_no_usage_goes_over_the_edge_of_a_month() -> None:
    """
    It is stranded by name, and one more of it adds to that.
    """
    sealed = [stored(MONTH - n * HOUR, is_open=False) for n in (2, 1)]
    way = Way(*sealed, now=MONTH + 60)
    at = MONTH - 2 * HOUR

    assert AddedUsage(ended=HourState.MONTH_OVER) == way.post(at, 3) == way.post(at + 1, 4)
    assert [(1, at, "month_over", 7, 2, MONTH + 60)] == way.changes.stranded
    assert {"month_over": (7, 0), RECORDED: (7, 0)} == way.sums()


def test_a_subscription_ends_with_its_last_second() -> None:
    """
    Usage of that second is in it, and goes out before all others; what is later is not.
    """
    way = Way(closed_at=NOW)

    assert AddedUsage(hour=moment(NOON)) == way.post(NOW)
    assert AddedUsage(ended=HourState.SUBSCRIPTION_OVER) == way.post(NOW + 1)
    assert (True, NOW) == (way.hour().urgent, way.hour().seal_at)


def test_no_other_hour_carries_usage_of_a_subscription_that_ended() -> None:
    """
    The next hours are of another one, or of none.
    """
    way = Way(stored(NOON, is_open=False), closed_at=NOW)

    assert AddedUsage(ended=HourState.SUBSCRIPTION_OVER) == way.post(NOW)


@pytest.mark.parametrize("rules", [RULES, REFUSING])
@pytest.mark.parametrize("closed_at", [None, NOON])
def test_what_may_be_metered_already_goes_into_its_own_hour_or_none(
    rules: PostingRules, closed_at: int | None
) -> None:
    """
    In a copy, up to when it is held: another hour would bill it again. Later usage is as ever, and
    while nobody knows up to when, nobody is served. ledger C1
    """
    early = NOON - HOUR
    way = Way(stored(early, is_open=False), rules=rules, closed_at=closed_at)
    way.key.held_through = early
    held, own, later = way.post(early), way.post(early - HOUR), way.post(NOON)

    assert AddedUsage(ended=HourState.UNCONFIRMED) == held
    assert (early - HOUR, NOON) == tuple(int(one.hour.timestamp()) for one in (own, later))
    assert (1, 0) == way.sums()["unconfirmed"]

    carrying = Way(stored(early, is_open=False))
    carrying.key.held_through = UNKNOWN
    assert carrying.post(early).late


def test_an_event_is_added_once() -> None:
    """
    Whether it was known before, or came in the same group; another content is refused.
    """
    way = Way(known=KnownEvents({"known": b"digest of it", "other": b"other"}))

    assert [True, False, True] == [way.post(event_id=e).repeated for e in ("known", "new", "new")]
    assert isinstance(way.post(event_id="other"), EventConflictError)
    assert [("new", b"digest of it", NOW)] == way.changes.events
    assert 1 == way.hour().quantity


def test_an_event_that_may_be_forgotten_is_refused() -> None:
    """
    It is neither added nor stranded; one that is known is still a repetition. ledger H15
    """
    since = NOON - 10 * HOUR
    way = Way(known=KnownEvents({"known": b"digest of it"}, since))

    assert isinstance(way.post(since + 299, event_id="old"), EventTooOldError)
    assert Changes() == way.changes
    assert way.post(since, event_id="known").repeated
    assert not way.post(since + 300, event_id="new").ended
    assert not way.post(since).ended


@pytest.mark.parametrize(
    ("quantity", "parts"),
    [
        (FULL + 5 * UNIT, [FULL, 5 * UNIT]),
        (FULL + 5, [FULL + 5]),
        (2 * MOST + 5, [MOST, MOST, 5]),
        (2 * MOST, [MOST, MOST]),
    ],
)
def test_what_a_person_carries_goes_from_now_on_and_is_no_new_usage(
    quantity: int, parts: list[int]
) -> None:
    """
    In parts, where it is more than an hour holds; the state that it was in loses it.
    """
    way = Way(closed_at=NOW)
    way.posting.carry(KEY, NOON - 99 * HOUR, HourState.MONTH_OVER, quantity, 3)

    assert parts == [way.hour(NOON + n * HOUR).quantity for n in range(len(parts))]
    assert [3, 0, 0][: len(parts)] == [way.hour(NOON + n * HOUR).events for n in range(len(parts))]
    assert {"month_over": (-quantity, 0), "open": (quantity, len(parts))} == {
        state: change for state, change in way.sums().items() if state != RECORDED
    }
    assert 0 == way.sums()[RECORDED][0]
    assert way.hour().urgent  # or it would wait for an end that has been


def test_what_is_carried_goes_to_an_hour_that_is_open() -> None:
    """
    The next one, where the one that runs is sealed; usage of nothing as well, for its events.
    """
    way = Way(stored(NOON, is_open=False))
    way.posting.carry(KEY, NOON - 99 * HOUR, HourState.MONTH_OVER, 0, 2)

    taking = way.hour(NOON + HOUR)
    assert (0, 2, False) == (taking.quantity, taking.events, taking.urgent)


def test_a_subscription_that_goes_on_changes_the_hours_that_were_to_end() -> None:
    """
    And none that is sealed, whose bytes are frozen, or that was to be sealed as ever.
    """
    sealed = stored(NOON - 2 * HOUR, is_open=False, urgent=True, seal_at=NOW)
    way = Way(sealed, stored(NOON - HOUR), stored(NOON, urgent=True, seal_at=NOW, hour_id=8))
    way.posting.reopen(KEY)

    assert [(0, 5, 1, NOON, NOON, NOON + HOUR + 600, 8)] == way.changes.grown_hours


def test_a_subscription_may_end_as_an_hour_begins() -> None:
    """
    The usage of that second is still its own.
    """
    way = Way(stored(NOON, seal_at=NOON + HOUR))

    assert 1 == way.posting.close(KEY, NOON)
    assert (5, NOON, True) == (way.hour().quantity, way.hour().stamp, way.hour().urgent)


def test_reopened_usage_moves_as_a_count_alone() -> None:
    """
    Its units go where the usage is carried to.
    """
    sums = Sums()
    sums.move(OF, HourState.REJECTED, HourState.REOPENED, 5)
    way = Way()
    way.posting = Posting(NOW, RULES, {KEY: way.key}, sums=sums.changes())
    way.posting.carry(KEY, NOON - 99 * HOUR, HourState.REOPENED, 5, 1)

    moved = {"rejected": (-5, -1), "reopened": (0, 1), "open": (5, 1), RECORDED: (0, 0)}
    assert moved == way.sums()


def test_the_sums_grow_by_what_is_new() -> None:
    """
    And not by what was in an hour before.
    """
    way = Way(stored(NOON))
    way.post(quantity=3)

    assert {"open": (3, 0), RECORDED: (3, 0)} == way.sums()


def test_the_sums_know_the_latest_stamp() -> None:
    """
    Of all keys of a product and dimension together.
    """
    way = Way()
    way.post(NOON + 60)
    way.post(NOON - HOUR)

    assert [
        Sum("product", "requests", "open", 2, 2, 0),
        Sum("product", "requests", RECORDED, 2, 0, NOON + 60),
    ] == way.changes.sums


def rivals(*hours: OpenHour) -> Way:
    """Return a key's way in, with another scheme that has *hours*."""
    way = Way()
    way.key.billed_as = "both"
    other = KeyState(2, OF, billed_as="both", has_license=True)
    other.hours = {hour.hour: hour for hour in hours}
    introduce_rivals([way.key, other])
    return way


@pytest.mark.parametrize("is_open", [True, False])
def test_usage_of_an_hour_that_another_scheme_has_is_kept_apart(*, is_open: bool) -> None:
    """
    The service would bill both; whatever came first stands. ledger M5
    """
    way = rivals(stored(NOON, is_open=is_open))
    before = way.post(NOON - 1)
    added = way.post()
    own = Way(stored(NOON))
    own.key.rivals = [KeyState(2, OF, hours={NOON: stored(NOON)})]

    assert AddedUsage(ended=HourState.OTHER_SCHEME) == added
    assert moment(NOON - HOUR) == before.hour
    assert {"other_scheme": (1, 0), "open": (1, 1), RECORDED: (2, 0)} == way.sums()
    assert moment(NOON) == own.post().hour


def test_no_hour_of_another_scheme_carries_usage() -> None:
    """
    Be it late, or carried by a person. ledger M5
    """
    way = rivals(stored(NOON - HOUR), stored(NOON))
    way.key.hours[NOON - 2 * HOUR] = stored(NOON - 2 * HOUR, is_open=False)

    assert moment(NOON + HOUR) == way.post(NOON - 2 * HOUR).hour
    way.posting.carry(KEY, NOON - 99 * HOUR, HourState.MONTH_OVER, 5, 1)
    assert [NOON - 2 * HOUR, NOON + HOUR] == [*way.key.hours]


def test_rivals_are_of_another_scheme() -> None:
    """
    Two licenses of one customer are both right. ledger M5
    """
    keys = [
        KeyState(1, OF, billed_as="a"),
        KeyState(2, OF, billed_as="a", has_license=True),
        KeyState(3, OF, billed_as="a", has_license=True),
        KeyState(4, OF, billed_as="b", has_license=True),
        KeyState(5, OF),
    ]
    introduce_rivals(keys)

    assert [[2, 3], [1], [1], [], []] == [[r.key_id for r in key.rivals] for key in keys]


class Compared(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)


def test_rivals_are_found_without_comparing_each_with_each() -> None:
    """
    All customers have both schemes once they have moved to licenses, and all of them bring the
    first usage of an hour at once. ledger M5
    """
    keys = [
        KeyState(n, OF, billed_as=Compared(n // 2), has_license=n % 2 == 1) for n in range(1_000)
    ]
    introduce_rivals(keys)

    assert [[n ^ 1] for n in range(1_000)] == [[r.key_id for r in key.rivals] for key in keys]
    assert Compared.times < 10 * len(keys)


def test_when_a_full_hour_is_sealed_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A key of which each piece fills an hour passes all that are full before, piece by piece.
    """
    asked = 0
    seal_time = OpenHour.seal_time

    def counted(self: OpenHour, rules: PostingRules) -> int:
        nonlocal asked
        asked += 1
        return seal_time(self, rules)

    monkeypatch.setattr(OpenHour, "seal_time", counted)
    way = Way()
    for _ in range(100):
        way.post(quantity=FULL)

    assert 100 == sum(hour.quantity == FULL for hour in way.key.hours.values())
    assert asked < 500


AGES = st.integers(-300, 40 * 24 * HOUR)
WHOLE = st.one_of(st.integers(0, MAX_QUANTITY).map(lambda units: units * UNIT), st.just(FULL))
QUANTITIES = st.one_of(st.integers(0, MOST), st.sampled_from([1, FULL, FULL + 1, MOST]))
NOWS = st.integers(NOON, NOON + 40 * 24 * HOUR)


@given(
    st.lists(st.tuples(AGES, WHOLE | QUANTITIES), max_size=20)
    | st.lists(st.tuples(AGES, WHOLE), max_size=20),
    NOWS,
    st.integers(0, LONGEST_GRACE),
    st.one_of(st.none(), AGES),
)
def test_no_usage_is_lost_or_doubled(
    pieces: Sequence[tuple[int, int]], now: int, grace: int, closed: int | None
) -> None:
    """
    All that came, to the last millionth, is in hours of its month or stranded; no record is too
    large, nor a decimal of whole quantities alone; their stamps lie inside of their hours and of
    the subscription, and they are sealed before their windows close. ledger H10
    """
    rules = evolve(RULES, grace=grace)
    way = Way(now=now, rules=rules, closed_at=None if closed is None else now - closed)
    for age, quantity in pieces:
        added = way.post(now - age, quantity)
        assert added.hour is None or moment(now - age).month == added.hour.month
    hours = way.key.hours.values()
    stranded = sum(quantity for quantity, _ in way.key.stranded.values())

    assert sum(q for _, q in pieces) == sum(h.quantity for h in hours) + stranded
    assert sum(q for _, q in pieces) == way.sums().get(RECORDED, (0, 0))[0]
    assert sum(h.quantity for h in hours) == way.sums().get("open", (0, 0))[0]
    travel_whole = all(q <= FULL and not q % UNIT for _, q in pieces)
    most = FULL if travel_whole else MOST
    assert all(h.quantity <= most and hour_of(h.stamp) == h.hour for h in hours)
    assert all(h.seal_at <= deadline_of(h.stamp) - 300 for h in hours)
    assert closed is None or all(h.stamp <= now - closed for h in hours)
