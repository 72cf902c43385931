"""
Where usage goes: the decisions of the ledger's way in, without a store.

Usage adds to the hour in which it happened while that hour is not sealed. Late usage, and usage
for which an hour has no room left, goes to the first unsealed hour; never over the edge of a month,
and never out of an ended subscription: that ends in a named state.

A store loads what a group of usage touches into a Posting, posts, and writes down what changed, all
in one transaction.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

from attrs import define, field, frozen

from marketplace_metering_async import limits
from marketplace_metering_async.errors import EventConflictError, LateUsageError, MeteringError
from marketplace_metering_async.ledger.model import HourState, Usage, UsageKey
from marketplace_metering_async.records import SECONDS_PER_HOUR

_LAST_SECONDS: Final = 300
"""An hour whose window closes this soon after it would be sealed takes no more usage."""
_ZERO_WAITS: Final = 4 * SECONDS_PER_HOUR
"""Seconds for which an hour of nothing but zeros stays open: a zero locks its hour at zero."""

Late = Literal["carry", "refuse"]


def hour_of(at: int) -> int:
    """Return the start of the clock hour (UTC) of *at*; both in seconds since 1970."""
    return at - at % SECONDS_PER_HOUR


@lru_cache(maxsize=10_000)  # usage comes in seconds that are like each other
def deadline_of(at: int) -> int:
    """Return when the service stops taking a record stamped *at*; both in seconds since 1970."""
    return int(limits.deadline(datetime.fromtimestamp(at, UTC)).timestamp())


def _month_of(at: int) -> tuple[int, int]:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.year, moment.month


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
        quantity: Units in it.
        events: How many pieces of usage are in it.
        stamp: The latest moment of usage in it: the timestamp of its record to be.
        opened_at: When its first usage was added.
        seal_at: When it is due for sealing.
        urgent: Whether it goes out before all others, for the subscription has ended.
        hour_id: Its row; None while it has none.
        changed: Whether it is to be written.
        carried: Origin to units and pieces, of what was added and happened in another hour.
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

    def add(
        self, at: int, quantity: int, now: int, rules: PostingRules, *, events: int = 1
    ) -> None:
        """Add units that were used at *at*, in this hour or in another one."""
        if not self.events:
            self.opened_at = now
        self.quantity += quantity
        self.events += events
        origin = hour_of(at)
        if origin == self.hour:
            moment = at
        else:  # inside this hour, and not before the usage was known
            moment = min(max(now, self.hour), self.hour + SECONDS_PER_HOUR - 1)
            units, pieces = self.carried.get(origin, (0, 0))
            self.carried[origin] = (units + quantity, pieces + events)
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
        return max(over, min(due, deadline_of(self.stamp) - _LAST_SECONDS))


@define
class KeyState:
    """
    A key and its hours from the earliest that usage may touch on.

    Attributes:
        key_id: Its row.
        closed_at: When the customer's subscription ended, or None.
        hours: Hour to what is in it.
        recorded: Units that were added to the key.
        stranded: (origin, state) to units and pieces that no hour carries.
    """

    key_id: int
    closed_at: int | None = None
    hours: dict[int, OpenHour] = field(factory=dict)
    recorded: int = 0
    stranded: dict[tuple[int, HourState], tuple[int, int]] = field(factory=dict)


@frozen
class AddedUsage:
    """
    What became of usage that was added; it is on disk.

    Attributes:
        hour: The start of the hour (UTC) whose record has it; None where none may.
        late: Whether that is another hour than the one in which it happened.
        repeated: Whether the event id was known, so that nothing was added now.
        ended: Why no hour has it (MONTH_OVER, SUBSCRIPTION_OVER); None where one has.
    """

    hour: datetime | None = None
    late: bool = False
    repeated: bool = False
    ended: HourState | None = None


PostingResult = AddedUsage | MeteringError


class Posting:
    """
    A group of usage on its way into the hours of its keys.

    Attributes:
        keys: Key to its state, which post() changes.
        events: Event id to digest, of those that are new.
    """

    def __init__(
        self,
        now: int,
        rules: PostingRules,
        keys: Mapping[UsageKey, KeyState],
        known_events: Mapping[str, bytes],
    ) -> None:
        """Begin with what the store has: of *keys* all hours from the group's earliest on."""
        self._now = now
        self._rules = rules
        self.keys = keys
        self._known = known_events
        self.events: dict[str, bytes] = {}
        self._added: dict[tuple[int, bool], AddedUsage] = {}  # most of a group get the same

    def post(self, usage: Usage) -> PostingResult:
        """Put *usage* where it belongs, and say where that is, or why it is refused."""
        if usage.event_id is not None:
            known = self.events.get(usage.event_id) or self._known.get(usage.event_id)
            if known == usage.digest:
                return AddedUsage(repeated=True)
            if known is not None:
                return EventConflictError(usage.event_id)
        key = self.keys[usage.key]
        place = self._place(usage, key)
        if isinstance(place, LateUsageError):
            return place
        if usage.event_id is not None:
            self.events[usage.event_id] = usage.digest
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
        if ended:
            return HourState.SUBSCRIPTION_OVER
        is_full = in_time and own is not None and own.is_open
        if self._rules.late == "refuse" and not is_full:
            return LateUsageError(datetime.fromtimestamp(usage.at, UTC))
        hour = origin + SECONDS_PER_HOUR if is_full else max(origin, hour_of(self._now))
        place = _first_with_room(key, hour, usage.quantity)
        if _month_of(place) != _month_of(origin):
            return HourState.MONTH_OVER
        return self._hour(key, place, urgent=False)

    def carry(self, key: UsageKey, origin: int, quantity: int, events: int) -> None:
        """Carry stranded units to the first hours from now on with room; a person says so."""
        state = self.keys[key]
        while quantity or events:
            part = min(quantity, limits.MAX_QUANTITY)
            hour = _first_with_room(state, hour_of(self._now), part)
            place = self._hour(state, hour, urgent=False)
            place.add(origin, part, self._now, self._rules, events=events)
            quantity, events = quantity - part, 0

    def _hour(self, key: KeyState, hour: int, *, urgent: bool) -> OpenHour:
        if hour not in key.hours:
            key.hours[hour] = OpenHour(hour, urgent=urgent)
        return key.hours[hour]


def _first_with_room(key: KeyState, hour: int, quantity: int) -> int:
    while (there := key.hours.get(hour)) is not None and not _has_room(there, quantity):
        hour += SECONDS_PER_HOUR
    return hour


def _has_room(hour: OpenHour, quantity: int) -> bool:
    return hour.is_open and hour.quantity + quantity <= limits.MAX_QUANTITY
