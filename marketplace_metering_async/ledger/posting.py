"""
Where usage goes: the decisions of the ledger's way in, without a store.

Usage adds to the hour in which it happened while that hour is not sealed. Late usage, and usage
for which an hour has no room left, goes to the first unsealed hour after it whose window stays open
long enough; never over the edge of a month, never out of an ended subscription, and not where the
ledger that this is a copy of may have metered it: what fits in none ends in a named state.

A store loads what a group of usage touches into a Posting, posts, and writes down its changes, all
in one transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from secrets import randbits
from typing import Final, NamedTuple

from attrs import field, frozen

from marketplace_metering_async.errors import (
    EventConflictError,
    EventTooOldError,
    LateUsageError,
    MeteringError,
)
from marketplace_metering_async.ledger.hours import hour_of, last_hour_of_month, latest_lost_at
from marketplace_metering_async.ledger.model import HourState, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import KeyState, OpenHour, PostingRules
from marketplace_metering_async.ledger.sums import RECORDED, Sum, Sums
from marketplace_metering_async.ledger.watermark import UNKNOWN
from marketplace_metering_async.ledger.whole_dimensions import MOST_WHOLE, WholeDimensions, refusal
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY
from marketplace_metering_async.quantities import MILLION, millionths, of_millionths, travels_whole
from marketplace_metering_async.records import SECONDS_PER_HOUR, utc_of

TO_SEND: Final = SECONDS_PER_HOUR
"""Seconds beyond the grace for which the window of an hour that takes late usage is to be open."""
_AT_LEAST: Final = 300
"""The same where there is no such hour: what may be too late is lost otherwise."""
MOST_AHEAD: Final = 300
"""Seconds by which usage may be ahead of our clock: as far as those of several machines differ."""

_MOST: Final = millionths(MAX_DECIMAL_QUANTITY)


class Wanted(NamedTuple):
    """
    What a posting asks for of a key.

    Attributes:
        license_product: Of a license that is new, with whom its records may share a request.
        first: The earliest hour that it looks at.
        lost: Hours before that, of usage that they cannot take any more: all that matters of them
            is whether another scheme has them.
    """

    license_product: str
    first: int
    lost: frozenset[int] = frozenset()


def wanted_by(group: Iterable[Usage], now: int) -> dict[UsageKey, Wanted]:
    """
    Return what *group* asks for, of each key for itself: one late event reads one key's past.

    Nothing is read of hours whose windows are closed, however much of its past a group brings.
    """
    first = hour_of(latest_lost_at(now))
    wanted: dict[UsageKey, Wanted] = {}
    lost: dict[UsageKey, set[int]] = {}
    for usage in group:
        hour, before = hour_of(usage.at), wanted.get(usage.key)
        if hour < first:
            lost.setdefault(usage.key, set()).add(hour)
            hour = first
        if before is None:
            wanted[usage.key] = Wanted(usage.license_product, hour)
        elif hour < before.first:
            wanted[usage.key] = before._replace(first=hour)
    for key, hours in lost.items():
        wanted[key] = wanted[key]._replace(lost=frozenset(hours))
    return wanted


def first_hours(
    keys: Mapping[UsageKey, KeyState], wanted: Mapping[UsageKey, Wanted]
) -> dict[int, int]:
    """Return the earliest hour to load by key_id; rivals are looked at from the same hour on."""
    firsts = {keys[key].key_id: one.first for key, one in wanted.items()}
    for key in map(keys.__getitem__, wanted):
        for rival in key.rivals:
            first = firsts[key.key_id]
            firsts[rival.key_id] = min(first, firsts.get(rival.key_id, first))
    return firsts


def lost_hours(
    keys: Mapping[UsageKey, KeyState], wanted: Mapping[UsageKey, Wanted]
) -> list[tuple[int, int]]:
    """Return key_id and start of each lost hour to load: of keys with rivals, and of these."""
    return sorted(
        {
            (one.key_id, hour)
            for key, asked in wanted.items()
            for one in (keys[key], *keys[key].rivals)
            if keys[key].rivals
            for hour in asked.lost
        }
    )


def new_key(name: str, key: UsageKey, license_product: str) -> tuple[int | str | None, ...]:
    """
    Return the row of a key: key_id, name, its five parts, license_product, billed_as.

    Its id is drawn, and so is never another one's, even after a failover that lost commits.
    """
    return (randbits(63), name, *key, license_product, key.billed_as(license_product))


def introduce_rivals(keys: Iterable[KeyState]) -> None:
    """Let *keys* of different schemes that are billed twice know of each other."""
    of_scheme: dict[tuple[str, bool], list[KeyState]] = {}
    for key in keys:
        if key.billed_as is not None:
            of_scheme.setdefault((key.billed_as, key.has_license), []).append(key)
    for (billed_as, has_license), some in of_scheme.items():
        for key in some:
            key.rivals = of_scheme.get((billed_as, not has_license), [])


@frozen
class Changes:
    """
    What a posting changes: rows for a store to write, each in the order that is named.

    Attributes:
        grown_hours: urgent, quantity, events, stamp, opened_at, seal_at, hour_id.
        new_hours: urgent, quantity, events, stamp, opened_at, seal_at, key_id, hour.
        removed_hours: hour_ids; with what they carried.
        carried: key_id, hour, origin, quantity, events; to add to what is there.
        stranded: key_id, origin, state, quantity, events, since; to add to what is there.
        events: event_id, digest, added_at.
        sums: To add to the kept ones.
    """

    grown_hours: list[tuple[int, int, int, int, int, int, int]] = field(factory=list)
    new_hours: list[tuple[int, int, int, int, int, int, int, int]] = field(factory=list)
    removed_hours: list[int] = field(factory=list)
    carried: list[tuple[int, int, int, int, int]] = field(factory=list)
    stranded: list[tuple[int, int, str, int, int, int]] = field(factory=list)
    events: list[tuple[str, bytes, int]] = field(factory=list)
    sums: list[Sum] = field(factory=list)

    def add_hour(self, key: KeyState, hour: OpenHour) -> int:
        """Note an hour of a key that has changed; return how many more hours there are by it."""
        for origin, (quantity, events) in hour.carried.items():
            self.carried.append((key.key_id, hour.hour, origin, quantity, events))
        figures = (
            int(hour.urgent),
            hour.quantity,
            hour.events,
            hour.stamp,
            hour.opened_at,
            hour.seal_at,
        )
        if hour.hour_id is None:
            self.new_hours.append((*figures, key.key_id, hour.hour))
            return 1
        if hour.removed:
            self.removed_hours.append(hour.hour_id)
            return -1
        self.grown_hours.append((*figures, hour.hour_id))
        return 0


@frozen
class KnownEvents:
    """
    What is known of the events of a group.

    Attributes:
        digests: Their ids, to what was said of them.
        since: Ids of events that were added before are forgotten.
    """

    digests: Mapping[str, bytes] = field(factory=dict)
    since: int = 0


@frozen
class AddedUsage:
    """
    What became of usage that was added; it is on disk.

    Of usage in a caller's transaction: what becomes of it, as it looks before that is committed.

    Attributes:
        hour: The start of the hour (UTC) whose record has it; None where none may.
        late: Whether that is another hour than the one in which it happened.
        repeated: Whether the event id was known, so that nothing was added now.
        ended: Why no hour has it (MONTH_OVER, SUBSCRIPTION_OVER, OTHER_SCHEME, and in a copy
            UNCONFIRMED); None where one has.
    """

    hour: datetime | None = None
    late: bool = False
    repeated: bool = False
    ended: HourState | None = None


PostingResult = AddedUsage | MeteringError


@lru_cache(maxsize=1_000)  # most of a group get the same
def added_to(hour: int, *, late: bool = False) -> AddedUsage:
    """Return what is said of usage that an hour has."""
    return AddedUsage(hour=utc_of(hour), late=late)


class Posting:
    """A group of usage on its way into the hours of its keys."""

    def __init__(
        self,
        now: int,
        rules: PostingRules,
        keys: Mapping[UsageKey, KeyState],
        known: KnownEvents | None = None,
        sums: Sequence[Sum] = (),
        *,
        whole: WholeDimensions = frozenset(),
    ) -> None:
        """
        Begin with what the store has: of *keys* all hours from the group's earliest on.

        *sums* are changes of another kind, to be written together. Of *whole* dimensions no
        fraction is taken.
        """
        self._now = now
        self._rules = rules
        self._keys = keys
        self._known = known or KnownEvents()
        self._whole = whole
        self._events: dict[str, bytes] = {}  # those that are new
        self._sums = Sums(sums)

    def post(self, usage: Usage) -> PostingResult:
        """Put *usage* where it belongs, and say where that is, or why it is refused."""
        if usage.event_id is not None:
            name = usage.event_id
            known = self._events.get(name) or self._known.digests.get(name)
            if known == usage.digest:
                return AddedUsage(repeated=True)
            if known is not None:
                return EventConflictError(name)
            if usage.at < self._known.since + MOST_AHEAD:
                return EventTooOldError(name, utc_of(self._known.since))
        if self._whole and (refused := refusal(usage, self._whole)) is not None:
            return refused
        key = self._keys[usage.key]
        if self._rules.late == "refuse" and self._is_late(key, usage.at):
            return LateUsageError(utc_of(usage.at))
        if usage.event_id is not None:
            self._events[usage.event_id] = usage.digest
        key.recorded += usage.quantity
        place = self._put(key, usage.at, usage.quantity)
        if isinstance(place, HourState):
            return AddedUsage(ended=place)
        return added_to(place.hour, late=place.hour != hour_of(usage.at))

    def _put(self, key: KeyState, at: int, quantity: int, events: int = 1) -> OpenHour | HourState:
        """Put millionths where they belong, and return where that is."""
        place = self._place(key, at, quantity)
        if isinstance(place, OpenHour):
            place.add(at, quantity, self._now, self._rules, events=events, closed_at=key.closed_at)
            return place
        origin = hour_of(at)
        had, pieces = key.stranded.get((origin, place), (0, 0))
        key.stranded[origin, place] = (had + quantity, pieces + events)
        return place

    def _place(self, key: KeyState, at: int, quantity: int) -> OpenHour | HourState:
        """
        Return the first hour from that of *at* on that has room, or why none does.

        One that leaves time to send it, rather than one that hardly does; where late usage is
        refused, its own one in any case.
        """
        origin = hour_of(at)
        if _is_after(key, at):
            return HourState.SUBSCRIPTION_OVER
        if _is_rivals(key, origin):
            return HourState.OTHER_SCHEME
        last, over = last_hour_of_month(origin), HourState.MONTH_OVER
        if key.closed_at is not None and hour_of(key.closed_at) <= last:
            last, over = hour_of(key.closed_at), HourState.SUBSCRIPTION_OVER
        for spare in (TO_SEND, _AT_LEAST) if self._rules.late == "carry" else (_AT_LEAST,):
            hour, first = origin, hour_of(latest_lost_at(self._now + spare - 1))
            while hour <= last:
                # Whether it is full is asked first: a month of hours is, where a key has so much.
                takes = _takes(key, hour, quantity)
                found = self._unsealed(key, hour, at, spare) if takes else None
                if found is not None:
                    return key.hours.setdefault(hour, found)
                if _is_held(key, at):
                    break
                hour = max(hour + SECONDS_PER_HOUR, first)
        # In a copy, another hour may have it already, and be metered.
        return HourState.UNCONFIRMED if _is_held(key, at) else over

    def _is_late(self, key: KeyState, at: int) -> bool:
        is_to_be_carried = self._unsealed(key, hour_of(at), at, _AT_LEAST) is None
        return is_to_be_carried and not (_is_after(key, at) or _is_held(key, at))

    def _unsealed(self, key: KeyState, hour: int, at: int, spare: int) -> OpenHour | None:
        """Return an hour, a new one too, if it is unsealed and can be sent with time to *spare*."""
        found = key.hours.get(hour) or OpenHour(hour)
        stamp = max(found.stamp, found.moment_of(at, self._now, key.closed_at))
        lost_at = latest_lost_at(self._sealed_by(key, found) + spare - 1)
        return found if found.is_open and stamp > lost_at else None

    def _sealed_by(self, key: KeyState, hour: OpenHour) -> int:
        """Return when an hour that takes usage now is sealed at the latest; it may be due now."""
        has_ended = key.closed_at is not None and key.closed_at <= self._now
        begun_now = self._now + (0 if has_ended else self._rules.grace)
        if not hour.events:
            return begun_now
        return min(begun_now, max(self._now, hour.seal_time(self._rules)))

    def carry(
        self, key: UsageKey, origin: int, state: HourState, quantity: int, events: int
    ) -> int:
        """
        Carry stranded millionths to the first hours from now on with room; a person says so.

        *state* is the one that they are in no more.

        Returns: the start of the first of the hours.
        """
        into = self._keys[key]
        self._sums.add(into.of, state, -quantity)
        most = _MOST if quantity % MILLION else MOST_WHOLE
        first = _first_with_room(into, hour_of(self._now), min(quantity, most))
        while quantity or events:
            part = min(quantity, most)
            hour = _first_with_room(into, hour_of(self._now), part)
            place = into.hours.setdefault(hour, OpenHour(hour))
            place.add(origin, part, self._now, self._rules, events=events)
            place.urgent |= into.closed_at is not None  # and nothing is added to it blindly
            quantity, events = quantity - part, 0
        return first

    def close(self, key: UsageKey, closed_at: int) -> int:
        """
        End a key's subscription; return how many of its hours are to be sealed by then.

        What later hours have goes back where it may have come from, or is stranded.
        """
        state = self._keys[key]
        state.closed_at = closed_at
        unsealed = [hour for hour in state.hours.values() if hour.is_open]
        last_ones = [hour for hour in unsealed if hour.hour <= closed_at]
        for hour in last_ones:
            if hour.urgent:  # it was to end at another moment
                hour.go_on(self._rules)
            hour.end(closed_at, self._now)
        for hour in unsealed:
            if hour.hour > closed_at:
                for origin, (quantity, events) in hour.take_out().items():
                    self._put(state, origin, quantity, events)
        return len(last_ones)

    def reopen(self, key: UsageKey) -> None:
        """Let a key's subscription go on: its hours take usage until they are sealed as ever."""
        for hour in self._keys[key].hours.values():
            if hour.is_open and hour.urgent:
                hour.go_on(self._rules)

    def changes(self) -> Changes:
        """Return what a store has to write down, now that all is posted."""
        sums = Sums(self._sums.changes())
        changes = Changes(
            events=[(name, digest, self._now) for name, digest in self._events.items()]
        )
        for key in self._keys.values():
            added = latest = new = 0
            for hour in key.hours.values():
                if hour.changed:
                    added += hour.added
                    latest = max(latest, hour.stamp)
                    new += changes.add_hour(key, hour)
            sums.add(key.of, HourState.OPEN, added, new)
            sums.add(key.of, RECORDED, key.recorded, latest=latest)
            for (origin, state), (quantity, events) in key.stranded.items():
                row = (key.key_id, origin, state, quantity, events, self._now)
                changes.stranded.append(row)
                sums.add(key.of, state, quantity)
        changes.sums.extend(sums.changes())
        return changes


