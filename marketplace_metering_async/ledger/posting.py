"""
Where usage goes: the decisions of the ledger's way in, without a store.

Usage adds to the hour in which it happened while that hour is not sealed. Late usage, and usage
for which an hour has no room left, goes to the first unsealed hour; never over the edge of a month,
never out of an ended subscription, and not where the ledger that this is a copy of may have metered
it: that ends in a named state.

A store loads what a group of usage touches into a Posting, posts, and writes down its changes, all
in one transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from attrs import define, field, frozen

from marketplace_metering_async.errors import EventConflictError, LateUsageError, MeteringError
from marketplace_metering_async.ledger.hours import deadline_of, hour_of, month_of
from marketplace_metering_async.ledger.model import HourState, ProductDimension, Usage, UsageKey
from marketplace_metering_async.ledger.sums import RECORDED, Sum, Sums
from marketplace_metering_async.ledger.watermark import UNKNOWN
from marketplace_metering_async.ledger.whole_dimensions import WholeDimensions, refusal
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY, MAX_QUANTITY
from marketplace_metering_async.quantities import MILLION, millionths, of_millionths, travels_whole
from marketplace_metering_async.records import SECONDS_PER_HOUR

_LAST_SECONDS: Final = 300
"""An hour whose window closes this soon after it would be sealed takes no more usage."""
_ZERO_WAITS: Final = 4 * SECONDS_PER_HOUR
"""Seconds for which an hour of nothing but zeros stays open: a zero locks its hour at zero."""

_MOST_WHOLE: Final = millionths(MAX_QUANTITY)
_MOST: Final = millionths(MAX_DECIMAL_QUANTITY)

Late = Literal["carry", "refuse"]


@frozen
class PostingRules:
    """
    What whoever opens a ledger chooses.

    Attributes:
        grace: Seconds between an hour's end, or its first usage, and its sealing.
        late: Whether late usage is carried to another hour or refused.
    """

    grace: int = 600
    late: Late = "carry"


@define
class OpenHour:
    """
    An hour of a key, as far as usage is concerned.

    Attributes:
        hour: Its start, in seconds since 1970.
        is_open: Whether it takes usage.
        quantity: Millionths in it.
        events: How many pieces of usage are in it.
        stamp: The latest moment of usage in it: the timestamp of its record to be.
        opened_at: When its first usage was added.
        seal_at: When it is due for sealing.
        urgent: Whether it goes out before all others, for the subscription has ended.
        hour_id: Its row; None while it has none.
        changed: Whether it is to be written.
        carried: Origin to millionths and pieces, of what was added and happened in another hour.
        added: Millionths that were added now.
    """

    hour: int
    is_open: bool = True
    quantity: int = 0
    events: int = 0
    stamp: int = 0
    opened_at: int = 0
    seal_at: int = 0
    urgent: bool = False
    hour_id: int | None = None
    changed: bool = False
    carried: dict[int, tuple[int, int]] = field(factory=dict)
    added: int = 0

    def add(
        self, at: int, quantity: int, now: int, rules: PostingRules, *, events: int = 1
    ) -> None:
        """Add millionths that were used at *at*, in this hour or in another one."""
        if not self.events:
            self.opened_at = now
        self.quantity += quantity
        self.added += quantity
        self.events += events
        origin = hour_of(at)
        if origin == self.hour:
            moment = at
        else:  # inside this hour, and not before the usage was known
            moment = min(max(now, self.hour), self.hour + SECONDS_PER_HOUR - 1)
            amount, pieces = self.carried.get(origin, (0, 0))
            self.carried[origin] = (amount + quantity, pieces + events)
        self.stamp = max(self.stamp, moment)
        self.seal_at = self._seal_time(now, rules)
        self.changed = True

    def _seal_time(self, now: int, rules: PostingRules) -> int:
        if self.urgent:
            return now
        over = self.hour + SECONDS_PER_HOUR
        due = max(over, self.opened_at) + rules.grace
        if not self.quantity:
            due = max(due, over + _ZERO_WAITS)
        return min(due, deadline_of(self.stamp) - _LAST_SECONDS)


@define
class KeyState:
    """
    A key and its hours from the earliest that usage may touch on.

    Attributes:
        key_id: Its row.
        of: Where its usage is summed up.
        closed_at: When the customer's subscription ended, or None.
        hours: Hour to what is in it.
        recorded: Millionths that were added to the key.
        stranded: (origin, state) to millionths and pieces that no hour carries.
        held_through: Usage up to then may be metered already; None in a ledger that is no copy.
    """

    key_id: int
    of: ProductDimension
    closed_at: int | None = None
    hours: dict[int, OpenHour] = field(factory=dict)
    recorded: int = 0
    stranded: dict[tuple[int, HourState], tuple[int, int]] = field(factory=dict)
    held_through: int | None = None


@frozen
class Changes:
    """
    What a posting changes: rows for a store to write, each in the order that is named.

    Attributes:
        grown_hours: quantity, events, stamp, opened_at, seal_at, hour_id.
        new_hours: key_id, hour, urgent, quantity, events, stamp, opened_at, seal_at.
        carried: key_id, hour, origin, quantity, events; to add to what is there.
        stranded: key_id, origin, state, quantity, events, since; to add to what is there.
        events: event_id, digest, added_at.
        sums: To add to the kept ones.
    """

    grown_hours: list[tuple[int, int, int, int, int, int]] = field(factory=list)
    new_hours: list[tuple[int, int, int, int, int, int, int, int]] = field(factory=list)
    carried: list[tuple[int, int, int, int, int]] = field(factory=list)
    stranded: list[tuple[int, int, str, int, int, int]] = field(factory=list)
    events: list[tuple[str, bytes, int]] = field(factory=list)
    sums: list[Sum] = field(factory=list)

    def add_hour(self, key: KeyState, hour: OpenHour) -> bool:
        """Note an hour of a key that has changed; return whether it is new."""
        figures = (hour.quantity, hour.events, hour.stamp, hour.opened_at, hour.seal_at)
        for origin, (quantity, events) in hour.carried.items():
            self.carried.append((key.key_id, hour.hour, origin, quantity, events))
        if hour.hour_id is not None:
            self.grown_hours.append((*figures, hour.hour_id))
            return False
        self.new_hours.append((key.key_id, hour.hour, int(hour.urgent), *figures))
        return True


@frozen
class AddedUsage:
    """
    What became of usage that was added; it is on disk.

    Attributes:
        hour: The start of the hour (UTC) whose record has it; None where none may.
        late: Whether that is another hour than the one in which it happened.
        repeated: Whether the event id was known, so that nothing was added now.
        ended: Why no hour has it (MONTH_OVER, SUBSCRIPTION_OVER, and in a copy UNCONFIRMED); None
            where one has.
    """

    hour: datetime | None = None
    late: bool = False
    repeated: bool = False
    ended: HourState | None = None


PostingResult = AddedUsage | MeteringError


class Posting:
    """A group of usage on its way into the hours of its keys."""

    def __init__(
        self,
        now: int,
        rules: PostingRules,
        keys: Mapping[UsageKey, KeyState],
        known_events: Mapping[str, bytes],
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
        self._known = known_events
        self._whole = whole
        self._events: dict[str, bytes] = {}  # those that are new
        self._sums = Sums(sums)
        self._added: dict[tuple[int, bool], AddedUsage] = {}  # most of a group get the same

    def post(self, usage: Usage) -> PostingResult:
        """Put *usage* where it belongs, and say where that is, or why it is refused."""
        if usage.event_id is not None:
            known = self._events.get(usage.event_id) or self._known.get(usage.event_id)
            if known == usage.digest:
                return AddedUsage(repeated=True)
            if known is not None:
                return EventConflictError(usage.event_id)
        if self._whole and (refused := refusal(usage, self._whole)) is not None:
            return refused
        key = self._keys[usage.key]
        place = self._place(usage, key)
        if isinstance(place, LateUsageError):
            return place
        if usage.event_id is not None:
            self._events[usage.event_id] = usage.digest
        key.recorded += usage.quantity
        origin = hour_of(usage.at)
        if isinstance(place, HourState):
            quantity, events = key.stranded.get((origin, place), (0, 0))
            key.stranded[origin, place] = (quantity + usage.quantity, events + 1)
            return AddedUsage(ended=place)
        place.add(usage.at, usage.quantity, self._now, self._rules)
        return self._added_to(place.hour, late=place.hour != origin)

    def _added_to(self, hour: int, *, late: bool) -> AddedUsage:
        added = self._added.get((hour, late))
        if added is None:
            added = AddedUsage(hour=datetime.fromtimestamp(hour, UTC), late=late)
            self._added[hour, late] = added
        return added

    def _place(self, usage: Usage, key: KeyState) -> OpenHour | HourState | LateUsageError:
        origin = hour_of(usage.at)
        ended = key.closed_at is not None
        if key.closed_at is not None and usage.at > key.closed_at:
            return HourState.SUBSCRIPTION_OVER
        in_time = self._now + self._rules.grace + _LAST_SECONDS < deadline_of(usage.at)
        own = key.hours.get(origin)
        if in_time and (own is None or _has_room(own, usage.quantity)):
            return self._hour(key, origin, urgent=ended)
        if key.held_through is not None and origin <= key.held_through < UNKNOWN:
            return HourState.UNCONFIRMED  # another hour may have it already, and is metered
        if ended:
            return HourState.SUBSCRIPTION_OVER
        is_full = in_time and own is not None and own.is_open
        if self._rules.late == "refuse" and not is_full:
            return LateUsageError(datetime.fromtimestamp(usage.at, UTC))
        hour = origin + SECONDS_PER_HOUR if is_full else max(origin, hour_of(self._now))
        place = _first_with_room(key, hour, usage.quantity)
        if month_of(place) != month_of(origin):
            return HourState.MONTH_OVER
        return self._hour(key, place, urgent=False)

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
        most = _MOST if quantity % MILLION else _MOST_WHOLE
        first = _first_with_room(into, hour_of(self._now), min(quantity, most))
        while quantity or events:
            part = min(quantity, most)
            hour = _first_with_room(into, hour_of(self._now), part)
            place = self._hour(into, hour, urgent=False)
            place.add(origin, part, self._now, self._rules, events=events)
            quantity, events = quantity - part, 0
        return first

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

    def _hour(self, key: KeyState, hour: int, *, urgent: bool) -> OpenHour:
        if hour not in key.hours:
            key.hours[hour] = OpenHour(hour, urgent=urgent)
        return key.hours[hour]


def _first_with_room(key: KeyState, hour: int, quantity: int) -> int:
    while (there := key.hours.get(hour)) is not None and not _has_room(there, quantity):
        hour += SECONDS_PER_HOUR
    return hour


def _has_room(hour: OpenHour, quantity: int) -> bool:
    """Whole quantities add up to what still travels whole; others to what a record can say."""
    total = hour.quantity + quantity
    if total > _MOST_WHOLE and _travels_whole(hour.quantity) and _travels_whole(quantity):
        return False
    return hour.is_open and total <= _MOST


def _travels_whole(quantity: int) -> bool:
    return travels_whole(of_millionths(quantity))
