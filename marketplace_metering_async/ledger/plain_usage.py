"""
Plain usage: what surely belongs to the hour in which it happened, and is added there blindly.

A process remembers hours as its last careful posting left them (see `posting`), and plans with
that what a group adds to each. It takes nothing that it remembers on trust: whether an hour may be
added to is decided by the hour's own row, as it is when the row is changed, so that memory may be
as old as it likes. What is not plain, or turns out not to be, is posted carefully in the same
transaction, and the outcome is the same in every row as if all had been, in any order.

A store that posts a group in this way, in one transaction,

1. plans with `PlainHours.plan`, and goes the careful way with the whole group where
   `ledger.event_ids_since` is later than `Plan.ids_since`;
2. inserts `Plan.events()` but for ids that are there already, and says `Plan.known` of those;
3. changes, for each of `Plan.parts`, one row in one conditional statement: it adds `quantity` and
   the number of `places`, and raises the stamp to `stamp`, where the row of the key and of the hour
   of `stamp` is open, not urgent, of some events, is due when the rules say so of an hour with its
   own `opened_at` (so that it need not be remembered), and has a quantity above 0 with which the
   sum is at most `Plan.most`; and it says `Plan.miss` of the parts that changed no row, and takes
   out their events;
4. posts `Plan.careful_usage` carefully, if there is any, together with `Plan.sums`, and remembers
   the keys of that posting (`PlainHours.remember`), whether or not the transaction is committed.

Why that condition is enough: an hour that is sealed or removed is not open. The end of a
subscription makes every hour urgent that would be sealed after it, as is the hour that a person
moves usage to of a customer who has left, and usage of those that are sealed before it is as ever
(see OpenHour.end). Usage in an hour of its own that has a row asks neither for rivals nor for what
a copy holds (see Posting). An hour of some quantity stays due when it was, whatever is added.
`most` leaves room for all that the group has for the key, wherever that goes. And keys have random
ids, so that none that is remembered ever means another one: not after a restored backup,
nor after a failover that lost commits.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import define, frozen

from marketplace_metering_async.errors import EventConflictError
from marketplace_metering_async.ledger.hours import hour_of, latest_lost_at
from marketplace_metering_async.ledger.model import HourState, ProductDimension, Usage, UsageKey
from marketplace_metering_async.ledger.open_hours import KeyState, PostingRules
from marketplace_metering_async.ledger.posting import (
    MOST_AHEAD,
    TO_SEND,
    AddedUsage,
    PostingResult,
    added_to,
)
from marketplace_metering_async.ledger.sums import RECORDED, Sum, Sums
from marketplace_metering_async.ledger.whole_dimensions import MOST_WHOLE, WholeDimensions, refusal

_REMEMBERED: Final = 20_000
"""
Hours; beyond that, no more are remembered before the next clock hour, when all may be forgotten. If
they were at once, those who have more keys, and add to one after the other, would find none there.
"""


@frozen(eq=False)
class PlainHour:
    """
    An open hour that is remembered.

    Attributes:
        key: Whose it is.
        key_id: The row of the key.
        of: Where its usage is summed up.
        added: What is said of usage that is added to it.
    """

    key: UsageKey
    key_id: int
    hour: int
    of: ProductDimension
    added: AddedUsage


@define(eq=False)
class PlainPart:
    """
    What a group adds to one hour.

    Attributes:
        into: The hour.
        places: Of the pieces of usage in the group.
        quantity: Millionths, of all of them.
        stamp: The latest moment of them.
    """

    into: PlainHour
    places: list[int]
    quantity: int
    stamp: int

    def add(self, place: int, usage: Usage) -> None:
        """Add a piece of the group."""
        self.places.append(place)
        self.quantity += usage.quantity
        self.stamp = max(self.stamp, usage.at)


class PlainHours:
    """The hours that a process remembers."""

    def __init__(self) -> None:
        """Begin with none."""
        self._hours: dict[tuple[UsageKey, int], PlainHour] = {}
        self._rules: PostingRules | None = None
        self._since = 0  # the clock hour in which it has begun

    def remember(self, keys: Mapping[UsageKey, KeyState], rules: PostingRules, now: int) -> None:
        """Remember the hours of *keys* that were just added to, carefully and by *rules*."""
        this, is_full = hour_of(now), len(self._hours) >= _REMEMBERED
        if rules != self._rules or (is_full and this != self._since):
            self._hours.clear()
            self._rules, self._since = rules, this
        elif is_full:
            return
        for key, state in keys.items():
            for hour in state.hours.values():
                if hour.changed and hour.quantity and hour.events and not hour.urgent:
                    self._hours[key, hour.hour] = PlainHour(
                        key, state.key_id, hour.hour, state.of, added_to(hour.hour)
                    )

    def plan(
        self,
        group: Sequence[Usage],
        now: int,
        rules: PostingRules,
        *,
        since: int = 0,
        whole: WholeDimensions = frozenset(),
        blindly: bool = True,
    ) -> "Plan":
        """
        Return what of *group* is plain, as far as one can know from memory.

        Nothing is that is not to be added *blindly*, nor where ids of events that were added before
        *since* are forgotten, if that is too late for usage of this time: a store may compare
        `Plan.ids_since` later instead. Of *whole* dimensions no fraction is; they matter only where
        some usage of the group `concerns` them.
        """
        lost = latest_lost_at(now + rules.grace + TO_SEND - 1)
        plan = Plan(group, now, self, ids_since=lost - MOST_AHEAD)
        is_valid = blindly and rules == self._rules and since <= plan.ids_since
        remembered = self._hours if is_valid else {}
        twice = _ids_given_twice(group)
        parts: dict[PlainHour, PlainPart] = {}
        for place, usage in enumerate(group):
            into = remembered.get((usage.key, hour_of(usage.at)))
            if (
                into is None
                or into.hour <= lost
                or (twice and usage.event_id in twice)
                or (whole and refusal(usage, whole) is not None)
            ):
                plan.careful.append(place)
            elif (part := parts.get(into)) is not None:
                part.add(place, usage)
            else:
                parts[into] = PlainPart(into, [place], usage.quantity, usage.at)
        plan.parts = [*parts.values()]
        if plan.careful or len({part.into.key_id for part in plan.parts}) < len(plan.parts):
            totals: Counter[UsageKey] = Counter()
            for usage in group:
                totals[usage.key] += usage.quantity
            others = [totals[part.into.key] - part.quantity for part in plan.parts]
            plan.most -= max(others, default=0)
        if too_much := [part for part in plan.parts if part.quantity > plan.most]:
            plan.miss(too_much)  # no hour has room, and it may be no number that a database knows
        return plan

    def forget(self, hour: PlainHour) -> None:
        """Remember an hour no more: its row is another one."""
        self._hours.pop((hour.key, hour.hour), None)


class Plan:
    """
    How a group is posted.

    Attributes:
        now: When, in seconds since 1970.
        careful: The places in the group of what is posted carefully.
        parts: What is added to each plain hour.
        most: Millionths that an hour may have then, so that there is room for others of its key.
        ids_since: In seconds since 1970; where ids of events that were added later are forgotten,
            none of the group is plain.
    """

    def __init__(
        self, group: Sequence[Usage], now: int, memory: PlainHours, *, ids_since: int
    ) -> None:
        self._group = group
        self._memory = memory
        self.now = now
        self._results: dict[int, PostingResult] = {}
        self.careful: list[int] = []
        self.parts: list[PlainPart] = []
        self.most = MOST_WHOLE
        self.ids_since = ids_since

    def events(self) -> dict[str, bytes]:
        """Return the ids of the plain events, each with its digest."""
        return {
            usage.event_id: usage.digest
            for part in self.parts
            for usage in map(self._group.__getitem__, part.places)
            if usage.event_id is not None
        }

    def known(self, digests: Mapping[str, bytes]) -> None:
        """Leave out events that were there, with the digests of what was said of them."""
        for part in self.parts:
            given, part.places = part.places, []
            part.quantity = part.stamp = 0
            for place in given:
                usage = self._group[place]
                if usage.event_id is None or usage.event_id not in digests:
                    part.add(place, usage)
                elif digests[usage.event_id] == usage.digest:
                    self._results[place] = AddedUsage(repeated=True)
                else:
                    self._results[place] = EventConflictError(usage.event_id)
        self.parts = [part for part in self.parts if part.places]

    def miss(self, missed: Sequence[PlainPart]) -> list[str]:
        """Post parts carefully, whose rows are not as they were; return the ids of their events."""
        for part in missed:
            self._memory.forget(part.into)
        others = {id(part) for part in missed}
        self.parts = [part for part in self.parts if id(part) not in others]
        places = [place for part in missed for place in part.places]
        self.careful = sorted([*self.careful, *places])
        names = [self._group[place].event_id for place in places]
        return [name for name in names if name is not None]

    def careful_usage(self) -> list[Usage]:
        """Return what is posted carefully, in its order."""
        return [self._group[place] for place in self.careful]

    def sums(self) -> list[Sum]:
        """Return how the plain parts change the kept sums."""
        found: dict[ProductDimension, tuple[int, int]] = {}
        for part in self.parts:
            quantity, latest = found.get(part.into.of, (0, 0))
            found[part.into.of] = (quantity + part.quantity, max(latest, part.stamp))
        sums = Sums()
        for of, (quantity, latest) in found.items():
            sums.add(of, HourState.OPEN, quantity)
            sums.add(of, RECORDED, quantity, latest=latest)
        return sums.changes()

    def results(self, careful: Sequence[PostingResult]) -> list[PostingResult]:
        """Return one result for each piece of the group, with those of what went carefully."""
        for place, result in zip(self.careful, careful, strict=True):
            self._results[place] = result
        for part in self.parts:
            for place in part.places:
                self._results[place] = part.into.added
        return [self._results[place] for place in range(len(self._group))]


def _ids_given_twice(group: Sequence[Usage]) -> set[str]:
    names = [usage.event_id for usage in group if usage.event_id is not None]
    if len({*names}) == len(names):
        return set()
    return {name for name, times in Counter(names).items() if times > 1}