def _first_with_room(key: KeyState, hour: int, quantity: int) -> int:
    while not _takes(key, hour, quantity):
        hour += SECONDS_PER_HOUR
    return hour


def _takes(key: KeyState, hour: int, quantity: int) -> bool:
    there = key.hours.get(hour)
    return not _is_rivals(key, hour) if there is None else _has_room(there, quantity)


def _is_rivals(key: KeyState, hour: int) -> bool:
    """Whether another scheme has the hour, and had it first."""
    return hour not in key.hours and any(hour in rival.hours for rival in key.rivals)


def _is_held(key: KeyState, at: int) -> bool:
    """Whether the ledger that this is a copy of may have metered it."""
    return key.held_through is not None and hour_of(at) <= key.held_through < UNKNOWN


def _is_after(key: KeyState, at: int) -> bool:
    return key.closed_at is not None and at > key.closed_at


def _has_room(hour: OpenHour, quantity: int) -> bool:
    """Whole quantities add up to what still travels whole; others to what a record can say."""
    total = hour.quantity + quantity
    if total > MOST_WHOLE and _travels_whole(hour.quantity) and _travels_whole(quantity):
        return False
    return hour.is_open and total <= _MOST


@lru_cache(maxsize=1_000)
def _travels_whole(quantity: int) -> bool:
    return travels_whole(of_millionths(quantity))
